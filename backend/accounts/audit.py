"""The audit trail: which act was done with an account, when and by whom. It names nobody."""

import uuid
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import delete, insert, select

from backend import clock
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.models import KEEP_RECORDS, AuditEntry, Disclosure

Act = Literal[
    "closed", "erasure-requested", "reopened", "erased",
    "found", "exported", "renamed", "unsubscribed", "held", "released", "disclosed",
]  # fmt: skip
Actor = Literal["person", "data manager", "service"]
MOST_SHOWN = 1000


def record(act: Act, account_id: uuid.UUID, *, actor: Actor, **details: Any) -> uuid.UUID:
    """Record an act in the caller's transaction. Its details are dates and counts, never text about a person."""
    entry_id = uuid.uuid4()
    entry = {"id": entry_id, "account_id": account_id, "act": act, "actor": actor, "at": clock.now()}
    db.session.execute(insert(AuditEntry).values(**entry, details=details))
    return entry_id


def is_erased(account_id: uuid.UUID) -> bool:
    """Tell, in the caller's transaction, whether an account with this id was erased."""
    erased = (AuditEntry.account_id == account_id) & (AuditEntry.act == "erased")
    return db.session.scalar(select(AuditEntry.id).where(erased).limit(1)) is not None


def entries(account_ids: Sequence[uuid.UUID] | None = None) -> list[AnyRow]:
    """Return the newest `MOST_SHOWN` acts, newest first: of these accounts, or of all."""
    columns = (AuditEntry.at, AuditEntry.actor, AuditEntry.act, AuditEntry.account_id, AuditEntry.details)
    newest = select(*columns).order_by(AuditEntry.at.desc()).limit(MOST_SHOWN)
    if account_ids is not None:
        newest = newest.where(AuditEntry.account_id.in_(account_ids))
    with reading() as session:
        return list(session.execute(newest))


def tidy() -> None:
    """Delete the records that are older than `KEEP_RECORDS`."""
    oldest = clock.now() - KEEP_RECORDS
    with transaction() as session:
        session.execute(delete(AuditEntry).where(AuditEntry.at < oldest))
        session.execute(delete(Disclosure).where(Disclosure.disclosed_at < oldest))
