"""The daily limit of emails that anyone may request for a mailbox, counted in the database for all workers.

Each group has its own limit, so that requests of one kind never block another.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import delete, select, tuple_, update

from backend import clock
from backend.database.engine import AnyRow, db, insert_into, materialized
from backend.database.service_tables import MailboxCount
from backend.database.steps import in_steps
from backend.security import keys
from backend.security.clients import mailbox

MOST_A_DAY = 5
# Every other kind reports an act with the password or the mailbox, and is never held back.
GROUPS = {
    "registration": "registrations",
    "email_change": "registrations",
    "password_reset": "password resets",
    "erasure_request": "erasure requests",
    "desk_sign_in": "desk sign-ins",
}

_KEY = (MailboxCount.mailbox, MailboxCount.kinds)


def _digests(emails: Iterable[str]) -> list[bytes]:
    """Return a digest for each mailbox, under a key that changes every day."""
    digest, today = keys.digests("mails a day"), clock.now().date().isoformat()
    return [digest(today, mailbox(email)) for email in emails]


def count(rows: Sequence[AnyRow]) -> set[uuid.UUID]:
    """Count emails in the caller's transaction; return the ids of those over the limit."""
    digests = _digests(row.email for row in rows)
    # In one order for all workers, so that they cannot deadlock.
    in_order = sorted(zip(digests, rows, strict=True), key=lambda each: (each[0], GROUPS[each[1].kind]))
    return {row.id for digest, row in in_order if not _fits(digest, GROUPS[row.kind])}


def _fits(digest: bytes, group: str) -> bool:
    first = insert_into(MailboxCount).values(mailbox=digest, kinds=group, day=clock.now().date(), count=1)
    counting = first.on_conflict_do_update(
        index_elements=_KEY,
        set_={"count": MailboxCount.count + 1},
        where=MailboxCount.count < MOST_A_DAY,
    )
    return db.session.execute(counting.returning(MailboxCount.count)).one_or_none() is not None


def give_back(email: str) -> None:
    """Allow one more email of each group today, in the caller's transaction, which ends every older link."""
    counted = MailboxCount.mailbox.in_(_digests([email])) & (MailboxCount.count > 0)
    db.session.execute(update(MailboxCount).where(counted).values(count=MailboxCount.count - 1))


def forget(emails: Iterable[str]) -> None:
    """Delete the counts of mailboxes whose accounts are erased, in the caller's transaction."""
    of_mailboxes = select(*_KEY).where(MailboxCount.mailbox.in_(_digests(emails)))
    # In the order of `count`, so that they cannot deadlock.
    locked = materialized(of_mailboxes.order_by(*_KEY).with_for_update())
    db.session.execute(delete(MailboxCount).where(tuple_(*_KEY).in_(locked)))


def tidy() -> Iterator[int]:
    """Delete the counts of past days."""
    yield from in_steps(delete(MailboxCount), MailboxCount.day < clock.now().date())
