"""The mail queue: filled in a request's own transaction, emptied by workers.

A row says only what a mail is about, and goes once the mail was handed over. A worker that dies leaves its claims to
expire: a mail may then go out twice, with the same Message-ID, but none is lost.
"""

import logging
import random
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, Update, bindparam, delete, func, insert, select, update

from backend import clock, mailboxes, totals
from backend.compose import Kind
from backend.config import settings
from backend.db import AnyRow, changed, db, reading, transaction
from backend.driver import Statement
from backend.models import FORGET_ABANDONED, Mail
from backend.statements import fetch, write

BATCH = 20
# Half of a claim outlasts a slow server's time-out. A worker that was killed leaves its batch unsent for as long.
CLAIM = timedelta(seconds=45)
FIRST_RETRY = timedelta(seconds=15)
LONGEST_RETRY = timedelta(hours=1)
# A mail that could not leave for so long would only surprise; RFC 5321 section 4.5.4.1 lets go after 4 or 5 days.
GIVE_UP = timedelta(days=2)

Done = Counter[totals.Event]

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


_ACCEPT = Statement(
    lambda: insert(Mail).values(
        attempts=0, **{name: bindparam(name) for name in ("id", "kind", "email", "name", "created_at", "due_at")}
    )
)


def accept(kind: Kind, *, email: str, name: str | None = None) -> None:
    """Put a mail in the queue, in a transaction of its own: it will be sent when this returns."""
    now = clock.now()
    write(_ACCEPT, id=uuid.uuid4(), kind=kind, email=email, name=name, created_at=now, due_at=now)


def _waiting() -> ColumnElement[bool]:
    return Mail.abandoned_at.is_(None)


def _due() -> ColumnElement[bool]:
    # What nobody has tried or holds is due whatever the hour: no clock that is put back keeps somebody's link from him.
    return _waiting() & ((Mail.due_at <= bindparam("now")) | ((Mail.attempts == 0) & Mail.claim.is_(None)))


def _taking(which: ColumnElement[bool]) -> Update:
    """Return what takes some mails; on PostgreSQL it passes over what others are taking."""
    first = select(Mail.id).where(which).order_by(Mail.due_at).limit(BATCH).with_for_update(skip_locked=True)
    taking = update(Mail).where(Mail.id.in_(first)).values(claim=bindparam("claimed"), due_at=bindparam("until"))
    return taking.returning(Mail.id, Mail.kind, Mail.email, Mail.name, Mail.account_id, Mail.about,
                            Mail.created_at, Mail.attempts, Mail.counted_on)  # fmt: skip


_ANY_DUE = Statement(lambda: select(Mail.id).where(_due()).limit(1))
# Whoever waits for a link comes before whoever is only told something. In two steps, each in the index's order: to sort
# a long queue for each few mails takes longer than to send them.
_TAKE_FIRST = Statement(lambda: _taking(_due() & (Mail.kind != "announcement")))
_TAKE = Statement(lambda: _taking(_due()))


def take() -> tuple[uuid.UUID, list[AnyRow]]:
    """Take some due mails for one worker alone; return its claim to them, and the mails."""
    now, claim = clock.now(), uuid.uuid4()
    if not fetch(_ANY_DUE, now=now):
        return claim, []
    taking = {"now": now, "claimed": claim, "until": now + CLAIM}
    batch: list[AnyRow] = []
    while not batch and (taken := write(_TAKE_FIRST, **taking)[0] or write(_TAKE, **taking)[0]):
        batch = _within_limits(taken)
    # Whoever has mails sent before and after somebody else's learns less from when they arrive.
    random.shuffle(batch)
    return claim, batch


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


_FINISH = Statement(lambda: delete(Mail).where(Mail.id == bindparam("id"), Mail.claim == bindparam("claim")))


def finish(mail_id: uuid.UUID, claim: uuid.UUID) -> None:
    """Delete a mail that was handed over, or for which there is nobody."""
    write(_FINISH, id=mail_id, claim=claim)


def release(claim: uuid.UUID) -> None:
    """Give back what was claimed and not tried."""
    with transaction() as session:
        session.execute(update(Mail).where(Mail.claim == claim, _waiting()).values(claim=None, due_at=clock.now()))


def put_off(mail: AnyRow, claim: uuid.UUID, failure: str, done: Done, *, for_good: bool = False) -> None:
    """Try the mail again later, each time after twice the wait; or give it up, where it may be seen."""
    done["mails_given_up" if for_good else "mails_put_off"] += 1
    if for_good and mail.kind == "erased":
        # Nobody is left whose address might be kept for another try.
        log.warning("mail erased dropped: %s", failure)
        finish(mail.id, claim)
        return
    now = clock.now()
    wait = min(FIRST_RETRY * 2 ** min(mail.attempts, 16), LONGEST_RETRY)
    log.warning("mail %s %s: %s", mail.kind, "abandoned" if for_good else "put off", failure)
    with transaction() as session:
        session.execute(
            update(Mail)
            .where(Mail.id == mail.id, Mail.claim == claim)
            .values(attempts=mail.attempts + 1, failure=failure, claim=None, due_at=now + wait,
                    abandoned_at=now if for_good else None)
        )  # fmt: skip


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


def retry() -> int:
    """Put every mail that was put off or given up in the queue anew; return how many."""
    now = clock.now()
    with transaction():
        return changed(
            update(Mail)
            .where((Mail.attempts > 0) | ~_waiting(), Mail.claim.is_(None))
            .values(abandoned_at=None, attempts=0, created_at=now, due_at=now, claim=None)
        )


def tidy() -> None:
    """Give up what has waited too long, and forget the address in what was given up long ago."""
    now = clock.now()
    with transaction() as session:
        # Not what some worker is sending just now.
        idle = Mail.claim.is_(None) | (Mail.due_at <= now)
        session.execute(delete(Mail).where(Mail.kind == "erased", idle, Mail.created_at < now - GIVE_UP))
        late = update(Mail).where(_waiting(), idle, Mail.created_at < now - GIVE_UP)
        given_up = changed(late.values(abandoned_at=now, claim=None))
        session.execute(delete(Mail).where(Mail.abandoned_at < now - FORGET_ABANDONED))
        totals.add("mails_given_up", given_up)
