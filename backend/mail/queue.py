"""The mail queue: requests insert rows in their own transaction, and workers claim, send and delete them.

A row says only what an email is about. The claims of a worker that dies expire: an email may then be sent twice, with
the same Message-ID, but none is lost.
"""

import logging
import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast, get_args

import sqlalchemy
from sqlalchemy import ColumnElement, String, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DataError, SQLAlchemyError

from backend import clock
from backend.config import settings
from backend.database import outbox, totals
from backend.database.engine import AnyRow, autocommit, changed, db, reading, transaction
from backend.database.models import FORGET_ABANDONED, Account, Mail
from backend.database.steps import in_steps
from backend.mail import mailboxes
from backend.mail.claims import BY_AGE, CLAIMS, FIRST_DUE, IS_UNTRIED, IS_WAITING, oldest
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
# An untried email that is older shows that no email leaves.
LATE_SECONDS = 3600
# An older email would only surprise. RFC 5321 section 4.5.4.1 allows 4 or 5 days.
GIVE_UP = timedelta(days=2)

KINDS = get_args(Kind)
SET_ASIDE = "unreadable"
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, DataError)
"""What Python and the drivers raise for a row whose values do not fit its columns."""
_COLUMNS = (Mail.id, Mail.kind, Mail.email, Mail.name, Mail.account_id, Mail.about, Mail.created_at, Mail.attempts,
            Mail.counted_on)  # fmt: skip
_TABLE = cast(Table, Mail.__table__)
_INSERT = insert(_TABLE)
_DELETE = delete(_TABLE).where(Mail.id == bindparam("finished"), Mail.claim == bindparam("claimed"))

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
    row = {"email": email, "account_id": account_id, "about": about, "created_at": now, "due_at": now}
    db.session.execute(_INSERT, {"kind": kind, **row})


def accept(kind: Kind, *, email: str, name: str | None = None) -> None:
    """Queue an email in a transaction of its own: it will be sent once this returns."""
    now = clock.now()
    outbox.write(_INSERT, kind=kind, email=email, name=name, created_at=now, due_at=now)


def is_due() -> bool:
    """Return whether an email is due. Where the database does not respond, the worker's round reports that."""
    with suppress(SQLAlchemyError), autocommit() as connection:
        return connection.scalar(FIRST_DUE, {"now": clock.now()}) is not None
    return False


def take() -> tuple[uuid.UUID, list[AnyRow]]:
    """Claim some due emails for one worker; return the claim and the rows."""
    now, claim = clock.now(), uuid.uuid4()
    with reading() as session:
        if session.scalar(FIRST_DUE, {"now": now}) is None:
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
        for new, due in CLAIMS:
            number = changed(new, most=UNTRIED, **values)
            if number + changed(due, most=BATCH - number, **values):
                break
        else:
            return []
    try:
        with reading() as session:
            return list(session.execute(select(*_COLUMNS).where(Mail.claim == claim)))
    except UNREADABLE:
        return _set_unreadable_aside(claim)


def _set_unreadable_aside(claim: uuid.UUID) -> list[AnyRow]:
    """Give up the claimed rows that cannot be read, and return the others."""
    raw_id = sqlalchemy.cast(Mail.id, String)
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
        session.execute(update(Mail).where(Mail.claim == claim, IS_WAITING).values(claim=None, due_at=now, **blocked))


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


def is_blocked() -> bool:
    """Return whether an email waits for the operator."""
    with reading() as session:
        return session.scalar(select(Mail.id).where(Mail.blocked_at.is_not(None)).limit(1)) is not None


def unblock() -> None:
    """Note that emails leave: no email waits for the operator any more."""
    if is_blocked():
        for _ in in_steps(update(Mail).values(blocked_at=None), Mail.blocked_at.is_not(None)):
            pass


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


_OLDEST = oldest(IS_UNTRIED, *BY_AGE).with_only_columns(Mail.created_at).limit(1)
_COUNTS = [
    select(func.count()).select_from(Mail).where(condition).scalar_subquery()
    for condition in (IS_UNTRIED, IS_WAITING, ~IS_WAITING)
]


def status() -> Status:
    """Return the queue at a glance."""
    with reading() as session:
        untried, waiting, abandoned = session.execute(select(*_COUNTS)).one()
    return Status(untried, waiting - untried, abandoned, oldest_seconds())


def oldest_seconds() -> int:
    """Return the age of the oldest email that was never tried; 0 if there is none."""
    with reading() as session:
        since = session.scalar(_OLDEST)
    return int((clock.now() - since).total_seconds()) if since else 0


def failures(*, given_up: bool = False) -> dict[str, int]:
    """Return how many emails were put off, or given up, by the code of the reason."""
    return _count_by_failure(Mail.failure.is_not(None) & (~IS_WAITING if given_up else IS_WAITING))


def retry() -> int:
    """Queue every email that was put off or given up again; return how many."""
    now = clock.now()
    anew = {"abandoned_at": None, "blocked_at": None, "attempts": 0, "created_at": now, "due_at": now}
    failed = (IS_WAITING & (Mail.attempts > 0), ~IS_WAITING)
    # A registration that is older than the closing of an account with its address is erased with that account.
    has_address = Account.is_closed_with(Mail.email) & (Account.closed_at > Mail.created_at)
    is_old = (Mail.kind == "registration") & select(Account.id).where(has_address).exists()
    anew_ = update(Mail).values(**anew)
    return sum(sum(in_steps(anew_, each & Mail.claim.is_(None) & ~is_old)) for each in failed)


def tidy() -> Iterator[int]:
    """Give up emails that have waited too long, and delete those that were given up long ago."""
    now = clock.now()
    # No worker is sending it.
    is_late = IS_WAITING & (Mail.claim.is_(None) | (Mail.due_at <= now)) & (Mail.created_at < now - GIVE_UP)
    given_up = update(Mail).values(abandoned_at=now, blocked_at=None, claim=None)
    # Each of the two finds its rows by the index.
    for late in (is_late & (Mail.attempts == 0), is_late & (Mail.attempts > 0)):
        yield from in_steps(delete(Mail), late & (Mail.kind == "erased"), "mails_given_up")
        yield from in_steps(given_up, late, "mails_given_up")
    yield from in_steps(delete(Mail), Mail.abandoned_at < now - FORGET_ABANDONED)
