"""Close an account, have it erased after the grace period, and open it again while that waits."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, select, update

from backend import clock
from backend.accounts import audit, credentials, previous_addresses
from backend.accounts.audit import Actor
from backend.accounts.sessions import Viewer, account_columns
from backend.config import settings
from backend.database.engine import AnyRow, db, transaction
from backend.database.models import Account, Hold, Session, with_hold
from backend.errors import InvalidToken, Unauthenticated
from backend.mail import mailboxes, queue
from backend.security import throttle
from backend.security.tokens import Purpose

# The values of these columns in an open account.
OPEN: dict[str, Any] = {"closed_at": None, "erasure_requested_at": None, "erase_after": None}


@dataclass(frozen=True, slots=True)
class AccountClosure:
    """When an account was closed, and when it is erased; null if it is kept until somebody asks."""

    closed_at: clock.Moment
    erase_after: clock.Moment | None


def close(viewer: Viewer, *, password: str, erase: bool, client: str | None) -> AccountClosure:
    """Close the viewer's account and end its sessions; with `erase`, have it erased after the grace period."""
    account = credentials.check_current_password(viewer, password, client)
    with transaction():
        closed = close_account(account, erase=erase, actor="person")
    if closed is None:
        raise Unauthenticated
    return closed


def request_erasure(*, email: str, client: str | None) -> None:
    """Email an erasure link if the address has or had an account, which only the mail worker looks up."""
    throttle.charge("erasure-request", client=client, address=email)
    queue.accept("erasure_request", email=email)


def confirm_erasure(*, token: str, client: str | None) -> AccountClosure:
    """Close the account of an emailed link, and have it and earlier accounts of its address erased."""
    account, _ = credentials.redeem_for(Purpose.ERASURE, token, client)
    with transaction() as session:
        credentials.lock_address(account.email)
        closed = close_account(account, erase=True, actor="person")
        if closed is None:
            raise InvalidToken
        earlier = (
            Account.is_closed_with(account.email)
            & (Account.id != account.id)
            & Account.erasure_requested_at.is_(None)
        )  # fmt: skip
        for other in session.execute(select(*account_columns()).where(earlier)).all():
            close_account(other, erase=True, actor="person")
    return closed


def cancel(*, token: str, client: str | None) -> None:
    """Open a closed account again, as it was before, with the link of its closing email."""
    account, _ = credentials.redeem_for(Purpose.ERASURE_CANCEL, token, client)
    with transaction():
        reopen_account(account, actor="person")
        credentials.note_mailbox_proven(account.email, client)


def reopen_account(account: AnyRow, *, actor: Actor) -> None:
    """In the caller's transaction: open a closed account again, and queue an email about it.

    Raises:
        InvalidToken: the account has changed since it was read.
        EmailInUse: another open account has the address.
    """
    credentials.take_address(account, account.email, **OPEN)
    previous_addresses.notify(account.id)
    notify_reopened(account.id, actor)


def notify_reopened(account_id: uuid.UUID, actor: Actor = "person") -> None:
    """In the caller's transaction: record that the account is open again, and email it."""
    queue.enqueue("account_reopened", account_id=account_id)
    audit.record("reopened", account_id, actor=actor)


def close_account(
    account: AnyRow, *, erase: bool, actor: Actor, grace: timedelta | None = None
) -> AccountClosure | None:
    """In the caller's transaction: close an account, or have a closed one erased, and queue an email about it.

    Returns:
        None if the account has changed since it was read.
    """
    now = clock.now()
    values = _closing_values(account, now, erase=erase, grace=grace)
    closing = update(Account).where(credentials.is_unchanged(account)).values(**values)
    row = db.session.execute(closing.returning(Account.closed_at, Account.erase_after)).one_or_none()
    if row is None:
        return None
    db.session.execute(delete(Session).where(Session.account_id == account.id))
    queue.enqueue("account_closed", account_id=account.id)
    mailboxes.give_back(account.email)
    previous_addresses.notify(account.id)
    if account.closed_at is None:
        audit.record("closed", account.id, actor=actor)
    if erase:
        audit.record("erasure-requested", account.id, actor=actor, due=f"{row.erase_after:%Y-%m-%d}")
    held_until = db.session.scalar(select(Hold.latest(now)).select_from(Account).where(Account.id == account.id))
    return AccountClosure(row.closed_at, with_hold(row.erase_after, held_until))


def _closing_values(account: AnyRow, now: datetime, *, erase: bool, grace: timedelta | None) -> dict[str, Any]:
    # A new credentials_id ends every session and link for good, even if the account is opened again.
    values: dict[str, Any] = {"credentials_id": uuid.uuid4(), "closed_at": account.closed_at or now}
    if erase:
        due = now + (timedelta(days=settings().erasure_grace_days) if grace is None else grace)
        values["erasure_requested_at"] = func.coalesce(Account.erasure_requested_at, now)
        # An earlier day that is set already stays.
        values["erase_after"] = case((Account.erase_after < due, Account.erase_after), else_=due)
    elif account.closed_at is None and (days := settings().closed_retention_days):
        values["erase_after"] = now + timedelta(days=days)
    return values
