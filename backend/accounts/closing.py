"""Close an account and ask for its erasure: from the app, from a mailed link, by the data manager; take it back."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, select, update

from backend import clock
from backend.accounts import audit
from backend.accounts.audit import Actor
from backend.accounts.credentials import (
    OPEN,
    ask_password_again,
    is_as,
    lock_address,
    note_proof,
    redeem_for,
    take_address,
    tell_previous_addresses,
    tell_reopened,
)
from backend.accounts.sessions import Viewer, account_columns
from backend.config import settings
from backend.database.engine import AnyRow, db, transaction
from backend.database.models import Account, Hold, Session, with_hold
from backend.errors import InvalidToken, Unauthenticated
from backend.mail import mailboxes, queue
from backend.security.throttle import throttle
from backend.security.tokens import Purpose


@dataclass(frozen=True, slots=True)
class Closed:
    """When an account was closed, and from when on it is erased; None: not before somebody asks for it.

    A legal hold is taken into account.
    """

    closed_at: datetime
    erase_after: datetime | None


def close(viewer: Viewer, *, password: str, erase: bool, client: str | None) -> Closed:
    """Close the viewer's account, every session of which ends; with `erase`, have it erased after the grace period.

    Raises:
        WrongPassword: the password asked for again is another.
        Unauthenticated: the account was closed or got another password meanwhile.
    """
    account = ask_password_again(viewer, password, client)
    with transaction():
        closed = shut(account, erase=erase, actor="person")
    if closed is None:
        raise Unauthenticated
    return closed


def request_erasure(*, email: str, client: str | None) -> None:
    """Have a link mailed with which the account can be erased, if the address has or had one.

    Whether it has one is looked up when the mail is sent, not here.
    """
    throttle().charge("erasure-request", client=client, address=email)
    queue.accept("erasure_request", email=email)


def confirm_erasure(*, token: str, client: str | None) -> Closed:
    """Close the account that a mailed link stands for, and have it erased after the grace period.

    Accounts that the same address had before are erased with it.

    Raises:
        InvalidToken: the link does not work, or worked before.
    """
    throttle().charge("token", client=client)
    account, _ = redeem_for(Purpose.ERASURE, token)
    with transaction() as session:
        lock_address(account.email)
        closed = shut(account, erase=True, actor="person")
        if closed is None:
            raise InvalidToken
        earlier = (
            Account.is_closed_with(account.email)
            & (Account.id != account.id)
            & Account.erasure_requested_at.is_(None)
        )  # fmt: skip
        for other in session.execute(select(*account_columns()).where(earlier)).all():
            shut(other, erase=True, actor="person")
    return closed


def cancel(*, token: str, client: str | None) -> None:
    """Open the account again that the link of a closing mail stands for, as it was before.

    Raises:
        InvalidToken: the link does not work, worked before, or the erasure has begun.
        EmailInUse: the address has got a new account meanwhile.
    """
    throttle().charge("token", client=client)
    account, _ = redeem_for(Purpose.ERASURE_CANCEL, token)
    with transaction():
        take_address(account, account.email, **OPEN)
        tell_previous_addresses(account.id)
        note_proof(account.email, client)
        tell_reopened(account.id)


def shut(account: AnyRow, *, erase: bool, actor: Actor, grace: timedelta | None = None) -> Closed | None:
    """In the caller's transaction: close an account as it was read, or have a closed one erased, and tell by mail.

    None when the account has changed since, by whatever.
    """
    now = clock.now()
    # A new credentials_id ends every session and link, also should the account be opened again.
    values: dict[str, Any] = {"credentials_id": uuid.uuid4(), "closed_at": account.closed_at or now}
    if erase:
        due = now + (timedelta(days=settings().erasure_grace_days) if grace is None else grace)
        values["erasure_requested_at"] = func.coalesce(Account.erasure_requested_at, now)
        values["erase_after"] = case((Account.erase_after < due, Account.erase_after), else_=due)
    elif account.closed_at is None and (days := settings().closed_retention_days):
        values["erase_after"] = now + timedelta(days=days)
    closing = update(Account).where(is_as(account)).values(**values)
    row = db.session.execute(closing.returning(Account.closed_at, Account.erase_after)).one_or_none()
    if row is None:
        return None
    db.session.execute(delete(Session).where(Session.account_id == account.id))
    queue.enqueue("account_closed", account_id=account.id)
    mailboxes.give_back(account.email)
    tell_previous_addresses(account.id)
    if account.closed_at is None:
        audit.note("closed", account.id, actor=actor)
    if erase:
        audit.note("erasure-requested", account.id, actor=actor, due=f"{row.erase_after:%Y-%m-%d}")
    held_until = db.session.scalar(select(Hold.latest(now)).select_from(Account).where(Account.id == account.id))
    return Closed(row.closed_at, with_hold(row.erase_after, held_until))
