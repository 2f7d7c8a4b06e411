"""What was done with an account and by whom, so that it can be shown: it names no person."""

import uuid
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import delete, insert, select

from backend import clock
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.models import KEEP_RECORDS, AuditEntry, Disclosure

Act = Literal[
    "closed", "erasure-requested", "reopened", "erased",
    "found", "exported", "held", "released", "disclosed",
]  # fmt: skip
Actor = Literal["person", "data manager", "service"]
MOST_SHOWN = 1000


def note(act: Act, account_id: uuid.UUID, *, actor: Actor, **details: Any) -> uuid.UUID:
    """Write an act down, in the caller's transaction; its details are dates and counts, never text about a person."""
    entry_id = uuid.uuid4()
    entry = {"id": entry_id, "account_id": account_id, "act": act, "actor": actor, "at": clock.now()}
    db.session.execute(insert(AuditEntry).values(**entry, details=details))
    return entry_id


def is_erased(account_id: uuid.UUID) -> bool:
    """Tell, in the caller's transaction, whether an account with this id was erased."""
    erased = (AuditEntry.account_id == account_id) & (AuditEntry.act == "erased")
    return db.session.scalar(select(AuditEntry.id).where(erased).limit(1)) is not None


def entries(account_ids: Sequence[uuid.UUID] | None = None) -> list[AnyRow]:
    """Return the acts about these accounts or about all, the newest first, and not more than `MOST_SHOWN`."""
    columns = (AuditEntry.at, AuditEntry.actor, AuditEntry.act, AuditEntry.account_id, AuditEntry.details)
    wanted = select(*columns).order_by(AuditEntry.at.desc()).limit(MOST_SHOWN)
    if account_ids is not None:
        wanted = wanted.where(AuditEntry.account_id.in_(account_ids))
    with reading() as session:
        return list(session.execute(wanted))


def tidy() -> None:
    """Forget what no longer has to be shown."""
    oldest = clock.now() - KEEP_RECORDS
    with transaction() as session:
        session.execute(delete(AuditEntry).where(AuditEntry.at < oldest))
        session.execute(delete(Disclosure).where(Disclosure.disclosed_at < oldest))
