"""Proofs of ownership (a password, an emailed link), and updates that fail if the account has changed meanwhile."""

import uuid
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import aliased

from backend.accounts.sessions import Viewer, account_columns
from backend.database.engine import AnyRow, changed, db, lock, reading
from backend.database.models import Account
from backend.errors import EmailInUse, InvalidToken, WrongPassword
from backend.mail import mailboxes
from backend.security import lockout, throttle, tokens
from backend.security.hashing import hasher
from backend.security.tokens import Purpose


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
