"""Erase accounts that are due, in batches; no crash or restored backup brings them back.

An account is marked first, which cannot be cancelled, then written into the ledger outside the database, then deleted.
After a crash between the steps the next round continues.
"""

import json
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    String,
    Update,
    Uuid,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute

from backend import clock
from backend.accounts import audit
from backend.accounts.credentials import lock_address
from backend.database import totals
from backend.database.engine import AnyRow, db, is_sqlite, lock, materialized, reading, transaction
from backend.database.export import rows_about
from backend.database.inventory import basis_of, tables_about_people
from backend.database.models import KEEP_RECORDS, Account, AuditEntry, Hold, Mail
from backend.database.scrub import leave_remains
from backend.mail import mailboxes, queue
from backend.privacy import ledger
from backend.security import lockout, throttle, tokens

BATCH = 100
# PostgreSQL's statement_timeout is for one call of the driver.
INSERTED_AT_ONCE = 5_000
# The batch of a killed worker is free for other workers after this time.
CLAIM = timedelta(seconds=60)


def is_due(now: datetime) -> ColumnElement[bool]:
    """Return the condition that an account is to be erased now, and that no legal hold keeps it."""
    return Account.closed_at.is_not(None) & (Account.erase_after <= now) & ~_is_held(now)


def _is_held(now: datetime) -> ColumnElement[bool]:
    return select(Hold.id).where(Hold.account_id == Account.id, Hold.until > now).exists()


def count_later() -> int:
    """Return how many closed accounts wait for their day, or for the end of a legal hold."""
    return _count(Account.closed_at.is_not(None) & Account.erase_after.is_not(None) & ~is_due(clock.now()))


def count_due() -> int:
    """Return how many accounts are due."""
    return _count(is_due(clock.now()))


def _count(condition: ColumnElement[bool]) -> int:
    with reading() as session:
        return session.scalars(select(func.count()).select_from(Account).where(condition)).one()


def erase_due() -> int:
    """Erase the next batch of due accounts, longest overdue first; return how many, 0 when none is left.

    Raises:
        OSError: the ledger cannot be written, and nothing was erased.
    """
    now = clock.now()
    with reading() as session:
        if session.scalar(_next_batch(now).limit(1)) is None:
            return 0
    # Opened first: if that fails, no account is marked.
    with ledger.opened() as append:
        marked = _mark_batch(now)
        try:
            append(dict.fromkeys(marked, now))
        except OSError:
            with transaction() as session:
                session.execute(_mark(None).where(Account.id.in_(marked)))
            raise
    return _erase(Account.id.in_(marked) & Account.erasing_since.is_not(None), now)


def _next_batch(now: datetime) -> Select[uuid.UUID]:
    unclaimed = Account.erasing_since.is_(None) | (Account.erasing_since < now - CLAIM)
    return select(Account.id).where(is_due(now), unclaimed).order_by(Account.erase_after).limit(BATCH)


def _mark_batch(now: datetime) -> list[uuid.UUID]:
    """Mark the next due accounts, so that their erasure cannot be cancelled any more."""
    with transaction() as session:
        batch = materialized(_next_batch(now).with_for_update(skip_locked=True))
        marked = session.scalars(_mark(now).where(Account.id.in_(batch)).returning(Account.id)).all()
        # A hold that was placed during the update counts; a later one is refused.
        held = session.scalars(_mark(None).where(Account.id.in_(marked), _is_held(now)).returning(Account.id)).all()
    return [account_id for account_id in marked if account_id not in held]


def _mark(since: datetime | None) -> Update:
    return update(Account).values(erasing_since=since).execution_options(synchronize_session=False)


def _erase(condition: ColumnElement[bool], now: datetime, *, notify: bool = True) -> int:
    columns = (Account.id, Account.email, Account.erasure_requested_at)
    with transaction() as session:
        # Accounts with the same address are erased one after the other: the last one takes the address's emails along.
        for email in sorted(session.scalars(select(Account.email).where(condition)), key=str.lower):
            lock_address(email)
        accounts = session.execute(select(*columns).where(condition).order_by(Account.id).with_for_update()).all()
        if not accounts:
            return 0
        emails = [account.email for account in accounts]
        lockout.forget(emails)
        # Before the emails, as the worker locks them.
        mailboxes.forget(emails)
        removed = _delete(accounts)
        kept = _count_kept([account.id for account in accounts])
        for account in accounts:
            requested_at = clock.rfc3339(at) if (at := account.erasure_requested_at) else None
            counts = [{"store": store, "rows": rows[account.id]} for store, rows in removed.items()]
            receipt = {"requested_at": requested_at, "erased_at": clock.rfc3339(now), "removed": counts}
            entry_id = audit.record("erased", account.id, actor="service", **receipt, kept=kept[account.id])
            if notify:
                queue.enqueue("erased", email=account.email, about=entry_id)
        totals.add("erasures", len(accounts))
        leave_remains()
    return len(accounts)


def _delete(accounts: Sequence[AnyRow]) -> dict[str, Counter[uuid.UUID]]:
    """Delete every row about these accounts; return how many rows each account had in each table."""
    ids = {account.id for account in accounts}
    id_by_email = {account.email.lower(): account.id for account in accounts}
    removed = {}
    for table in tables_about_people():
        if basis_of(table):
            continue
        owner = [table.c[name] for name in ("id", "account_id", "email") if name in table.c]
        rows = db.session.execute(table.delete().where(rows_about(table, accounts)).returning(*owner))
        # The account itself, and the email that its registration began with, have the account's id as their own.
        removed[table.name] = Counter(
            row.id if row.id in ids else row.account_id or id_by_email[row.email.lower()] for row in rows
        )
    return removed


def _count_kept(ids: list[uuid.UUID]) -> dict[uuid.UUID, list[dict[str, Any]]]:
    """Return the kept rows of each account: the table, the number of rows, and the legal basis."""
    kept: dict[uuid.UUID, list[dict[str, Any]]] = {account_id: [] for account_id in ids}
    for table in tables_about_people():
        if not (basis := basis_of(table)):
            continue
        owner = table.c.account_id
        counting = select(owner, func.count()).where(owner.in_(ids)).group_by(owner)
        counts: dict[uuid.UUID, int] = dict(db.session.execute(counting).all())
        for account_id in ids:
            # The entry of this erasure is not written yet.
            rows = counts.get(account_id, 0) + (table is AuditEntry.__table__)
            kept[account_id] += [{"store": table.name, "rows": rows, "basis": basis}] if rows else []
    for entries in kept.values():
        entries.append({"store": "ledger", "rows": 1, "basis": ledger.BASIS})
    return kept


def verify(*, receipt: str, client: str | None) -> dict[str, Any]:
    """Return the content of an erasure receipt; an InvalidToken says that it was not signed here, or was altered."""
    throttle.charge("token", client=client)
    return tokens.redeem(tokens.Purpose.RECEIPT, receipt)


@dataclass(frozen=True, slots=True)
class Replayed:
    """The number of accounts in the ledger, and of those that were erased again."""

    in_ledger: int
    erased_again: int


def replay(path: Path | None = None) -> Replayed:
    """Erase again the accounts of the ledger that a restored backup brought back; repeating it changes nothing.

    Nobody is notified again, and a legal hold from the backup does not count, as the erasure is newer.
    """
    entries = dict(ledger.read(path))
    if path:
        _copy(entries)
    # Marked accounts are about to be erased anyway, with a notice.
    marked = Account.erasing_since.is_not(None)
    with reading():
        present = _ids_in(entries, Account.id)
        returned = present - _ids_in(present, Account.id, marked)
        unknown = entries.keys() - present - _erased_ids(entries)
        registrations = _ids_in(unknown, Mail.id)
    erased = 0
    for ids in _batches(returned):
        erased += _erase(Account.id.in_(ids) & ~marked, clock.now(), notify=False)
    # An account has the id of the email that its registration began with: that was finished after the backup.
    for ids in _batches(registrations):
        with transaction() as session:
            session.execute(delete(Mail).where(Mail.id.in_(ids)))
            leave_remains()
    oldest = clock.rfc3339(clock.now() - KEEP_RECORDS)
    _note_erased({hex_id: entries[hex_id] for hex_id in unknown if entries[hex_id] > oldest})
    return Replayed(len(entries), erased)


def _batches(hex_ids: set[str]) -> Iterator[list[uuid.UUID]]:
    ids = [uuid.UUID(hex_id) for hex_id in hex_ids]
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _ids_in(entries: Collection[str], column: InstrumentedAttribute[Any], *where: ColumnElement[bool]) -> set[str]:
    """Return a column's ids that are among the entries; as text, because making 200,000 `uuid.UUID` takes a second.

    The entries are sent as one value, because there may be millions of rows, and a statement has few values.
    """
    ids = bindparam("ids", json.dumps([*entries]), String)
    if is_sqlite():
        listed = select(func.json_each(ids).table_valued("value").c.value)
    else:
        texts = func.json_array_elements_text(cast(ids, JSON)).table_valued("value")
        listed = select(cast(texts.c.value, Uuid))
    return set(db.session.scalars(select(_hex(column)).where(column.in_(listed), *where)))


def _hex(column: InstrumentedAttribute[Any]) -> ColumnElement[str]:
    # SQLite stores 32 hexadecimal digits, PostgreSQL adds hyphens.
    return func.replace(cast(column, String), "-", "")


def _erased_ids(entries: Collection[str]) -> set[str]:
    """Return the entries that the audit has. It has about as many erasures as the ledger."""
    stored = db.session.scalars(select(_hex(AuditEntry.account_id)).where(AuditEntry.act == "erased"))
    return {hex_id for hex_id in stored if hex_id in entries}


def _copy(entries: dict[str, str]) -> None:
    """Append another machine's entries to this instance's ledger, for the next restore."""
    missing = entries.keys() - dict(ledger.read()).keys()
    with ledger.opened() as append:
        append({uuid.UUID(hex_id): datetime.fromisoformat(entries[hex_id]) for hex_id in missing})


def _note_erased(entries: dict[str, str]) -> None:
    """Record the erasures that the restored database does not know."""
    if not entries:
        return
    with transaction() as session:
        # Several servers may start at once.
        lock("replay")
        unknown = sorted(entries.keys() - _erased_ids(entries))
        # SQLite stores 200,000 rows three times as fast in the order of both indexes.
        rows = [
            {"id": entry_id, "account_id": uuid.UUID(hex_id), "act": "erased", "actor": "service",
             "at": datetime.fromisoformat(entries[hex_id]),
             "details": {"requested_at": None, "erased_at": entries[hex_id], "removed": [], "kept": []}}
            for entry_id, hex_id in zip(sorted(uuid.uuid4() for _ in unknown), unknown, strict=True)
        ]  # fmt: skip
        statement = insert(AuditEntry.metadata.tables[AuditEntry.__tablename__])
        for start in range(0, len(rows), INSERTED_AT_ONCE):
            session.connection().execute(statement, rows[start : start + INSERTED_AT_ONCE])
