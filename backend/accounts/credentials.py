"""What proves that an account is somebody's, a password or a mailed link, and changes that hold it to what was read."""

import uuid
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, literal, select, text, update
from sqlalchemy.orm import aliased

from backend import clock
from backend.accounts import audit
from backend.accounts.sessions import Viewer, account_columns
from backend.config import settings
from backend.database.engine import AnyRow, changed, db, insert_unless_taken, lock, reading, transaction
from backend.database.models import Account, PasswordCost, PreviousAddress
from backend.errors import EmailInUse, FieldError, InvalidToken, WeakPassword, WrongPassword
from backend.mail import mailboxes, queue
from backend.security import lockout, tokens
from backend.security.hashing import HASH_PREFIX, cost_of, hasher
from backend.security.password_rules import weaknesses
from backend.security.throttle import throttle
from backend.security.tokens import Purpose

# What an account that is not closed has in these columns.
OPEN: dict[str, Any] = {"closed_at": None, "erasure_requested_at": None, "erase_after": None}


def new_password_hash(password: str, *, name: str | None, email: str, pointer: str = "/password") -> str:
    """Return the hash of a password that is not easy to guess.

    Raises:
        WeakPassword: it is, for each of the reasons.
        Overloaded: the hasher's line is full.
    """
    reasons = weaknesses(password, minimum=settings().password_min_length, name=name, email=email)
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
            # A transaction that stores such a hash, which nobody sees yet, commits first.
            session.execute(text("LOCK TABLE password_costs IN EXCLUSIVE MODE"))
        session.execute(delete(PasswordCost).where(unused))


def ask_password_again(viewer: Viewer, password: str, client: str | None) -> AnyRow:
    """Return the viewer's account to somebody who knows its password; a wrong one counts as at sign-in.

    Raises:
        WrongPassword: it is another.
    """
    account = viewer.account
    throttle().charge("password", account=str(account.id))
    with lockout.guess(account.email, client):
        right = hasher().verify(account.password_hash, password)
    if not right:
        raise WrongPassword
    lockout.clear(account.email)
    return account


def redeem_for(purpose: Purpose, token: str) -> tuple[AnyRow, dict[str, Any]]:
    """Return the account that a token is about, if its state is still the one that the token is bound to.

    Whoever acts on it makes the change conditional on that state, by `is_as(account)`.

    Raises:
        InvalidToken: the link does not work, or worked before.
    """
    content = tokens.redeem(purpose, token)
    with reading() as session:
        account = session.execute(
            select(*account_columns()).where(Account.id == uuid.UUID(content["account"]))
        ).one_or_none()
    if account is None or tokens.state(purpose, account) != content["state"]:
        raise InvalidToken
    return account, content


def note_proof(email: str, client: str | None) -> None:
    """In the transaction of a mailed link: whoever used it reads the mailbox, and is not kept out by what others do."""
    lockout.trust(email, client)
    mailboxes.give_back(email)


def lock_address(email: str) -> None:
    """Let nobody else take an address, or close accounts that have it, until the caller's transaction ends."""
    lock(f"address {email.lower()}")


def is_as(account: AnyRow) -> ColumnElement[bool]:
    """Return the condition that an account is still as it was read, and that its erasure has not begun."""
    return and_(
        Account.id == account.id,
        Account.email == account.email,
        Account.credentials_id == account.credentials_id,
        Account.closed_at.is_not(None) if account.closed_at else Account.closed_at.is_(None),
        Account.erasing_since.is_(None),
    )


def take_address(account: AnyRow, email: str, **values: Any) -> None:
    """In the caller's transaction: let an account as it was read be the open one with an address.

    Raises:
        InvalidToken: the account has changed since, by whatever.
        EmailInUse: another open account has the address.
    """
    lock_address(email)
    other = aliased(Account)
    taken = select(other.id).where(other.is_open_with(email), other.id != account.id).exists()
    if not changed(update(Account).where(is_as(account), ~taken).values(email=email, **values)):
        raise EmailInUse if db.session.scalar(select(taken).where(is_as(account))) else InvalidToken


def tell_previous_addresses(account_id: uuid.UUID) -> None:
    """In the caller's transaction: give each address that may take the account back a new link to do so.

    What has ended every older link ended theirs too. Without this, whoever stole an account by changing its address
    could keep it by changing the password next, or by closing it.
    """
    mine = (PreviousAddress.account_id == account_id) & PreviousAddress.may_take_back(clock.now())
    for previous in db.session.scalars(select(PreviousAddress.id).where(mine)).all():
        queue.enqueue("email_changed", account_id=account_id, about=previous)


def tell_reopened(account_id: uuid.UUID) -> None:
    """In the caller's transaction: tell the person by mail that the account is open again, and note it."""
    queue.enqueue("account_reopened", account_id=account_id)
    audit.note("reopened", account_id, actor="person")


def forget_previous_addresses() -> None:
    """Forget the addresses that can no longer take an account back."""
    with transaction() as session:
        session.execute(delete(PreviousAddress).where(~PreviousAddress.may_take_back(clock.now())))
