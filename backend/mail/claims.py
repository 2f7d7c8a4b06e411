"""The statements that find and claim due emails. None of them reads or sorts all waiting emails."""

import uuid
from typing import Any

from sqlalchemy import ColumnElement, Select, Update, bindparam, func, select, update

from backend.database.engine import materialized
from backend.database.models import Mail

IS_WAITING = Mail.abandoned_at.is_(None)
IS_UNTRIED = IS_WAITING & (Mail.attempts == 0)
BY_AGE = (Mail.attempts, Mail.created_at)
# Each has an index. With OR between them, all waiting emails would be read where few are due.
_IS_DUE = IS_WAITING & (Mail.due_at <= bindparam("now"))
# An unclaimed, untried email is always due, even if the system clock was set back.
_IS_NEW = IS_UNTRIED & (Mail.claim.is_(None) | (Mail.due_at <= bindparam("now")))


def oldest(condition: ColumnElement[bool], *order: Any) -> Select[uuid.UUID]:
    """Return the query of emails in the whole order of an index: otherwise all waiting emails would be sorted."""
    return select(Mail.id).where(condition).order_by(Mail.abandoned_at, *order)


def _claim(condition: ColumnElement[bool], *order: Any) -> Update:
    """Return the statement that claims some emails; on PostgreSQL it skips those that others are claiming."""
    some = oldest(condition, *order).limit(bindparam("most")).with_for_update(skip_locked=True)
    claiming = update(Mail).where(Mail.id.in_(materialized(some)))
    claiming = claiming.values(claim=bindparam("claimed"), due_at=bindparam("until"))
    # Otherwise the session reads the claimed ids, and fails on one that cannot be read.
    return claiming.execution_options(synchronize_session=False)


_FIRST = [oldest(*each).limit(1).scalar_subquery() for each in ((_IS_NEW, *BY_AGE), (_IS_DUE, Mail.due_at))]
FIRST_DUE = select(func.coalesce(*_FIRST))
"""Selects the id of an email that is due, or NULL."""
# Links come before announcements.
CLAIMS = [
    (_claim(_IS_NEW & some, *BY_AGE), _claim(_IS_DUE & some, Mail.due_at))
    for some in (Mail.kind != "announcement", IS_WAITING)
]
"""Pairs that claim untried and due emails: first links, then all."""
