"""The data manager's operations on an account, named by its email address or its id.

Each is written to the audit. They raise Impossible with the reason, such as that no or more than one account matches.
"""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, or_, select, update

from backend import clock
from backend.accounts import audit, closing
from backend.accounts.closing import AccountClosure
from backend.accounts.fields import clean_email
from backend.accounts.sessions import account_columns
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.export import AccountExport
from backend.database.export import export as export_account
from backend.database.models import Account, Hold
from backend.errors import EmailInUse, Impossible, InvalidToken, Unknown
from backend.mail import queue

MANAGER: audit.Actor = "data manager"
CHANGED = "this account has just changed, or is being erased: look at it again"
_STATE = ("id", "name", "email", "email_updates", "closed_at", "credentials_id", "erasure_requested_at", "erase_after",
          "erasing_since", "held_until")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """An account and a digest of its state on a page. An act is refused if the state has changed since."""

    account: uuid.UUID
    state: str


Who = str | Seen


def state(account: AnyRow) -> str:
    """Return a digest of everything that a page shows of an account, its last act included."""
    values = [getattr(account, name) for name in _STATE]
    return hashlib.sha256(repr((values, audit.newest_change(account.id))).encode()).hexdigest()[:32]


def accounts_where(condition: ColumnElement[bool]) -> list[AnyRow]:
    """Return accounts with their erasure and legal hold."""
    held_until = Hold.latest(clock.now()).label("held_until")
    columns = (*account_columns(), Account.erasure_requested_at, Account.erase_after, Account.erasing_since, held_until)
    with reading() as session:
        return list(session.execute(select(*columns).where(condition).order_by(Account.created_at)))


def _is(who: str) -> ColumnElement[bool]:
    try:
        return Account.id == uuid.UUID(who)
    except ValueError:
        pass
    try:
        email = clean_email(who)
    except ValueError:
        raise Impossible("name the account by its email address or its id") from None
    # Each half has its index.
    return or_(Account.is_open_with(email), Account.is_closed_with(email))


def get_account(who: Who) -> AnyRow:
    """Return an account, with its erasure and legal hold."""
    if isinstance(who, Seen):
        account = get_account(str(who.account))
        if state(account) != who.state:
            raise Impossible("this account has changed since you opened the page: look at it again")
        return account
    accounts = accounts_where(_is(who))
    if not accounts:
        raise Unknown("there is no account with this address or id; erased ones are not known any more")
    if len(accounts) > 1:
        ids = "\n".join(f"  {row.id}  {'closed' if row.closed_at else 'open'}" for row in accounts)
        raise Impossible(f"several accounts have or had this address; name one by its id:\n{ids}")
    return accounts[0]


def find(who: str) -> list[AnyRow]:
    """Return the accounts, open and closed, with an address or an id, with their erasure and legal hold."""
    accounts = accounts_where(_is(who))
    with transaction():
        for account in accounts:
            audit.record("found", account.id, actor=MANAGER)
    return accounts


def export(who: Who) -> AccountExport:
    """Return everything that is stored about an account."""
    account = get_account(who)
    with transaction():
        audit.record("exported", account.id, actor=MANAGER)
    return export_account(account.id)


def rename(who: Who, name: str | None) -> AnyRow:
    """Correct the name of an account, or remove it with None; return the account."""
    return _change(who, "renamed", name=name)


def unsubscribe(who: Who) -> AnyRow:
    """Stop emails about TILES to an account; return the account."""
    return _change(who, "unsubscribed", email_updates=False)


def subscribe(who: Who) -> AnyRow:
    """Send emails about TILES to an account again, at its owner's request; return the account."""
    return _change(who, "subscribed", email_updates=True)


def request_email_change(who: Who, email: str) -> AnyRow:
    """Email a link to a new address, which becomes the account's once the link is used; return the account."""
    account = get_account(who)
    if account.closed_at:
        raise Impossible("this account is closed: open it again first")
    with transaction():
        lock_account(account, who)
        queue.enqueue("email_change", email=email, account_id=account.id, about=account.credentials_id)
        audit.record("email-change-requested", account.id, actor=MANAGER)
    return account


def _change(who: Who, act: audit.Act, **values: str | bool | None) -> AnyRow:
    account = get_account(who)
    with transaction() as session:
        lock_account(account, who)
        session.execute(update(Account).where(Account.id == account.id).values(**values))
        audit.record(act, account.id, actor=MANAGER)
    return get_account(str(account.id))


def reopen(who: Who, *, erasure: bool = False) -> AnyRow:
    """Open a closed account again, with `erasure` only if its erasure waits; return it. The person gets an email."""
    account = get_account(who)
    if account.closed_at is None or (erasure and account.erasure_requested_at is None):
        raise Impossible("no erasure of this account waits" if erasure else "this account is open")
    try:
        with transaction():
            closing.reopen_account(account, actor=MANAGER)
    except EmailInUse:
        raise Impossible("somebody registered again with this address: the closed account stays closed") from None
    except InvalidToken:
        raise Impossible(CHANGED) from None
    return get_account(str(account.id))


def close(who: Who) -> AccountClosure:
    """Close an account, which is then kept for the retention time of closed accounts. The person gets an email."""
    account = get_account(who)
    if account.closed_at:
        raise Impossible(f"this account is closed already, since {account.closed_at:%Y-%m-%d}")
    return _close_account(account, erase=False)


def erase(who: Who, *, at_once: bool = False) -> AccountClosure:
    """Close an account and have it erased after the grace period, or at once. The person gets an email."""
    account = get_account(who)
    if at_once and account.held_until:
        day = f"{account.held_until:%Y-%m-%d}"
        raise Impossible(f"a legal hold keeps this account until {day}: release it first, or have it erased after that")
    return _close_account(account, erase=True, grace=timedelta(0) if at_once else None)


def _close_account(account: AnyRow, *, erase: bool, grace: timedelta | None = None) -> AccountClosure:
    with transaction():
        closed = closing.close_account(account, actor=MANAGER, erase=erase, grace=grace)
    if closed is None:
        raise Impossible(CHANGED)
    return closed


def lock_account(account: AnyRow, who: Who) -> None:
    """Lock an account in the caller's transaction, so that no other transaction changes or erases it."""
    free = (Account.id == account.id) & Account.erasing_since.is_(None)
    if db.session.scalar(select(Account.id).where(free).with_for_update()) is None:
        raise Impossible("it is too late: this account is being erased")
    if isinstance(who, Seen) and state(accounts_where(Account.id == account.id)[0]) != who.state:
        raise Impossible(CHANGED)


def audit_trail(who: str | None) -> list[AnyRow]:
    """Return the audit of all accounts, of those with an address, or of an id, erased or not; newest first."""
    if who is None:
        return audit.entries()
    try:
        return audit.entries([uuid.UUID(who)])
    except ValueError:
        return audit.entries([account.id for account in accounts_where(_is(who))])
