"""Emails to everybody with an account, or to those who want emails about TILES, queued while the queue is empty.

So a reset never waits behind an announcement, and an interruption neither loses nor repeats an email.
"""

import hashlib
import unicodedata
import uuid
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, insert, select, update

from backend import clock
from backend.database.engine import AnyRow, changed, db, insert_unless_taken, reading, transaction
from backend.database.models import REASON_LENGTH, Account, Announcement, Mail, Policy
from backend.errors import Impossible

BATCH = 50
IDS = 2**128


@dataclass(frozen=True, slots=True)
class Progress:
    """How many emails were queued, how many people want them now, and whether all were queued."""

    announcement: uuid.UUID
    queued: int
    recipients: int
    finished: bool


def announce(*, subject: str, text: str) -> Progress:
    """Begin an announcement, or continue the one with the same subject and text; raise Impossible for invalid ones."""
    subject = subject.strip()
    one_line = not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in subject)
    if not 1 <= len(subject) <= REASON_LENGTH or not one_line:
        raise Impossible(f"write a subject of one line and at most {REASON_LENGTH} characters")
    if not text.strip():
        raise Impossible("the text is empty: give a file with plain text")
    return _announce(f"{subject}\0{text}", subject=subject, text=text)


def announce_policy(version: str, *, summary: str | None = None, material: bool = False) -> Progress:
    """Announce a published version of the privacy policy once; raise Impossible if there is none.

    A material change is a service message: it goes to everybody with an account, with the summary.
    """
    published = select(Policy.version).where(Policy.version == version, Policy.withdrawn_at.is_(None))
    with reading() as session:
        if not version.isascii() or not session.scalar(published):
            raise Impossible(f"version {version} is not published: see `tiles policy list`")
    if (material or summary is not None) and not (summary or "").strip():
        raise Impossible("write a summary of the change: give --summary a file with plain text")
    return _announce(f"policy\0{version}", policy_version=version, text=summary, to_everybody=material)


def _announce(identity: str, *, to_everybody: bool = False, **values: str | None) -> Progress:
    sha256 = hashlib.sha256(identity.encode()).hexdigest()
    with reading():
        parts = max(1, _count_recipients(everybody=to_everybody) // BATCH)
    start = {"created_at": clock.now(), "queued": 0, "parts": parts, "parts_made": 0}
    with transaction() as session:
        new = {"id": uuid.uuid4(), "sha256": sha256, "to_everybody": to_everybody, **start, **values}
        session.execute(insert_unless_taken(Announcement).values(new))
        columns = (Announcement.id, Announcement.text, Announcement.to_everybody)
        row = session.execute(select(*columns).where(Announcement.sha256 == sha256)).one()
        if (row.text, row.to_everybody) != (values.get("text"), to_everybody):
            raise Impossible("this version was announced already, with another summary or to others")
    return progress(row.id)


def _count_recipients(*, everybody: bool) -> int:
    told = Account.is_told(everybody=everybody)
    return db.session.scalar(select(func.count()).select_from(Account).where(told)) or 0


def progress(announcement: uuid.UUID) -> Progress:
    """Return the progress of an announcement."""
    columns = (Announcement.queued, Announcement.finished_at, Announcement.to_everybody)
    with reading() as session:
        row = session.execute(select(*columns).where(Announcement.id == announcement)).one()
        recipients = _count_recipients(everybody=row.to_everybody)
    return Progress(announcement, row.queued, recipients, row.finished_at is not None)


def queue_some() -> int:
    """Queue the next emails of the oldest unfinished announcement; return how many, 0 when all are queued.

    A part is a range of the random account ids, so that nothing is stored about a person.
    """
    while (announcement := _oldest_unfinished()) is not None:
        if queued := _queue_part(announcement):
            return queued
    return 0


def _oldest_unfinished() -> AnyRow | None:
    columns = (Announcement.id, Announcement.parts, Announcement.parts_made, Announcement.to_everybody)
    unfinished = select(*columns).where(Announcement.finished_at.is_(None))
    with reading() as session:
        return session.execute(unfinished.order_by(Announcement.created_at).limit(1)).one_or_none()


def _queue_part(announcement: AnyRow) -> int:
    now, done = clock.now(), announcement.parts_made + 1
    with transaction() as session:
        # Locked, so that no account is erased before its email is queued.
        part = _is_in_part(announcement.parts_made, announcement.parts)
        accounts = select(Account.id).where(Account.is_told(everybody=announcement.to_everybody), part)
        ids = session.scalars(accounts.with_for_update(read=True, key_share=True)).all()
        step = {
            "parts_made": done,
            "queued": Announcement.queued + len(ids),
            "finished_at": now if done == announcement.parts else None,
        }
        # Of several workers that queue this part, one changes the row.
        unmade = (Announcement.id == announcement.id) & (Announcement.parts_made == announcement.parts_made)
        if not changed(update(Announcement).where(unmade).values(**step)):
            return 0
        email = {"kind": "announcement", "about": announcement.id, "attempts": 0, "created_at": now, "due_at": now}
        if ids:
            session.execute(insert(Mail), [{"id": uuid.uuid4(), "account_id": id_, **email} for id_ in ids])
    return len(ids)


def _is_in_part(part: int, parts: int) -> ColumnElement[bool]:
    """Return the condition that an account's id is in this part of all possible ids."""
    first, end = (IDS * number // parts for number in (part, part + 1))
    return Account.id.between(uuid.UUID(int=first), uuid.UUID(int=end - 1))
