"""Proofs of ownership (a password, an emailed link), and updates that fail if the account has changed meanwhile."""

import uuid
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, literal, select, text, update
from sqlalchemy.orm import aliased

from backend import clock
from backend.accounts import audit
from backend.accounts.sessions import Viewer, account_columns
from backend.config import settings
from backend.database.engine import AnyRow, changed, db, insert_unless_taken, lock, reading, transaction
from backend.database.models import Account, PreviousAddress
from backend.database.service_tables import PasswordCost
from backend.errors import EmailInUse, FieldError, InvalidToken, WeakPassword, WrongPassword
from backend.mail import mailboxes, queue
from backend.security import lockout, throttle, tokens
from backend.security.hashing import HASH_PREFIX, cost_of, hasher
from backend.security.password_rules import normalize, weaknesses
from backend.security.tokens import Purpose

# The values of these columns in an open account.
OPEN: dict[str, Any] = {"closed_at": None, "erasure_requested_at": None, "erase_after": None}


def new_password_hash(password: str, *, name: str | None, email: str, pointer: str = "/password") -> str:
    """Return the hash of a new password."""
    minimum = settings().password_min_length
    reasons = weaknesses(password, minimum=minimum, name=name, email=email)
    if len(normalize(password)) < minimum:
        # The other reasons may not apply to a longer password.
        reasons = reasons[:1]
    if reasons:
        raise WeakPassword(errors=[FieldError(pointer, reason) for reason in reasons])
    return hasher().hash(password)


def note_cost(password_hash: str) -> None:
    """In the transaction that stores a hash: store its cost, so that signing in does the same work for everybody."""
    db.session.execute(insert_unless_taken(PasswordCost).values(cost=cost_of(password_hash)))


def forget_costs() -> None:
    """Forget the costs that no hash has any more."""
    prefix = literal(HASH_PREFIX) + PasswordCost.cost + "$"
    in_use = select(Account.id).where(Account.password_hash.startswith(prefix)).exists()
    unused = (PasswordCost.cost != hasher().cost) & ~in_use
    with reading() as session:
        if not session.scalar(select(PasswordCost.cost).where(unused)):
            return
    with transaction() as session:
        if db.engine.dialect.name == "postgresql":
            # Wait for transactions that store such a hash and have not committed.
            session.execute(text("LOCK TABLE password_costs IN EXCLUSIVE MODE"))
        session.execute(delete(PasswordCost).where(unused))


def check_current_password(viewer: Viewer, password: str, client: str | None) -> AnyRow:
    """Return the viewer's account. A wrong password counts as one at sign-in."""
    account = viewer.account
    throttle.charge("password", account=str(account.id))
    with lockout.guess(account.email, client):
        right = hasher().verify(account.password_hash, password)
    if not right:
        raise WrongPassword
    lockout.clear(account.email)
    return account


def redeem_for(purpose: Purpose, token: str, client: str | None) -> tuple[AnyRow, dict[str, Any]]:
    """Return the account of an emailed link and the token's content. The caller updates it where `is_unchanged`."""
    throttle.charge("token", client=client)
    content = tokens.redeem(purpose, token)
    account = account_of(content)
    if account is None or tokens.state(purpose, account) != content["state"]:
        raise InvalidToken
    return account, content


def account_of(content: dict[str, Any]) -> AnyRow | None:
    """Return the account that a token's content names; None after its erasure."""
    has_id = Account.id == uuid.UUID(content["account"])
    with reading() as session:
        return session.execute(select(*account_columns()).where(has_id)).one_or_none()


def note_mailbox_proven(email: str, client: str | None) -> None:
    """In the transaction of an emailed link: let no limit that others used up keep out the reader of the mailbox."""
    lockout.trust(email, client)
    mailboxes.give_back(email)


def lock_address(email: str) -> None:
    """Until the caller's transaction ends, keep other transactions from taking the address or closing its accounts."""
    lock(f"address {email.lower()}")


def is_unchanged(account: AnyRow) -> ColumnElement[bool]:
    """Return the condition that an account is as it was read, and that its erasure has not begun."""
    return and_(
        Account.id == account.id,
        Account.email == account.email,
        Account.credentials_id == account.credentials_id,
        Account.closed_at.is_not(None) if account.closed_at else Account.closed_at.is_(None),
        Account.erasing_since.is_(None),
    )


def take_address(account: AnyRow, email: str, **values: Any) -> None:
    """In the caller's transaction: update the account so that it is the only open one with this address.

    Raises:
        InvalidToken: the account has changed since it was read.
        EmailInUse: another open account has the address.
    """
    lock_address(email)
    other = aliased(Account)
    taken = select(other.id).where(other.is_open_with(email), other.id != account.id).exists()
    if not changed(update(Account).where(is_unchanged(account), ~taken).values(email=email, **values)):
        raise EmailInUse if db.session.scalar(select(taken).where(is_unchanged(account))) else InvalidToken


def notify_previous_addresses(account_id: uuid.UUID) -> None:
    """In the caller's transaction: email a new undo link to each previous address, as the change killed the old link.

    Otherwise a thief who changed the email could keep the account by changing the password or closing it next.
    """
    of_account = (PreviousAddress.account_id == account_id) & PreviousAddress.may_take_back(clock.now())
    for previous_id in db.session.scalars(select(PreviousAddress.id).where(of_account)).all():
        queue.enqueue("email_changed", account_id=account_id, about=previous_id)


def notify_reopened(account_id: uuid.UUID, actor: audit.Actor = "person") -> None:
    """In the caller's transaction: record that the account is open again, and email it."""
    queue.enqueue("account_reopened", account_id=account_id)
    audit.record("reopened", account_id, actor=actor)


def forget_previous_addresses() -> None:
    """Delete the previous addresses whose undo link has expired."""
    with transaction() as session:
        session.execute(delete(PreviousAddress).where(~PreviousAddress.may_take_back(clock.now())))
