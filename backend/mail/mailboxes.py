"""The daily limit of emails that anyone may request for a mailbox, counted in the database for all workers.

Each group has its own limit, so that requests of one kind never block another.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import ColumnElement, delete, update

from backend import clock
from backend.database.engine import AnyRow, db, insert_into, locked
from backend.database.service_tables import MailboxCount
from backend.database.steps import in_steps
from backend.security import keys
from backend.security.clients import mailbox

MOST_A_DAY = 5
# More than one client and the networks around it may request. A link of this group works for 10 minutes, so those that
# strangers requested in the morning would let nobody in at noon.
HOURLY, MOST_AN_HOUR = {"desk sign-ins"}, 20
# Every other kind reports an act with the password or the mailbox, and is never held back.
GROUPS = {
    "registration": "registrations",
    "email_change": "email changes",
    "password_reset": "password resets",
    "erasure_request": "erasure requests",
    "desk_sign_in": "desk sign-ins",
}

_KEY = (MailboxCount.mailbox, MailboxCount.kinds)


def _digests(email: str, group: str) -> list[bytes]:
    """Return the digests of the mailbox under each key in use, the newest first; they change every day."""
    now = clock.now()
    period = now.isoformat(timespec="hours") if group in HOURLY else now.date().isoformat()
    return [digest(period, mailbox(email)) for digest in keys.digests("mails a day")]


def _of(emails: Iterable[str]) -> ColumnElement[bool]:
    digests = {digest for email in emails for group in GROUPS.values() for digest in _digests(email, group)}
    return MailboxCount.mailbox.in_(digests)


def count(rows: Sequence[AnyRow]) -> set[uuid.UUID]:
    """Count emails in the caller's transaction; return the ids of those over the limit."""
    counted = [(_digests(row.email, GROUPS[row.kind])[0], GROUPS[row.kind], row.id) for row in rows]
    # In one order for all workers, so that they cannot deadlock.
    return {id_ for digest, group, id_ in sorted(counted) if not _fits(digest, group)}


def _fits(digest: bytes, group: str) -> bool:
    most = MOST_AN_HOUR if group in HOURLY else MOST_A_DAY
    first = insert_into(MailboxCount).values(mailbox=digest, kinds=group, day=clock.now().date(), count=1)
    counting = first.on_conflict_do_update(
        index_elements=_KEY, set_={"count": MailboxCount.count + 1}, where=MailboxCount.count < most
    )
    return db.session.execute(counting.returning(MailboxCount.count)).one_or_none() is not None


def give_back(email: str) -> None:
    """Allow one more email of each group today, in the caller's transaction, which ends every older link."""
    one_less = update(MailboxCount).values(count=MailboxCount.count - 1)
    db.session.execute(one_less.where(locked(_of([email]) & (MailboxCount.count > 0), *_KEY)))


def forget(emails: Iterable[str]) -> None:
    """Delete the counts of mailboxes whose accounts are erased, in the caller's transaction."""
    db.session.execute(delete(MailboxCount).where(locked(_of(emails), *_KEY)))


def tidy() -> Iterator[int]:
    """Delete the counts of past days."""
    yield from in_steps(delete(MailboxCount), MailboxCount.day < clock.now().date())
