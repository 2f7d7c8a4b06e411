"""The mail queue: filled in a request's own transaction, emptied by workers.

A row says only what a mail is about, and goes once the mail was handed over. A worker that dies leaves its claims to
expire: a mail may then go out twice, with the same Message-ID, but none is lost.
"""

import logging
import random
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import cast as typed
from typing import get_args

from sqlalchemy import (
    ColumnElement,
    String,
    Table,
    Update,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DataError

from backend import clock
from backend.config import settings
from backend.database import outbox, totals
from backend.database.engine import AnyRow, changed, db, reading, transaction
from backend.database.models import FORGET_ABANDONED, Mail
from backend.mail import mailboxes
from backend.mail.messages import Kind
from backend.mail.smtp import FINAL_REPLY_SECONDS

BATCH = 20
# A worker renews its claim while it lives. One that was killed leaves its batch unsent for as long.
CLAIM = timedelta(seconds=45)
# The server may think for so long after it has an email, and then deliver it (RFC 5321 section 4.5.3.2.6).
UNKNOWN_FATE = timedelta(seconds=FINAL_REPLY_SECONDS)
FIRST_RETRY = timedelta(seconds=15)
LONGEST_RETRY = timedelta(hours=1)
# A mail that could not leave for so long would only surprise; RFC 5321 section 4.5.4.1 lets go after 4 or 5 days.
GIVE_UP = timedelta(days=2)

KINDS = get_args(Kind)
SET_ASIDE = "unreadable"
COLUMNS = (Mail.id, Mail.kind, Mail.email, Mail.name, Mail.account_id, Mail.about, Mail.created_at, Mail.attempts,
           Mail.counted_on)  # fmt: skip
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, DataError)
"""What Python and the drivers raise for a row whose values are not what its columns promise."""

log = logging.getLogger(__name__)


def enqueue(
    kind: Kind,
    *,
    email: str | None = None,
    name: str | None = None,
    account_id: uuid.UUID | None = None,
    about: uuid.UUID | None = None,
) -> None:
    """Put a mail in the queue, in the caller's transaction: it will be sent if that commits."""
    now = clock.now()
    row = {"email": email, "name": name, "account_id": account_id, "about": about, "created_at": now, "due_at": now}
    db.session.execute(insert(Mail).values(id=uuid.uuid4(), kind=kind, attempts=0, **row))


_INSERT = insert(typed(Table, Mail.__table__))


def accept(kind: Kind, *, email: str, name: str | None = None) -> None:
    """Put a mail in the queue, in a transaction of its own: it will be sent when this returns."""
    now = clock.now()
    outbox.write(_INSERT, id=uuid.uuid4(), kind=kind, email=email, name=name, created_at=now, due_at=now, attempts=0)


def _waiting() -> ColumnElement[bool]:
    return Mail.abandoned_at.is_(None)


def _due() -> ColumnElement[bool]:
    # What nobody has tried or holds is due whatever the hour: no clock that is put back keeps somebody's link from him.
    return _waiting() & ((Mail.due_at <= bindparam("now")) | ((Mail.attempts == 0) & Mail.claim.is_(None)))


def _taking(which: ColumnElement[bool]) -> Update:
    """Return what takes some mails; on PostgreSQL it passes over what others are taking."""
    first = select(Mail.id).where(which).order_by(Mail.due_at).limit(BATCH).with_for_update(skip_locked=True)
    taking = update(Mail).where(Mail.id.in_(first)).values(claim=bindparam("claimed"), due_at=bindparam("until"))
    # Otherwise the session reads the ids of what it takes, also those that cannot be read.
    return taking.execution_options(synchronize_session=False)


_ANY_DUE = select(Mail.id).where(_due()).limit(1)
# Whoever waits for a link comes before whoever is only told something. In two steps, each in the index's order: to sort
# a long queue for each few mails takes longer than to send them.
_TAKE_FIRST = _taking(_due() & (Mail.kind != "announcement"))
_TAKE = _taking(_due())


def take() -> tuple[uuid.UUID, list[AnyRow]]:
    """Take some due mails for one worker alone; return its claim to them, and the mails."""
    now, claim = clock.now(), uuid.uuid4()
    with reading() as session:
        if not session.execute(_ANY_DUE, {"now": now}).first():
            return claim, []
    taking = {"now": now, "claimed": claim, "until": now + CLAIM}
    batch: list[AnyRow] = []
    while not batch and (taken := _take(claim, **taking)):
        batch = _within_limits(taken)
    # Whoever has mails sent before and after somebody else's learns less from when they arrive.
    random.shuffle(batch)
    return claim, batch


def _take(claim: uuid.UUID, **taking: object) -> list[AnyRow]:
    with transaction():
        claimed = changed(_TAKE_FIRST, **taking) or changed(_TAKE, **taking)
    if not claimed:
        return []
    try:
        with reading() as session:
            return list(session.execute(select(*COLUMNS).where(Mail.claim == claim)))
    except UNREADABLE:
        return _set_unreadable_aside(claim)


def _set_unreadable_aside(claim: uuid.UUID) -> list[AnyRow]:
    """Give up the claimed rows that cannot be read, and return the others."""
    raw_id = cast(Mail.id, String)
    batch = []
    with transaction() as session:
        for id_ in session.scalars(select(raw_id).where(Mail.claim == claim)).all():
            try:
                batch.append(session.execute(select(*COLUMNS).where(raw_id == id_)).one())
            except UNREADABLE:
                log.error("a mail is set aside: its row cannot be read")  # noqa: TRY400 - the error may quote it
                given_up = {"abandoned_at": clock.now(), "failure": SET_ASIDE, "claim": None}
                setting_aside = update(Mail).where(raw_id == id_).values(given_up)
                session.execute(setting_aside.execution_options(synchronize_session=False))
    return batch


def renew(claim: uuid.UUID, *, unknown_fate: uuid.UUID | None = None) -> None:
    """Keep claimed mails from other workers; the one that the server may have taken, for longer."""
    now = clock.now()
    with transaction() as session:
        mine = update(Mail).where(Mail.claim == claim)
        session.execute(mine.where(Mail.due_at < now + CLAIM).values(due_at=now + CLAIM))
        if unknown_fate:
            session.execute(mine.where(Mail.id == unknown_fate).values(due_at=now + UNKNOWN_FATE))


def _within_limits(taken: list[AnyRow]) -> list[AnyRow]:
    """Count each mail once for its mailbox, before anything is looked up; delete those that are too many."""
    new = [mail for mail in taken if mail.kind in mailboxes.GROUPS and not (mail.counted_on or mail.attempts)]
    if not new or not settings().is_limited:
        return taken
    with transaction() as session:
        too_many = mailboxes.count(new)
        counted = Mail.id.in_([mail.id for mail in new])
        session.execute(update(Mail).where(counted).values(counted_on=clock.now().date()))
        session.execute(delete(Mail).where(Mail.id.in_(too_many)))
        totals.add("mails_over_limit", len(too_many))
    return [mail for mail in taken if mail.id not in too_many]


def finish(mail_id: uuid.UUID, claim: uuid.UUID) -> None:
    """Delete a mail that was handed over, or for which there is nobody."""
    with transaction() as session:
        session.execute(delete(Mail).where(Mail.id == mail_id, Mail.claim == claim))


def release(claim: uuid.UUID, *, blocked_by: str | None = None) -> None:
    """Give back what was claimed and not tried; `blocked_by` says what the operator has to mend first."""
    now = clock.now()
    blocked = {"failure": blocked_by, "blocked_at": now} if blocked_by else {}
    with transaction() as session:
        session.execute(update(Mail).where(Mail.claim == claim, _waiting()).values(claim=None, due_at=now, **blocked))


def put_off(
    mail: AnyRow, claim: uuid.UUID, failure: str, *, at_least: timedelta = FIRST_RETRY, blocked: bool = False
) -> None:
    """Try the mail again later, each time after twice the wait; a blocked one waits for the operator."""
    now = clock.now()
    wait = max(min(FIRST_RETRY * 2 ** min(mail.attempts, 16), LONGEST_RETRY), at_least)
    log.log(logging.DEBUG if blocked else logging.WARNING, "mail %s put off: %s", mail.kind, failure)
    _note(mail, claim, failure=failure, due_at=now + wait, blocked_at=now if blocked else None)


def give_up(mail: AnyRow, claim: uuid.UUID, failure: str) -> None:
    """Never try the mail again, and keep it where it may be seen."""
    if mail.kind == "erased":
        # Nobody is left whose address might be kept for another try.
        log.warning("mail erased dropped: %s", failure)
        finish(mail.id, claim)
        return
    kind = mail.kind if mail.kind in KINDS else "of an unknown kind"
    log.warning("mail %s abandoned: %s", kind, failure)
    _note(mail, claim, failure=failure, abandoned_at=clock.now(), blocked_at=None)


def _note(mail: AnyRow, claim: uuid.UUID, **values: object) -> None:
    with transaction() as session:
        tried = update(Mail).where(Mail.id == mail.id, Mail.claim == claim)
        session.execute(tried.values(attempts=Mail.attempts + 1, claim=None, **values))


def blocked() -> dict[str, int]:
    """Return how many mails wait for the operator, as none leaves: for each reason, which is a code."""
    number = func.count().label("number")
    counting = select(Mail.failure, number).where(Mail.blocked_at.is_not(None)).group_by(Mail.failure)
    with reading() as session:
        return {row.failure: row.number for row in session.execute(counting)}


def unblock() -> None:
    """Note that mails leave: what blocked others is over, or concerns them alone."""
    if blocked():
        with transaction() as session:
            session.execute(update(Mail).where(Mail.blocked_at.is_not(None)).values(blocked_at=None))


@dataclass(frozen=True, slots=True)
class Status:
    """The queue at a glance: how many mails wait, are put off and were given up.

    `oldest_seconds` is the age of the oldest that was never tried: it grows while the mail server is away, and not
    because one person's mailbox refuses.
    """

    waiting: int
    retrying: int
    abandoned: int
    oldest_seconds: int


def status() -> Status:
    """Return what is in the queue now."""
    with reading() as session:
        row = session.execute(
            select(
                func.count().filter(_waiting() & (Mail.attempts == 0)),
                func.count().filter(_waiting() & (Mail.attempts > 0)),
                func.count().filter(~_waiting()),
                func.min(Mail.created_at).filter(_waiting() & (Mail.attempts == 0)),
            )
        ).one()
    waiting, retrying, abandoned, oldest = row
    age = int((clock.now() - oldest).total_seconds()) if oldest else 0
    return Status(waiting, retrying, abandoned, age)


def failures(*, given_up: bool = False) -> dict[str, int]:
    """Return how many mails were put off, or given up, for each reason; the reasons are codes."""
    those = Mail.failure.is_not(None) & (~_waiting() if given_up else _waiting())
    with reading() as session:
        rows = session.execute(select(Mail.failure, func.count()).where(those).group_by(Mail.failure))
        return {str(failure): count for failure, count in sorted(rows)}


def retry() -> int:
    """Put every mail that was put off or given up in the queue anew; return how many."""
    now = clock.now()
    with transaction():
        return changed(
            update(Mail)
            .where((Mail.attempts > 0) | ~_waiting(), Mail.claim.is_(None))
            .values(abandoned_at=None, blocked_at=None, attempts=0, created_at=now, due_at=now, claim=None)
        )


def tidy() -> None:
    """Give up what has waited too long, and forget the address in what was given up long ago."""
    now = clock.now()
    with transaction() as session:
        # Not what some worker is sending just now.
        idle = Mail.claim.is_(None) | (Mail.due_at <= now)
        session.execute(delete(Mail).where(Mail.kind == "erased", idle, Mail.created_at < now - GIVE_UP))
        late = update(Mail).where(_waiting(), idle, Mail.created_at < now - GIVE_UP)
        given_up = changed(late.values(abandoned_at=now, blocked_at=None, claim=None))
        session.execute(delete(Mail).where(Mail.abandoned_at < now - FORGET_ABANDONED))
        totals.add("mails_given_up", given_up)
