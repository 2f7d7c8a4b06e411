"""Mails to everybody who wants mails about TILES: given once, made batch by batch as the queue runs empty.

So a reset never waits behind an announcement, and an interruption neither loses nor repeats a mail.
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
    """How far an announcement has come: mails made, people who want mails now, and whether all were made."""

    announcement: uuid.UUID
    queued: int
    recipients: int
    finished: bool


def announce(*, subject: str, text: str) -> Progress:
    """Announce something; the same subject and text again is the same announcement, and goes on where it was.

    Raises:
        Impossible: the subject is not one line, or the text is empty.
    """
    subject = subject.strip()
    one_line = not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in subject)
    if not 1 <= len(subject) <= REASON_LENGTH or not one_line:
        raise Impossible(f"write a subject of one line and at most {REASON_LENGTH} characters")
    if not text.strip():
        raise Impossible("the text is empty: give a file with plain text")
    return _announce(f"{subject}\0{text}", subject=subject, text=text)


def announce_policy(version: str) -> Progress:
    """Announce a published version of the privacy policy, once.

    Raises:
        Impossible: no such version was published, or it was withdrawn.
    """
    published = select(Policy.version).where(Policy.version == version, Policy.withdrawn_at.is_(None))
    with reading() as session:
        if not version.isascii() or not session.scalar(published):
            raise Impossible(f"version {version} is not published: see `tiles policy list`")
    return _announce(f"policy\0{version}", policy_version=version)


def _announce(identity: str, **values: str) -> Progress:
    sha256 = hashlib.sha256(identity.encode()).hexdigest()
    with reading():
        parts = max(1, _count_recipients() // BATCH)
    new = {
        "id": uuid.uuid4(),
        "sha256": sha256,
        "created_at": clock.now(),
        "queued": 0,
        "parts": parts,
        "parts_made": 0,
    }
    with transaction():
        db.session.execute(insert_unless_taken(Announcement).values(**new, **values))
    with reading() as session:
        return progress(session.scalars(select(Announcement.id).where(Announcement.sha256 == sha256)).one())


def _count_recipients() -> int:
    return db.session.scalar(select(func.count()).select_from(Account).where(Account.wants_mails())) or 0


def progress(announcement: uuid.UUID) -> Progress:
    """Return how far an announcement has come."""
    with reading() as session:
        queued, finished_at = session.execute(
            select(Announcement.queued, Announcement.finished_at).where(Announcement.id == announcement)
        ).one()
        recipients = _count_recipients()
    return Progress(announcement, queued, recipients, finished_at is not None)


def queue_some() -> int:
    """Put the next mails of the oldest unfinished announcement in the queue; return how many, 0 when all are made.

    A part is a range of the random ids that accounts have, so that nothing about anybody is noted.
    """
    while (running := _running()) is not None:
        if made := _queue_part(running):
            return made
    return 0


def _running() -> AnyRow | None:
    columns = (Announcement.id, Announcement.parts, Announcement.parts_made)
    oldest = select(*columns).where(Announcement.finished_at.is_(None)).order_by(Announcement.created_at).limit(1)
    with reading() as session:
        return session.execute(oldest).one_or_none()


def _queue_part(running: AnyRow) -> int:
    now, next_part = clock.now(), running.parts_made + 1
    finished_at = now if next_part == running.parts else None
    with transaction() as session:
        # None of them is erased before its mail is in the queue.
        part = select(Account.id).where(Account.wants_mails(), *_range(running.parts_made, running.parts))
        ids = session.scalars(part.with_for_update(read=True, key_share=True)).all()
        # Of several workers at the same part one goes on.
        here = (Announcement.id == running.id) & (Announcement.parts_made == running.parts_made)
        step = {"parts_made": next_part, "queued": Announcement.queued + len(ids), "finished_at": finished_at}
        if not changed(update(Announcement).where(here).values(**step)):
            return 0
        mails = [
            {"id": uuid.uuid4(), "kind": "announcement", "account_id": id_, "about": running.id, "attempts": 0,
             "created_at": now, "due_at": now}
            for id_ in ids
        ]  # fmt: skip
        if mails:
            session.execute(insert(Mail), mails)
    return len(ids)


def _range(part: int, parts: int) -> list[ColumnElement[bool]]:
    """Return the condition that an account's id is in this part of all ids there can be."""
    first, end = (IDS * number // parts for number in (part, part + 1))
    bounds = [Account.id >= uuid.UUID(int=first)]
    return bounds if end == IDS else [*bounds, Account.id < uuid.UUID(int=end)]
