"""Change many rows in small transactions, so that no request waits long for SQLite's write lock or for a row."""

from collections.abc import Iterator
from typing import cast

from sqlalchemy import ColumnElement, Delete, Table, Update, select, tuple_

from backend.database import totals
from backend.database.engine import changed, materialized, transaction

# Changing so many takes a few ten milliseconds.
BATCH = 1_000


def in_steps(change: Update | Delete, where: ColumnElement[bool], event: totals.Event | None = None) -> Iterator[int]:
    """Change or delete the rows under a condition; yield after each step how many it changed.

    Each step also adds to the total of an event. The caller can pause between two steps.

    Args:
        change: the statement; a row that it changed is not under the condition any more.
        where: a condition whose rows an index finds, or that few rows do not meet.
        event: what to count.
    """
    key = cast("Table", change.table).primary_key.columns
    some = materialized(select(*key).where(where).limit(BATCH).with_for_update(skip_locked=True))
    step = change.where(tuple_(*key).in_(some)).execution_options(synchronize_session=False)
    number = BATCH
    while number == BATCH:
        with transaction():
            number = changed(step)
            if event:
                totals.add(event, number)
        if number:
            yield number
