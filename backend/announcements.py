"""Mails to everybody who wants mails about TILES: given once, made batch by batch as the queue runs empty.

So a reset never waits behind an announcement, and an interruption neither loses nor repeats a mail.
"""

import hashlib
import unicodedata
import uuid
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, insert, select, update

from backend import clock
from backend.db import changed, db, insert_unless_taken, reading, transaction
from backend.errors import Impossible
from backend.models import REASON_LENGTH, Account, Announcement, Mail, Policy

BATCH = 50


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
        Impossible: no such version was published.
    """
    with reading() as session:
        if not version.isascii() or not session.scalar(select(Policy.version).where(Policy.version == version)):
            raise Impossible(f"version {version} is not published: see `tiles policy publish --help`")
    return _announce(f"policy\0{version}", policy_version=version)


def _announce(identity: str, **values: str) -> Progress:
    sha256 = hashlib.sha256(identity.encode()).hexdigest()
    new = {"id": uuid.uuid4(), "sha256": sha256, "created_at": clock.now(), "queued": 0}
    with transaction():
        db.session.execute(insert_unless_taken(Announcement).values(**new, **values))
    with reading() as session:
        return progress(session.scalars(select(Announcement.id).where(Announcement.sha256 == sha256)).one())


def progress(announcement: uuid.UUID) -> Progress:
    """Return how far an announcement has come."""
    with reading() as session:
        queued, finished_at = session.execute(
            select(Announcement.queued, Announcement.finished_at).where(Announcement.id == announcement)
        ).one()
        recipients = session.scalar(select(func.count()).select_from(Account).where(_wants_mails())) or 0
    return Progress(announcement, queued, recipients, finished_at is not None)


def _wants_mails() -> ColumnElement[bool]:
    return Account.email_updates & Account.closed_at.is_(None)


def queue_some() -> int:
    """Put the next mails of the oldest unfinished announcement in the queue; return how many, 0 when all are made."""
    with reading() as session:
        running = session.execute(
            select(Announcement.id, Announcement.reached)
            .where(Announcement.finished_at.is_(None))
            .order_by(Announcement.created_at)
            .limit(1)
        ).one_or_none()
    if running is None:
        return 0
    now = clock.now()
    following = select(Account.id).where(_wants_mails()).order_by(Account.id).limit(BATCH)
    if running.reached:
        following = following.where(Account.id > running.reached)
    with transaction() as session:
        # None of them is erased before its mail is in the queue.
        ids = session.scalars(following.with_for_update(read=True, key_share=True)).all()
        step = (
            {"reached": ids[-1], "queued": Announcement.queued + len(ids)}
            if ids
            else {"reached": None, "finished_at": now}
        )
        # Of several workers at the same place one goes on.
        here = (Announcement.id == running.id) & Announcement.reached.is_not_distinct_from(running.reached)
        if not changed(update(Announcement).where(here, Announcement.finished_at.is_(None)).values(**step)):
            return 0
        mails = [
            {"id": uuid.uuid4(), "kind": "announcement", "account_id": id_, "about": running.id, "attempts": 0,
             "created_at": now, "due_at": now}
            for id_ in ids
        ]  # fmt: skip
        if mails:
            session.execute(insert(Mail), mails)
    # Where one is finished the next may wait.
    return len(ids) or queue_some()
