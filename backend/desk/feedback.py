"""The data manager's operations on feedback: read it, reply by email, mark it as done, delete it."""

import csv
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Select, delete, func, insert, select, update

from backend import clock
from backend.accounts import audit
from backend.database.desk_tables import Reply
from backend.database.engine import AnyRow, changed, db, reading, transaction
from backend.database.models import Account, Feedback
from backend.database.paging import Key, Page, end_of, newest_first
from backend.database.scrub import leave_remains
from backend.desk.operations import MANAGER
from backend.errors import Impossible, Unknown
from backend.mail import queue

COLUMNS = ("id", "received_at", "done_at", "signed_in", "message")
# With the full-width signs, which some spreadsheet programs read as the others.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
UNKNOWN = "there is no message with this id: it may have been deleted, or erased with its account"


class Filter(NamedTuple):
    """Which messages to return: the open or the done ones, and those of some days (UTC, both included)."""

    state: Literal["open", "done"] | None = None
    first: date | None = None
    last: date | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions of a query."""
        state = {"open": Feedback.done_at.is_(None), "done": Feedback.done_at.is_not(None), None: None}[self.state]
        first = Feedback.received_at >= datetime.combine(self.first, time.min, UTC) if self.first else None
        last = Feedback.received_at <= end_of(self.last) if self.last else None
        return [condition for condition in (state, first, last) if condition is not None]


EVERY = Filter()


def listed(filters: Filter = EVERY, *, act: audit.Act = "feedback-read") -> list[AnyRow]:
    """Return the messages that match, the newest first, and whether its sender was signed in."""
    with reading() as session:
        rows = list(session.execute(_select(filters).order_by(Feedback.received_at.desc(), Feedback.id.desc())))
    _record(act, None, messages=len(rows))
    return rows


def exported(filters: Filter = EVERY) -> list[dict[str, Any]]:
    """Return the messages that match, the newest first, with its times as text."""
    rows = listed(filters, act="feedback-exported")
    return [{name: clock.plain(value) for name, value in row._asdict().items()} for row in rows]


def spreadsheet(rows: list[dict[str, Any]]) -> str:
    """Return exported messages as CSV (RFC 4180) in which nothing is a formula (OWASP, CSV Injection)."""
    file = io.StringIO(newline="")
    # Without this mark, spreadsheet programs take UTF-8 for another encoding.
    file.write("\ufeff")
    table = csv.DictWriter(file, COLUMNS, quoting=csv.QUOTE_ALL)
    table.writeheader()
    table.writerows({name: _harmless(row[name]) for name in COLUMNS} for row in rows)
    return file.getvalue()


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def page(filters: Filter = EVERY, after: Key | None = None) -> Page:
    """Return a page of the messages that match, the newest first."""
    messages = newest_first(_select(filters), Feedback.received_at, Feedback.id, after)
    _record("feedback-read", None, messages=len(messages.rows))
    return messages


def _select(filters: Filter) -> Select[Any]:
    signed_in = Feedback.account_id.is_not(None).label("signed_in")
    columns: tuple[Any, ...] = (Feedback.id, Feedback.received_at, Feedback.done_at, signed_in, Feedback.message)
    return select(*columns).where(*filters.conditions())


def _record(act: audit.Act, account_id: uuid.UUID | None, **details: object) -> None:
    with transaction():
        audit.record(act, account_id, actor=MANAGER, **details)


@dataclass(frozen=True, slots=True)
class Message:
    """A message, its replies, and whether its writer can be sent one: an open account that wants emails about TILES."""

    id: uuid.UUID
    received_at: datetime
    done_at: datetime | None
    account: uuid.UUID | None
    message: str
    may_reply: bool
    replies: Sequence[AnyRow]


def read(feedback_id: uuid.UUID) -> Message:
    """Return a message; raise Unknown if there is none."""
    is_told = Account.is_told(everybody=False).label("is_told")
    columns = (Feedback.id, Feedback.received_at, Feedback.done_at, Feedback.account_id, Feedback.message, is_told)
    query = select(*columns).outerjoin(Account, Account.id == Feedback.account_id).where(Feedback.id == feedback_id)
    replies = select(Reply.written_at, Reply.message).where(Reply.feedback_id == feedback_id).order_by(Reply.written_at)
    with reading() as session:
        row, sent = session.execute(query).one_or_none(), list(session.execute(replies))
    if row is None:
        raise Unknown(UNKNOWN)
    _record("feedback-read", row.account_id, messages=1)
    return Message(*row[:5], bool(row.is_told), sent)


def finish(feedback_id: uuid.UUID) -> None:
    """Mark a message as done."""
    _mark(feedback_id, clock.now(), "feedback-done", "this message is done already")


def reopen(feedback_id: uuid.UUID) -> None:
    """Mark a message as open again."""
    _mark(feedback_id, None, "feedback-reopened", "this message is open already")


def _mark(feedback_id: uuid.UUID, done_at: datetime | None, act: audit.Act, already: str) -> None:
    other = Feedback.done_at.is_(None) if done_at else Feedback.done_at.is_not(None)
    with transaction():
        account_id = _writer(feedback_id)
        if not changed(update(Feedback).where(Feedback.id == feedback_id, other).values(done_at=done_at)):
            raise Impossible(already)
        audit.record(act, account_id, actor=MANAGER)


def remove(feedback_id: uuid.UUID) -> None:
    """Delete a message and its replies for good."""
    with transaction():
        account_id = _writer(feedback_id)
        if not changed(delete(Feedback).where(Feedback.id == feedback_id)):
            raise Unknown(UNKNOWN)
        leave_remains()
        audit.record("feedback-deleted", account_id, actor=MANAGER)


def reply(feedback_id: uuid.UUID, *, message: str, after: int) -> None:
    """Email a reply to the writer of a message.

    Args:
        feedback_id: the message.
        message: the reply, as `clean_message` returns it.
        after: how many replies the data manager has seen, so that a form that is sent twice is one reply.
    """
    with transaction() as session:
        account_id = _writer(feedback_id)
        is_told = (Account.id == account_id) & Account.is_told(everybody=False) & Account.erasing_since.is_(None)
        # In the order in which an erasure locks them.
        recipient = session.scalar(select(Account.id).where(is_told).with_for_update())
        _writer(feedback_id, lock=True)
        if recipient is None:
            raise Impossible("the writer has no open account that wants emails about TILES: nothing was sent")
        if session.scalar(select(func.count()).where(Reply.feedback_id == feedback_id)) != after:
            raise Impossible("a reply was sent meanwhile: read it first, and reply again if you still want to")
        reply_id = uuid.uuid4()
        row = {"id": reply_id, "feedback_id": feedback_id, "account_id": account_id, "written_at": clock.now()}
        session.execute(insert(Reply).values(**row, message=message))
        queue.enqueue("feedback_reply", account_id=account_id, about=reply_id)
        audit.record("feedback-answered", account_id, actor=MANAGER)


def _writer(feedback_id: uuid.UUID, *, lock: bool = False) -> uuid.UUID | None:
    """Return the account that wrote a message, in the caller's transaction; raise Unknown without such a message."""
    query = select(Feedback.id, Feedback.account_id).where(Feedback.id == feedback_id)
    row = db.session.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise Unknown(UNKNOWN)
    account_id: uuid.UUID | None = row.account_id
    return account_id
