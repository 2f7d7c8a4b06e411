"""The mail queue: requests insert rows in their own transaction, and workers claim, send and delete them.

A row says only what an email is about. The claims of a worker that dies expire: an email may then be sent twice, with
the same Message-ID, but none is lost.
"""

import logging
import random
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args
from typing import cast as typed

from sqlalchemy import ColumnElement, String, Table, Update, bindparam, cast, delete, func, insert, select, update
from sqlalchemy.exc import DataError, SQLAlchemyError

from backend import clock
from backend.config import settings
from backend.database import outbox, totals
from backend.database.engine import AnyRow, autocommit, changed, db, materialized, reading, transaction
from backend.database.models import FORGET_ABANDONED, Mail
from backend.mail import mailboxes
from backend.mail.messages import Kind
from backend.mail.smtp import FINAL_REPLY_SECONDS

# Of a batch, so many at first are emails that were never tried, so that none waits behind many retries.
BATCH, UNTRIED = 20, 15
# A worker renews its claim while it lives. After a worker was killed, its batch waits this long.
CLAIM = timedelta(seconds=45)
# So long after it has the whole email the server may still accept it (RFC 5321 section 4.5.3.2.6).
UNKNOWN_FATE = timedelta(seconds=FINAL_REPLY_SECONDS)
FIRST_RETRY = timedelta(seconds=15)
LONGEST_RETRY = timedelta(hours=1)
# An older email would only surprise. RFC 5321 section 4.5.4.1 allows 4 or 5 days.
GIVE_UP = timedelta(days=2)

KINDS = get_args(Kind)
SET_ASIDE = "unreadable"
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, DataError)
"""What Python and the drivers raise for a row whose values do not fit its columns."""
_COLUMNS = (Mail.id, Mail.kind, Mail.email, Mail.name, Mail.account_id, Mail.about, Mail.created_at, Mail.attempts,
            Mail.counted_on)  # fmt: skip
_TABLE = typed(Table, Mail.__table__)
_INSERT = insert(_TABLE)
_DELETE = delete(_TABLE).where(Mail.id == bindparam("finished"), Mail.claim == bindparam("claimed"))
_IS_WAITING = Mail.abandoned_at.is_(None)
_IS_UNTRIED = _IS_WAITING & (Mail.attempts == 0)

log = logging.getLogger(__name__)


def enqueue(
    kind: Kind,
    *,
    email: str | None = None,
    account_id: uuid.UUID | None = None,
    about: uuid.UUID | None = None,
) -> None:
    """Queue an email in the caller's transaction: it is sent if that commits."""
    now = clock.now()
    row = {"email": email, "account_id": account_id, "about": about, "created_at": now, "due_at": now, "attempts": 0}
    db.session.execute(_INSERT, {"id": uuid.uuid4(), "kind": kind, **row})


def accept(kind: Kind, *, email: str, name: str | None = None) -> None:
    """Queue an email in a transaction of its own: it will be sent once this returns."""
    now = clock.now()
    outbox.write(_INSERT, id=uuid.uuid4(), kind=kind, email=email, name=name, created_at=now, due_at=now, attempts=0)


# An unclaimed, untried email is always due, even if the system clock was set back.
_IS_DUE = _IS_WAITING & ((Mail.due_at <= bindparam("now")) | ((Mail.attempts == 0) & Mail.claim.is_(None)))


def _claim(condition: ColumnElement[bool], *order: Any) -> Update:
    """Return the statement that claims some emails; on PostgreSQL it skips those that others are claiming.

    Without the whole order of an index, each batch would sort all waiting emails, which takes longer than sending.
    """
    oldest = select(Mail.id).where(condition).order_by(Mail.abandoned_at, *order).limit(bindparam("most", BATCH))
    mine = Mail.id.in_(materialized(oldest.with_for_update(skip_locked=True)))
    claiming = update(Mail).where(mine).values(claim=bindparam("claimed"), due_at=bindparam("until"))
    # Otherwise the session reads the claimed ids, and fails on one that cannot be read.
    return claiming.execution_options(synchronize_session=False)


_ANY_DUE = select(Mail.id).where(_IS_DUE).limit(1)
# Links come before announcements.
_IS_LINK = _IS_DUE & (Mail.kind != "announcement")
_CLAIM_UNTRIED = _claim(_IS_LINK & _IS_UNTRIED, Mail.attempts, Mail.created_at)
_CLAIM_LINKS, _CLAIM_ANY = _claim(_IS_LINK, Mail.due_at), _claim(_IS_DUE, Mail.due_at)


def is_due() -> bool:
    """Return whether an email is due. Where the database does not respond, the worker's round reports that."""
    with suppress(SQLAlchemyError), autocommit() as connection:
        return connection.execute(_ANY_DUE, {"now": clock.now()}).first() is not None
    return False


def take() -> tuple[uuid.UUID, list[AnyRow]]:
    """Claim some due emails for one worker; return the claim and the rows."""
    now, claim = clock.now(), uuid.uuid4()
    with reading() as session:
        if not session.execute(_ANY_DUE, {"now": now}).first():
            return claim, []
    batch: list[AnyRow] = []
    while not batch and (claimed := _take(claim, now)):
        batch = _within_limits(claimed)
    # A stranger who requests emails before and after someone else's learns less from when they arrive.
    random.shuffle(batch)
    return claim, batch


def _take(claim: uuid.UUID, now: datetime) -> list[AnyRow]:
    values = {"now": now, "claimed": claim, "until": now + CLAIM}
    with transaction():
        untried = changed(_CLAIM_UNTRIED, most=UNTRIED, **values)
        links = untried + changed(_CLAIM_LINKS, most=BATCH - untried, **values)
        if not (links or changed(_CLAIM_ANY, most=BATCH, **values)):
            return []
    try:
        with reading() as session:
            return list(session.execute(select(*_COLUMNS).where(Mail.claim == claim)))
    except UNREADABLE:
        return _set_unreadable_aside(claim)


def _set_unreadable_aside(claim: uuid.UUID) -> list[AnyRow]:
    """Give up the claimed rows that cannot be read, and return the others."""
    raw_id = cast(Mail.id, String)
    batch = []
    with transaction() as session:
        for id_ in session.scalars(select(raw_id).where(Mail.claim == claim)).all():
            try:
                batch.append(session.execute(select(*_COLUMNS).where(raw_id == id_)).one())
            except UNREADABLE:
                log.error("an email is set aside: its row cannot be read")  # noqa: TRY400 - the error may quote it
                given_up = update(Mail).where(raw_id == id_)
                given_up = given_up.values(abandoned_at=clock.now(), failure=SET_ASIDE, claim=None)
                session.execute(given_up.execution_options(synchronize_session=False))
    return batch


def renew(claim: uuid.UUID, *, unknown_fate: uuid.UUID | None = None) -> None:
    """Keep claimed emails from other workers: for longer the one that the server may have accepted."""
    now = clock.now()
    with transaction() as session:
        mine = update(Mail).where(Mail.claim == claim)
        session.execute(mine.where(Mail.due_at < now + CLAIM).values(due_at=now + CLAIM))
        if unknown_fate:
            session.execute(mine.where(Mail.id == unknown_fate).values(due_at=now + UNKNOWN_FATE))


def _within_limits(rows: list[AnyRow]) -> list[AnyRow]:
    """Count each email once against its mailbox's daily limit, before any look-up; delete those over the limit."""
    # A row without a readable address is set aside when it is drafted.
    limited = [row for row in rows if row.kind in mailboxes.GROUPS and isinstance(row.email, str)]
    new = [row for row in limited if not (row.counted_on or row.attempts)]
    if not new or not settings().is_limited:
        return rows
    with transaction() as session:
        over_limit = mailboxes.count(new)
        counted = Mail.id.in_([row.id for row in new])
        session.execute(update(Mail).where(counted).values(counted_on=clock.now().date()))
        session.execute(delete(Mail).where(Mail.id.in_(over_limit)))
        totals.add("mails_over_limit", len(over_limit))
    return [row for row in rows if row.id not in over_limit]


def finish(rows: Sequence[AnyRow], claim: uuid.UUID, outcome: totals.Event) -> None:
    """Delete emails that were handed over, or that nobody is to get."""
    if not rows:
        return
    with transaction() as session:
        session.execute(_DELETE, [{"finished": row.id, "claimed": claim} for row in rows])
        totals.add(outcome, len(rows))


def release(claim: uuid.UUID, *, blocked_by: str | None = None) -> None:
    """Give back the claimed emails that were not tried; `blocked_by` says what the operator has to resolve first."""
    now = clock.now()
    blocked = {"failure": blocked_by, "blocked_at": now} if blocked_by else {}
    with transaction() as session:
        session.execute(update(Mail).where(Mail.claim == claim, _IS_WAITING).values(claim=None, due_at=now, **blocked))


def put_off(
    row: AnyRow, claim: uuid.UUID, failure: str, *, at_least: timedelta = FIRST_RETRY, blocked: bool = False
) -> None:
    """Try the email again later, each time after twice the wait; a blocked one waits for the operator."""
    now = clock.now()
    wait = max(min(FIRST_RETRY * 2 ** min(row.attempts, 16), LONGEST_RETRY), at_least)
    log.log(logging.DEBUG if blocked else logging.WARNING, "email %s put off: %s", row.kind, failure)
    values = {"failure": failure, "due_at": now + wait, "blocked_at": now if blocked else None}
    _note_attempt(row, claim, "mails_put_off", values)


def give_up(row: AnyRow, claim: uuid.UUID, failure: str) -> None:
    """Never try the email again, and keep it where the operator sees it."""
    log.warning("email %s given up: %s", row.kind if row.kind in KINDS else "of an unknown kind", failure)
    if row.kind == "erased":
        # The account is erased: nothing may keep its address.
        finish([row], claim, "mails_given_up")
        return
    values = {"failure": failure, "abandoned_at": clock.now(), "blocked_at": None}
    _note_attempt(row, claim, "mails_given_up", values)


def _note_attempt(row: AnyRow, claim: uuid.UUID, outcome: totals.Event, values: dict[str, object]) -> None:
    with transaction() as session:
        mine = update(Mail).where(Mail.id == row.id, Mail.claim == claim)
        session.execute(mine.values(attempts=Mail.attempts + 1, claim=None, **values))
        totals.add(outcome, 1)


def _count_by_failure(condition: ColumnElement[bool]) -> dict[str, int]:
    counting = select(Mail.failure, func.count().label("number")).where(condition).group_by(Mail.failure)
    with reading() as session:
        return {row.failure: row.number for row in session.execute(counting.order_by(Mail.failure))}


def blocked() -> dict[str, int]:
    """Return how many emails wait for the operator, by the code of the reason."""
    return _count_by_failure(Mail.blocked_at.is_not(None))


def unblock() -> None:
    """Note that emails leave: no email waits for the operator any more."""
    if blocked():
        with transaction() as session:
            session.execute(update(Mail).where(Mail.blocked_at.is_not(None)).values(blocked_at=None))


@dataclass(frozen=True, slots=True)
class Status:
    """How many emails wait untried, wait for a retry, and were given up.

    `oldest_seconds` is the age of the oldest untried one: it grows while the mail server is away, and not while one
    mailbox refuses.
    """

    waiting: int
    retrying: int
    abandoned: int
    oldest_seconds: int


_BY_AGE = (Mail.abandoned_at, Mail.attempts, Mail.created_at)  # as their index is sorted
_OLDEST = select(Mail.created_at).where(_IS_UNTRIED).order_by(*_BY_AGE).limit(1)
_COUNTS = [
    select(func.count()).select_from(Mail).where(condition).scalar_subquery()
    for condition in (_IS_UNTRIED, _IS_WAITING, ~_IS_WAITING)
]


def status() -> Status:
    """Return the queue at a glance."""
    with reading() as session:
        untried, waiting, abandoned = session.execute(select(*_COUNTS)).one()
    return Status(untried, waiting - untried, abandoned, oldest_seconds())


def oldest_seconds() -> int:
    """Return the age of the oldest email that was never tried; 0 if there is none."""
    with reading() as session:
        oldest = session.scalar(_OLDEST)
    return int((clock.now() - oldest).total_seconds()) if oldest else 0


def failures(*, given_up: bool = False) -> dict[str, int]:
    """Return how many emails were put off, or given up, by the code of the reason."""
    return _count_by_failure(Mail.failure.is_not(None) & (~_IS_WAITING if given_up else _IS_WAITING))


def retry() -> int:
    """Queue every email that was put off or given up again; return how many."""
    now = clock.now()
    failed = update(Mail).where((Mail.attempts > 0) | ~_IS_WAITING, Mail.claim.is_(None))
    anew = {"abandoned_at": None, "blocked_at": None, "attempts": 0, "created_at": now, "due_at": now}
    with transaction():
        return changed(failed.values(**anew))


def tidy() -> None:
    """Give up emails that have waited too long, and delete those that were given up long ago."""
    now = clock.now()
    # No worker is sending it.
    is_late = _IS_WAITING & (Mail.claim.is_(None) | (Mail.due_at <= now)) & (Mail.created_at < now - GIVE_UP)
    given_up = 0
    with transaction() as session:
        # Each of the two finds its rows by the index.
        for late in (is_late & (Mail.attempts == 0), is_late & (Mail.attempts > 0)):
            session.execute(delete(Mail).where(late, Mail.kind == "erased"))
            given_up += changed(update(Mail).where(late).values(abandoned_at=now, blocked_at=None, claim=None))
        session.execute(delete(Mail).where(Mail.abandoned_at < now - FORGET_ABANDONED))
        totals.add("mails_given_up", given_up)
