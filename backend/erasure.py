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

from sqlalchemy import ColumnElement, Select, Update, delete, func, insert, select, update

from backend import audit, clock, ledger, lockout, mail, mailboxes, receipts, totals
from backend.credentials import lock_address
from backend.db import AnyRow, db, reading, transaction
from backend.models import KEEP_RECORDS, Account, AuditEntry, Hold, Mail
from backend.privacy import basis_of, rows_about, tables_about_people
from backend.remains import leave_remains
from backend.throttle import throttle

BATCH = 100
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
        append(dict.fromkeys(taken, now))
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
                mail.enqueue("erased", email=account.email, about=entry)
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
    return receipts.verify(receipt)


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
    ids, erased = list(entries), 0
    if path:
        _copy(entries)
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        # What is marked is about to be erased anyway, and to be told.
        erased += _erase(Account.id.in_(batch) & Account.erasing_since.is_(None), clock.now(), tell=False)
        _remember({id_: entries[id_] for id_ in batch})
        _forget_registrations(batch)
    return Replayed(len(ids), erased)


def _copy(entries: dict[uuid.UUID, datetime]) -> None:
    """Write into this instance's ledger what it lacks of another: the next restore asks this one."""
    known = dict(ledger.read())
    with ledger.opened() as append:
        append({id_: erased_at for id_, erased_at in entries.items() if id_ not in known})


def _forget_registrations(ids: list[uuid.UUID]) -> None:
    """Delete the mails of registrations that were finished, and erased again, after the backup was made."""
    with transaction() as session:
        # An account has the id of the mail with which it began.
        if session.scalar(select(Mail.id).where(Mail.id.in_(ids)).limit(1)):
            session.execute(delete(Mail).where(Mail.id.in_(ids)))
            leave_remains()


def _remember(entries: dict[uuid.UUID, datetime]) -> None:
    """Note those erasures that the restored database does not know of."""
    known = select(AuditEntry.account_id).where(AuditEntry.account_id.in_(entries), AuditEntry.act == "erased")
    marked = select(Account.id).where(Account.id.in_(entries))
    with transaction() as session:
        present = {*session.scalars(known), *session.scalars(marked)}
        recent = clock.now() - KEEP_RECORDS
        new = [
            {"id": uuid.uuid4(), "account_id": id_, "act": "erased", "actor": "service", "at": at,
             "details": {"requested_at": None, "erased_at": clock.rfc3339(at), "removed": [], "kept": []}}
            for id_, at in entries.items() if id_ not in present and at > recent
        ]  # fmt: skip
        if new:
            session.execute(insert(AuditEntry), new)
