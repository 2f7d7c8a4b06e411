"""The audit trail: each act with its time and its actor. It names no person with an account."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import InstrumentedAttribute

from backend import clock
from backend.database.desk_tables import DataRequest, Manager
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.models import KEEP_RECORDS, AuditEntry, Disclosure
from backend.database.paging import Key, Page, newest_first
from backend.database.steps import in_steps

Act = Literal[
    "closed", "erasure-requested", "reopened", "erased",
    "found", "looked-at", "exported", "renamed", "unsubscribed", "subscribed", "email-change-requested",
    "held", "released", "disclosed",
    "request-recorded", "request-extended", "request-done",
    "feedback-read", "feedback-exported", "feedback-done", "feedback-reopened", "feedback-deleted", "feedback-answered",
    "policy-published", "policy-withdrawn", "announced", "announcement-stopped",
    "manager-invited", "manager-removed", "signed-in",
]  # fmt: skip
ACTS: tuple[Act, ...] = get_args(Act)
Actor = Literal["person", "data manager", "service"]
LOOKING: tuple[Act, ...] = "found", "looked-at", "exported"
MOST_SHOWN = 1000

_manager: ContextVar[uuid.UUID | None] = ContextVar("manager", default=None)


@contextmanager
def acting(manager_id: uuid.UUID) -> Iterator[None]:
    """Record this data manager as the actor inside the block. Commands record no manager."""
    token = _manager.set(manager_id)
    try:
        yield
    finally:
        _manager.reset(token)


def record(act: Act, account_id: uuid.UUID | None, *, actor: Actor, **details: Any) -> uuid.UUID:
    """Record an act in the caller's transaction.

    Its details are dates, counts, versions and legal reasons; they name nobody.
    """
    entry_id = uuid.uuid4()
    entry = {"id": entry_id, "account_id": account_id, "act": act, "actor": actor, "at": clock.now()}
    manager_id = _manager.get() if actor == "data manager" else None
    db.session.execute(insert(AuditEntry).values(**entry, manager_id=manager_id, details=details))
    return entry_id


def newest_change(account_id: uuid.UUID) -> uuid.UUID | None:
    """Return the newest entry about an account that is more than a look at it."""
    changes = select(AuditEntry.id).where(AuditEntry.account_id == account_id, AuditEntry.act.not_in(LOOKING))
    with reading() as session:
        return session.scalar(changes.order_by(AuditEntry.at.desc(), AuditEntry.id).limit(1))


def is_erased(account_id: uuid.UUID) -> bool:
    """Return whether an account with this id was erased, in the caller's transaction."""
    erased = (AuditEntry.account_id == account_id) & (AuditEntry.act == "erased")
    return db.session.scalar(select(AuditEntry.id).where(erased).limit(1)) is not None


def _entries(*more: InstrumentedAttribute[Any]) -> Select[*tuple[Any, ...]]:
    """Return the query of all entries, each with its manager's name, also of a removed one."""
    columns = (AuditEntry.at, AuditEntry.actor, Manager.name.label("manager"), AuditEntry.act,
               AuditEntry.account_id, AuditEntry.details)  # fmt: skip
    return select(*columns, *more).outerjoin(Manager, Manager.id == AuditEntry.manager_id)


def entries(account_ids: Sequence[uuid.UUID] | None = None) -> list[AnyRow]:
    """Return the newest `MOST_SHOWN` entries, the newest first: of these accounts, or of all."""
    newest = _entries().order_by(AuditEntry.at.desc()).limit(MOST_SHOWN)
    if account_ids is not None:
        newest = newest.where(AuditEntry.account_id.in_(account_ids))
    with reading() as session:
        return list(session.execute(newest))


def listed(after: Key | None = None, *, act: Act | None = None) -> Page:
    """Return a page of entries, the newest first: of all, or of those of an act."""
    query = _entries(AuditEntry.id)
    if act:
        query = query.where(AuditEntry.act == act)
    return newest_first(query, AuditEntry.at, AuditEntry.id, after)


def tidy() -> Iterator[int]:
    """Delete the records that are older than `KEEP_RECORDS`."""
    oldest = clock.now() - KEEP_RECORDS
    yield from in_steps(delete(AuditEntry), AuditEntry.at < oldest)
    with transaction() as session:
        session.execute(delete(Disclosure).where(Disclosure.disclosed_at < oldest))
        session.execute(delete(DataRequest).where(DataRequest.done_on < oldest.date()))
        session.execute(delete(Manager).where(Manager.removed_at < oldest))
