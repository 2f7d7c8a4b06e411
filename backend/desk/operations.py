"""The data manager's desk: find, export, close, erase, hold, release, disclose; each act leaves an audit entry."""

import re
import unicodedata
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, or_, select

from backend import clock
from backend.accounts import audit, closing
from backend.accounts.closing import Closed
from backend.accounts.fields import clean_email
from backend.accounts.sessions import account_columns
from backend.database.engine import AnyRow, changed, db, reading, transaction
from backend.database.export import Export
from backend.database.export import export as export_account
from backend.database.models import REASON_LENGTH, Account, Disclosure, Hold, PreviousAddress, with_hold
from backend.errors import Impossible
from backend.mail import queue
from backend.privacy import erasure

MANAGER: audit.Actor = "data manager"


def _accounts(condition: ColumnElement[bool]) -> list[AnyRow]:
    held_until = Hold.latest(clock.now()).label("held_until")
    columns = (*account_columns(), Account.erasure_requested_at, Account.erase_after, Account.erasing_since, held_until)
    with reading() as session:
        return list(session.execute(select(*columns).where(condition).order_by(Account.created_at)))


def _named(who: str) -> ColumnElement[bool]:
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


def _one(who: str) -> AnyRow:
    found = _accounts(_named(who))
    if not found:
        raise Impossible("there is no account with this address or id; erased ones are not known any more")
    if len(found) > 1:
        ids = "\n".join(f"  {row.id}  {'closed' if row.closed_at else 'open'}" for row in found)
        raise Impossible(f"several accounts have or had this address; name one by its id:\n{ids}")
    return found[0]


def find(who: str) -> list[AnyRow]:
    """Return the accounts, open and closed, with an address or an id: what is known of each, and what waits for it.

    Raises:
        Impossible: it is neither an address nor an id.
    """
    found = _accounts(_named(who))
    with transaction():
        for account in found:
            audit.note("found", account.id, actor=MANAGER)
    return found


def export(who: str) -> Export:
    """Return everything that is held about an account.

    Raises:
        Impossible: there is not exactly one such account.
    """
    account = _one(who)
    with transaction():
        audit.note("exported", account.id, actor=MANAGER)
    return export_account(account.id)


def close(who: str) -> Closed:
    """Close an account, which is then kept as long as closed accounts are; the person is told.

    Raises:
        Impossible: there is not exactly one such account, or it is closed already.
    """
    account = _one(who)
    if account.closed_at:
        raise Impossible(f"this account is closed already, since {account.closed_at:%Y-%m-%d}")
    return _shut(account, erase=False)


def erase(who: str, *, at_once: bool = False) -> Closed:
    """Close an account and have it erased after the grace period, or from now on; the person is told.

    Raises:
        Impossible: there is not exactly one such account; or a legal hold keeps it, and it should be erased at once.
    """
    account = _one(who)
    if at_once and account.held_until:
        raise Impossible(
            f"a legal hold keeps this account until {account.held_until:%Y-%m-%d}: release it first, or ask without "
            "--now, and it is erased when the hold has ended"
        )
    return _shut(account, erase=True, grace=timedelta(0) if at_once else None)


def _shut(account: AnyRow, **how: Any) -> Closed:
    with transaction():
        closed = closing.shut(account, actor=MANAGER, **how)
    if closed is None:
        raise Impossible("this account has changed in this moment, or is being erased: look with `tiles data find`")
    return closed


def hold(who: str, *, basis: str, until: datetime) -> uuid.UUID:
    """Keep an account from being erased for now; where its erasure waits, the person is told.

    Raises:
        Impossible: there is not exactly one such account, the day is over, or the text names the person.
    """
    account, now = _one(who), clock.now()
    if until <= now:
        raise Impossible("name a day in the future: a hold ends by itself")
    _refuse_naming(account, basis)
    hold_id = uuid.uuid4()
    with transaction() as session:
        if not _is_free(account.id):
            raise Impossible("it is too late: this account is being erased")
        session.execute(insert(Hold).values(id=hold_id, account_id=account.id, basis=basis, placed_at=now, until=until))
        audit.note("held", account.id, actor=MANAGER, until=f"{until:%Y-%m-%d}")
        _tell_if_waiting(account)
    return hold_id


def release(who: str) -> int:
    """Lift every legal hold on an account, and return how many; where its erasure waits, the person is told.

    Raises:
        Impossible: there is not exactly one such account, or no hold.
    """
    account = _one(who)
    with transaction():
        if not _is_free(account.id):
            raise Impossible("it is too late: this account is being erased")
        lifted = changed(delete(Hold).where(Hold.account_id == account.id, Hold.until > clock.now()))
        if not lifted:
            raise Impossible("there is no legal hold on this account")
        audit.note("released", account.id, actor=MANAGER, holds=lifted)
        _tell_if_waiting(account)
    return lifted


def is_late_but_for_a_hold(who: str) -> bool:
    """Tell whether an account would be erased at once if its legal holds were lifted.

    Raises:
        Impossible: there is not exactly one such account.
    """
    account = _one(who)
    return account.held_until is not None and account.erase_after is not None and account.erase_after <= clock.now()


def _tell_if_waiting(account: AnyRow) -> None:
    if account.erase_after:
        queue.enqueue("account_closed", account_id=account.id)


def disclose(who: str, *, authority: str, basis: str) -> Export:
    """Record that everything held about an account is handed to an authority, and return it.

    Raises:
        Impossible: there is not exactly one such account, or a text names the person.
    """
    account = _one(who)
    for text in (authority, basis):
        _refuse_naming(account, text)
    row = {"id": uuid.uuid4(), "account_id": account.id, "authority": authority, "basis": basis}
    found = export_account(account.id)
    with transaction() as session:
        if not _is_free(account.id):
            raise Impossible("it is too late: this account is being erased")
        session.execute(insert(Disclosure).values(**row, disclosed_at=clock.now()))
        audit.note("disclosed", account.id, actor=MANAGER)
    return found


def _is_free(account_id: uuid.UUID) -> bool:
    """Tell whether an account's erasure has not begun; whoever would begin it waits for the caller's transaction."""
    free = (Account.id == account_id) & Account.erasing_since.is_(None)
    return db.session.scalar(select(Account.id).where(free).with_for_update()) is not None


def _refuse_naming(account: AnyRow, text: str) -> None:
    """Keep the person out of what may outlive the account."""
    if len(text) > REASON_LENGTH or not text.strip() or not text.isprintable():
        raise Impossible(f"write 1 to {REASON_LENGTH} characters in one line")
    with reading() as session:
        previous = session.scalars(
            select(PreviousAddress.email).where(PreviousAddress.account_id == account.id)
        ).all()  # fmt: skip
    said, name = unicodedata.normalize("NFKC", text).casefold(), _words(account.name or "")
    if (name and name <= _words(text)) or any(email.casefold() in said for email in (account.email, *previous)):
        raise Impossible("leave the person's name and address out: whoever reads this needs neither")


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


@dataclass(frozen=True, slots=True)
class Request:
    """An erasure that waits: for which account, since when, until when, and whether that is over.

    `asked_at` is None where nobody asked and the time of a closed account is over.
    """

    account: uuid.UUID
    asked_at: datetime | None
    age_days: int | None
    due: datetime
    held_until: datetime | None
    overdue: bool


def requests(*, overdue: bool = False) -> list[Request]:
    """Return the erasures that were asked for and wait, and all that are late; the one due first is first.

    A legal hold puts off when an erasure is due. With `overdue`, only what is late.
    """
    now = clock.now()
    late, asked = erasure.is_due(now), Account.erasure_requested_at.is_not(None) & Account.erase_after.is_not(None)
    condition = late if overdue else late | asked
    with reading() as session:
        columns = (Account.id, Account.erasure_requested_at, Account.erase_after, Hold.latest(now))
        rows = session.execute(select(*columns).where(condition).order_by(Account.erase_after)).all()
    return [_request(now, row) for row in rows]


def _request(now: datetime, row: AnyRow) -> Request:
    account, asked, due, held = row
    age = (now - asked).days if asked else None
    return Request(account, asked, age, with_hold(due, held) or due, held, overdue=due <= now and held is None)


def audit_trail(who: str | None) -> list[AnyRow]:
    """Return what was done, the newest first: with all accounts, or with those of an address, or an id, erased or not.

    Raises:
        Impossible: it is neither an address nor an id.
    """
    if who is None:
        return audit.entries()
    try:
        ids = [uuid.UUID(who)]
    except ValueError:
        ids = [account.id for account in _accounts(_named(who))]
    return audit.entries(ids)


def forget_ended_holds() -> None:
    """Forget the legal holds that have ended by themselves."""
    with transaction() as session:
        session.execute(delete(Hold).where(Hold.until <= clock.now()))
