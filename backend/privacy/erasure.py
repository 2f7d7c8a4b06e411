"""Erase accounts that are due: in batches, past every crash, so that no restored backup brings them back.

First an account is marked, which cannot be taken back; then it is written into the ledger outside the database; then
all that is about it is deleted. A crash between the steps is made good by the next round.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, String, Update, cast, delete, func, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute

from backend import clock
from backend.accounts import audit
from backend.accounts.credentials import lock_address
from backend.database import totals
from backend.database.engine import AnyRow, db, lock, reading, transaction
from backend.database.export import rows_about
from backend.database.inventory import basis_of, tables_about_people
from backend.database.models import KEEP_RECORDS, Account, AuditEntry, Hold, Mail
from backend.database.scrub import leave_remains
from backend.mail import mailboxes, queue
from backend.privacy import ledger
from backend.security import lockout, tokens
from backend.security.throttle import throttle

BATCH = 100
# SQLite takes 32,766 values in a statement, PostgreSQL 65,535.
MOST_AT_ONCE = 5_000
# A worker that was killed leaves its batch to the others after this.
CLAIM = timedelta(seconds=60)


def is_due(now: datetime) -> ColumnElement[bool]:
    """Return the condition that an account's time has come, and that no legal hold keeps it."""
    return Account.closed_at.is_not(None) & (Account.erase_after <= now) & ~_is_held(now)


def _is_held(now: datetime) -> ColumnElement[bool]:
    return select(Hold.id).where(Hold.account_id == Account.id, Hold.until > now).exists()


def erase_due() -> int:
    """Erase some accounts that are due, the longest waiting first; return how many, 0 when none was left.

    Raises:
        OSError: the ledger cannot be written; nothing was erased.
    """
    now = clock.now()
    with reading() as session:
        if session.scalar(_wanted(now).limit(1)) is None:
            return 0
    # Opened first: where there is no ledger, nothing is marked either.
    with ledger.opened() as append:
        taken = _take(now)
        if not taken:
            return 0
        try:
            append(dict.fromkeys(taken, now))
        except OSError:
            with transaction() as session:
                session.execute(_mark(None).where(Account.id.in_(taken)))
            raise
    return _erase(Account.id.in_(taken) & Account.erasing_since.is_not(None), now)


def _wanted(now: datetime) -> Select[uuid.UUID]:
    free = Account.erasing_since.is_(None) | (Account.erasing_since < now - CLAIM)
    return select(Account.id).where(is_due(now), free).order_by(Account.erase_after).limit(BATCH)


def _take(now: datetime) -> list[uuid.UUID]:
    """Mark accounts that are due: from here on nobody takes it back."""
    with transaction() as session:
        first = _wanted(now).with_for_update(skip_locked=True)
        marked = session.scalars(_mark(now).where(Account.id.in_(first)).returning(Account.id)).all()
        # A hold that was placed while these were being marked counts; one that comes later is refused.
        spared = session.scalars(_mark(None).where(Account.id.in_(marked), _is_held(now)).returning(Account.id)).all()
    return [id_ for id_ in marked if id_ not in spared]


def count_later() -> int:
    """Return how many closed accounts wait for their day, or for the end of a hold."""
    later = Account.closed_at.is_not(None) & Account.erase_after.is_not(None) & ~is_due(clock.now())
    with reading() as session:
        return session.scalars(select(func.count()).where(later)).one()


def count_due() -> int:
    """Return how many accounts are due."""
    with reading() as session:
        return session.scalar(select(func.count()).select_from(Account).where(is_due(clock.now()))) or 0


def _mark(since: datetime | None) -> Update:
    return update(Account).values(erasing_since=since).execution_options(synchronize_session=False)


def _erase(wanted: ColumnElement[bool], now: datetime, *, tell: bool = True) -> int:
    columns = (Account.id, Account.email, Account.erasure_requested_at)
    with transaction() as session:
        # Of two accounts with one address, the one that is erased last takes the mails to it along.
        for email in sorted(session.scalars(select(Account.email).where(wanted)), key=str.lower):
            lock_address(email)
        accounts = session.execute(select(*columns).where(wanted).order_by(Account.id).with_for_update()).all()
        if not accounts:
            return 0
        removed = _delete(accounts)
        lockout.forget(account.email for account in accounts)
        mailboxes.forget(account.email for account in accounts)
        kept = _count_kept([account.id for account in accounts])
        for account in accounts:
            details = {
                "requested_at": clock.rfc3339(asked) if (asked := account.erasure_requested_at) else None,
                "erased_at": clock.rfc3339(now),
                "removed": [{"store": store, "rows": rows[account.id]} for store, rows in removed.items()],
                "kept": kept[account.id],
            }
            entry = audit.note("erased", account.id, actor="service", **details)
            if tell:
                queue.enqueue("erased", email=account.email, about=entry)
        totals.add("erasures", len(accounts))
        leave_remains()
    return len(accounts)


def _delete(accounts: Sequence[AnyRow]) -> dict[str, Counter[uuid.UUID]]:
    """Delete all that goes with these accounts; return for each table how many rows of each account it was."""
    ids, by_address = {account.id for account in accounts}, {account.email.lower(): account.id for account in accounts}
    removed = {}
    for table in tables_about_people():
        if basis_of(table):
            continue
        gone = table.delete().where(rows_about(table, accounts))
        told = [table.c[name] for name in ("id", "account_id", "email") if name in table.c]
        # The account itself, and the mail with which it began, have its id.
        removed[table.name] = Counter(
            row.id if row.id in ids else row.account_id or by_address[row.email.lower()]
            for row in db.session.execute(gone.returning(*told))
        )
    return removed


def _count_kept(ids: list[uuid.UUID]) -> dict[uuid.UUID, list[dict[str, Any]]]:
    """Return for each account what is kept, how much of it and on which legal basis."""
    kept: dict[uuid.UUID, list[dict[str, Any]]] = {id_: [] for id_ in ids}
    for table in tables_about_people():
        if not (basis := basis_of(table)):
            continue
        mine = select(table.c.account_id, func.count()).where(table.c.account_id.in_(ids)).group_by(table.c.account_id)
        found: dict[uuid.UUID, int] = dict(db.session.execute(mine).all())
        for id_ in ids:
            # The entry of the erasure itself is about to be written.
            rows = found.get(id_, 0) + (table is AuditEntry.__table__)
            kept[id_] += [{"store": table.name, "rows": rows, "basis": basis}] if rows else []
    for entries in kept.values():
        entries.append({"store": "ledger", "rows": 1, "basis": ledger.BASIS})
    return kept


def verify(*, receipt: str, client: str | None) -> dict[str, Any]:
    """Return what the receipt of an erasure says.

    Raises:
        InvalidToken: it is no receipt of this service, or was altered.
    """
    throttle().charge("token", client=client)
    return tokens.verify_receipt(receipt)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many accounts the ledger names, and how many of them had come back and were erased again."""

    in_ledger: int
    erased_again: int


def replay(path: Path | None = None) -> Replayed:
    """Erase again what the ledger names and a restored backup brought back; doing it twice changes nothing.

    Nobody is told again, and a legal hold that the backup knows does not count: the erasure came after it.

    Raises:
        Impossible: the file is not there, or is no ledger.
    """
    entries = dict(ledger.read(path))
    if path:
        _copy(entries)
    with reading() as session:
        known = session.scalars(select(_hex(AuditEntry.account_id)).where(AuditEntry.act == "erased"))
        unknown = entries.keys() - set(known)
    # What is marked is about to be erased anyway, and to be told.
    back, erased = _stored(Account.id, set(entries), Account.erasing_since.is_(None)), 0
    for start in range(0, len(back), BATCH):
        batch = back[start : start + BATCH]
        erased += _erase(Account.id.in_(batch) & Account.erasing_since.is_(None), clock.now(), tell=False)
    gone = unknown.difference(id_.hex for id_ in (*back, *_stored(Account.id, unknown)))
    recent = clock.now() - KEEP_RECORDS
    _remember({id_: at for id_ in gone if (at := datetime.fromisoformat(entries[id_])) > recent})
    _forget_registrations(_stored(Mail.id, unknown))
    return Replayed(len(entries), erased)


def _hex(column: InstrumentedAttribute[uuid.UUID]) -> ColumnElement[str]:
    """Return an id as 32 hexadecimal digits: SQLite stores them so, PostgreSQL adds hyphens."""
    return func.replace(cast(column, String), "-", "")


def _stored(column: InstrumentedAttribute[uuid.UUID], ids: set[str], *where: ColumnElement[bool]) -> list[uuid.UUID]:
    """Return which of many ids a column holds: the fewer are looked for among the others."""
    with reading() as session:
        rows = select(column).limit(len(ids) + 1).subquery()
        if session.scalars(select(func.count()).select_from(rows)).one() <= len(ids):
            return [uuid.UUID(id_) for id_ in session.scalars(select(_hex(column)).where(*where)) if id_ in ids]
        wanted, found = [uuid.UUID(id_) for id_ in ids], list[uuid.UUID]()
        for start in range(0, len(wanted), MOST_AT_ONCE):
            part = column.in_(wanted[start : start + MOST_AT_ONCE])
            found += session.scalars(select(column).where(part, *where))
    return found


def _copy(entries: dict[str, str]) -> None:
    """Write into this instance's ledger what it lacks of another: the next restore asks this one."""
    known = dict(ledger.read())
    lacking = entries.keys() - known.keys()
    with ledger.opened() as append:
        append({uuid.UUID(id_): datetime.fromisoformat(entries[id_]) for id_ in lacking})


def _forget_registrations(ids: list[uuid.UUID]) -> None:
    """Delete the mails of registrations that were finished, and erased again, after the backup was made."""
    # An account has the id of the mail with which it began.
    for start in range(0, len(ids), BATCH):
        with transaction() as session:
            session.execute(delete(Mail).where(Mail.id.in_(ids[start : start + BATCH])))
            leave_remains()


def _remember(entries: dict[str, datetime]) -> None:
    """Note those erasures that the restored database does not know of."""
    if not entries:
        return
    with transaction() as session:
        # Of several servers that start at once, one notes them.
        lock("replay")
        known = set(session.scalars(select(_hex(AuditEntry.account_id)).where(AuditEntry.act == "erased")))
        new = sorted(entries.keys() - known)
        # In the order of both indexes, SQLite stores 200,000 in a third of the time.
        rows = [
            {"id": id_, "account_id": uuid.UUID(account), "act": "erased", "actor": "service", "at": entries[account],
             "details": {"requested_at": None, "erased_at": clock.rfc3339(entries[account]), "removed": [], "kept": []}}
            for id_, account in zip(sorted(uuid.uuid4() for _ in new), new, strict=True)
        ]  # fmt: skip
        statement = insert(AuditEntry.metadata.tables[AuditEntry.__tablename__])
        # PostgreSQL's time for one statement is that for all rows of one call.
        for start in range(0, len(rows), MOST_AT_ONCE):
            session.connection().execute(statement, rows[start : start + MOST_AT_ONCE])
