"""Emails to everybody with an account, or to those who want emails about TILES, queued while the queue is empty.

So a reset never waits behind an announcement, and an interruption neither loses nor repeats an email.
"""

import hashlib
import uuid
from dataclasses import dataclass, replace
from typing import NoReturn

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update

from backend import clock
from backend.accounts import audit
from backend.accounts.fields import clean_email
from backend.database.engine import AnyRow, changed, insert_unless_taken, reading, transaction
from backend.database.models import REASON_LENGTH, Account, Announcement, Mail, Policy
from backend.database.paging import Key, Page, newest_first
from backend.errors import Impossible, Unknown
from backend.mail import messages, queue
from backend.mail.claims import IS_WAITING, oldest
from backend.mail.news import News, draft_for
from backend.mail.transport import Message
from backend.privacy.policy import VERSION
from backend.values import is_one_line

BATCH = 50
# While so many emails wait for a retry, no more are queued: claiming links reads every due announcement.
MOST_PUT_OFF = 10_000
IDS = 2**128
# A longer email is cut off by some programs, and does not fit into the form (web/bodies.py).
TEXT_LENGTH = 12_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How many emails were queued, how many people want them now, and whether all were queued."""

    announcement: uuid.UUID
    queued: int
    recipients: int
    finished: bool


def check(news: News, *, once: bool = False) -> News:
    """Return an announcement in its stored form; raise Impossible for a bad one, or with `once` for a repeated one."""
    news = _clean(news)
    row = _stored(news)
    if row and once:
        _refuse_repeated(row)
    return news


def _refuse_repeated(row: AnyRow) -> NoReturn:
    raise Impossible(f"this was announced already, on {row.created_at:%Y-%m-%d}: nobody gets it twice")


def _clean(news: News) -> News:
    if len(news.text or "") > TEXT_LENGTH:
        raise Impossible(f"the text is longer than {TEXT_LENGTH:,} characters")
    if news.version is not None:
        return _clean_policy(news, news.version)
    subject = (news.subject or "").strip()
    if not 1 <= len(subject) <= REASON_LENGTH or not is_one_line(subject):
        raise Impossible(f"write a subject of one line and at most {REASON_LENGTH} characters")
    if not (news.text or "").strip():
        raise Impossible("the text is empty: write it as plain text")
    return replace(news, subject=subject)


def _clean_policy(news: News, version: str) -> News:
    with reading() as session:
        published = select(Policy.version).where(Policy.is_published(version))
        if not VERSION.fullmatch(version) or not session.scalar(published):
            raise Impossible(f"version {version} is not published")
    if (news.material or news.text is not None) and not (news.text or "").strip():
        raise Impossible("write a summary of the change, as plain text")
    return news


def _sha256(news: News) -> str:
    identity = f"policy\0{news.version}" if news.version is not None else f"{news.subject}\0{news.text}"
    return hashlib.sha256(identity.encode()).hexdigest()


def _row(news: News) -> dict[str, str | bool | None]:
    return {"subject": news.subject, "text": news.text, "policy_version": news.version, "to_everybody": news.material}


def _stored(news: News) -> AnyRow | None:
    columns = Announcement.id, Announcement.created_at, Announcement.text, Announcement.to_everybody
    with reading() as session:
        row = session.execute(select(*columns).where(Announcement.sha256 == _sha256(news))).one_or_none()
    if row and (row.text, row.to_everybody) != (news.text, news.material):
        raise Impossible("this version was announced already, with another summary or to others")
    return row


def earlier(news: News) -> Progress | None:
    """Return the progress of the same announcement if it was begun before: a version is announced once."""
    row = _stored(check(news))
    return progress(row.id) if row else None


def announce(news: News, *, once: bool = False) -> Progress:
    """Begin an announcement; raise Impossible for a bad one.

    The same one again continues, or raises Impossible with `once`.
    """
    news, recipients = check(news), count_recipients(everybody=news.material)
    start = {"created_at": clock.now(), "queued": 0, "parts": max(1, recipients // BATCH), "parts_made": 0}
    row = {"id": uuid.uuid4(), "sha256": _sha256(news), **start, **_row(news)}
    with transaction():
        is_new = changed(insert_unless_taken(Announcement).values(row))
        stored = _stored(news)
        assert stored
        if is_new:
            audit.record("announced", None, actor="data manager", announcement=str(stored.id), recipients=recipients)
        elif once:
            _refuse_repeated(stored)
    return progress(stored.id)


def send_test(news: News, email: str) -> None:
    """Email an announcement to one address only, as people would get it; raise Impossible for a bad one.

    The queue stores no text: the row does, until the email has left. It has no parts, and `forget_tests` deletes it.
    """
    news, now, row_id = check(news), clock.now(), uuid.uuid4()
    row = {"id": row_id, "sha256": hashlib.sha256(row_id.bytes).hexdigest(), "created_at": now, "finished_at": now}
    try:
        email = clean_email(email)
    except ValueError as error:
        raise Impossible(str(error)) from None
    with transaction() as session:
        session.execute(insert(Announcement).values(**row, **_row(news), queued=0, parts=0, parts_made=0))
        queue.enqueue("announcement_test", email=email, about=row_id)


def forget_tests() -> None:
    """Delete the texts of tests whose email has left."""
    waits = exists().where(Mail.about == Announcement.id)
    with transaction() as session:
        session.execute(delete(Announcement).where(Announcement.parts == 0, ~waits))


def preview(news: News) -> Message:
    """Return the email of an announcement, addressed to no account; raise Impossible for a bad one."""
    nobody = uuid.uuid4()
    draft = draft_for(check(news), "you@example.org", nobody)
    if draft is None:
        raise Impossible("this version was withdrawn in this moment")
    return messages.render(draft, nobody)


_COLUMNS = (Announcement.id, Announcement.subject, Announcement.policy_version, Announcement.to_everybody,
          Announcement.created_at, Announcement.queued, Announcement.parts, Announcement.parts_made,
          Announcement.finished_at, Announcement.stopped_at)  # fmt: skip


def listed(after: Key | None = None) -> Page:
    """Return a page of announcements, the newest first."""
    query = select(*_COLUMNS).where(Announcement.parts > 0)
    return newest_first(query, Announcement.created_at, Announcement.id, after)


def find(announcement: uuid.UUID) -> AnyRow:
    """Return an announcement with its text, or raise Unknown."""
    query = select(*_COLUMNS, Announcement.text).where(Announcement.id == announcement, Announcement.parts > 0)
    with reading() as session:
        row = session.execute(query).one_or_none()
    if row is None:
        raise Unknown("there is no such announcement")
    return row


def stop(announcement: uuid.UUID) -> int:
    """Stop an announcement: no email is made any more, and those that wait are not sent. Return how many waited.

    Raises:
        Impossible: there is none with this id, it was stopped already, or all its emails have left.
    """
    row, now = find(announcement), clock.now()
    waiting = (Mail.kind == "announcement") & (Mail.about == announcement) & IS_WAITING
    with reading() as session:
        # Not in the transaction, because it reads all waiting emails.
        waited = session.scalar(select(func.count()).select_from(Mail).where(waiting)) or 0
    is_active = (Announcement.id == announcement) & Announcement.stopped_at.is_(None)
    stopped = {"stopped_at": now, "finished_at": func.coalesce(Announcement.finished_at, now)}
    with transaction() as session:
        if not changed(update(Announcement).where(is_active).values(**stopped)):
            raise Impossible("this announcement was stopped already")
        if row.finished_at and not waited:
            raise Impossible("all emails of this announcement have left")
        details = {"announcement": str(announcement), "queued": row.queued, "waited": waited}
        audit.record("announcement-stopped", None, actor="data manager", **details)
    return waited


def count_recipients(*, everybody: bool) -> int:
    """Return how many people get an announcement now."""
    is_recipient = Account.gets_news(everybody=everybody)
    with reading() as session:
        return session.scalar(select(func.count()).select_from(Account).where(is_recipient)) or 0


def progress(announcement: uuid.UUID) -> Progress:
    """Return the progress of an announcement."""
    row = find(announcement)
    recipients = count_recipients(everybody=row.to_everybody)
    return Progress(announcement, row.queued, recipients, row.finished_at is not None)


def queue_some() -> int:
    """Queue the next emails of the oldest unfinished announcement; return how many, 0 when all are queued.

    A part is a range of the random account ids, so that nothing is stored about a person.
    """
    while not _is_backlogged() and (announcement := _oldest_unfinished()) is not None:
        if queued := _queue_part(announcement):
            return queued
    return 0


def _is_backlogged() -> bool:
    put_off = oldest(IS_WAITING & (Mail.attempts > 0), Mail.attempts)
    with reading() as session:
        return session.scalar(put_off.offset(MOST_PUT_OFF - 1).limit(1)) is not None


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
        accounts = select(Account.id).where(Account.gets_news(everybody=announcement.to_everybody), part)
        ids = session.scalars(accounts.with_for_update(read=True, key_share=True)).all()
        step = {
            "parts_made": done,
            "queued": Announcement.queued + len(ids),
            "finished_at": now if done == announcement.parts else None,
        }
        # Of several workers that queue this part, one changes the row; none does once it was stopped.
        unmade = (Announcement.id == announcement.id) & (Announcement.parts_made == announcement.parts_made)
        if not changed(update(Announcement).where(unmade, Announcement.finished_at.is_(None)).values(**step)):
            return 0
        email = {"kind": "announcement", "about": announcement.id, "created_at": now, "due_at": now}
        if ids:
            session.execute(insert(Mail), [{"account_id": id_, **email} for id_ in ids])
    return len(ids)


def _is_in_part(part: int, parts: int) -> ColumnElement[bool]:
    """Return the condition that an account's id is in this part of all possible ids."""
    first, end = (IDS * number // parts for number in (part, part + 1))
    return Account.id.between(uuid.UUID(int=first), uuid.UUID(int=end - 1))
