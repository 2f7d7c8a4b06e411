"""How many mails that anybody may ask for a mailbox gets in a day, counted in the database for all workers together.

Each group has an allowance of its own, so that asking for one thing keeps nobody from another.
"""

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import delete, update

from backend import clock
from backend.database.engine import AnyRow, db, insert_into, transaction
from backend.database.models import MailboxCount
from backend.security import keys
from backend.security.clients import mailbox

MOST_A_DAY = 5
# Everything else tells what somebody did who has the password or the mailbox, and always leaves.
GROUPS = {
    "registration": "registrations",
    "email_change": "registrations",
    "password_reset": "password resets",
    "erasure_request": "erasure requests",
}


def _names(emails: Iterable[str]) -> list[bytes]:
    """Return what stands for mailboxes today: a digest that is another one tomorrow."""
    of, today = keys.digests("mails a day"), clock.now().date().isoformat()
    return [of(today, mailbox(email)) for email in emails]


def count(mails: Sequence[AnyRow]) -> set[uuid.UUID]:
    """In the caller's transaction: count mails of these groups; return the ids of those that are too many.

    Workers count in one order, so that none waits for another that waits for it.
    """
    named = zip(_names(mail.email for mail in mails), [GROUPS[mail.kind] for mail in mails], mails, strict=True)
    return {mail.id for name, kinds, mail in sorted(named, key=lambda each: each[:2]) if not _fits(name, kinds)}


def _fits(name: bytes, kinds: str) -> bool:
    row = insert_into(MailboxCount).values(mailbox=name, kinds=kinds, day=clock.now().date(), count=1)
    counted = row.on_conflict_do_update(
        index_elements=[MailboxCount.mailbox, MailboxCount.kinds],
        set_={"count": MailboxCount.count + 1},
        where=MailboxCount.count < MOST_A_DAY,
    )
    return db.session.execute(counted.returning(MailboxCount.count)).one_or_none() is not None


def give_back(email: str) -> None:
    """In the caller's transaction, which ends every older link: allow one more mail of each group today.

    So there is always a link that works, or one to be had.
    """
    mine = MailboxCount.mailbox.in_(_names([email])) & (MailboxCount.count > 0)
    db.session.execute(update(MailboxCount).where(mine).values(count=MailboxCount.count - 1))


def forget(emails: Iterable[str]) -> None:
    """In the caller's transaction: forget what mailboxes got today whose accounts are erased."""
    db.session.execute(delete(MailboxCount).where(MailboxCount.mailbox.in_(_names(emails))))


def tidy() -> None:
    """Forget the days that are over."""
    with transaction() as session:
        session.execute(delete(MailboxCount).where(MailboxCount.day < clock.now().date()))
