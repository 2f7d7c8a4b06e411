"""Counts of work done since the first day by all processes on all machines. They name nobody."""

from functools import cache
from typing import Literal, cast

from sqlalchemy import Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

from backend.database.engine import db, is_sqlite
from backend.database.service_tables import Total

Event = Literal["mails_sent", "mails_put_off", "mails_given_up", "mails_to_nobody", "mails_over_limit", "erasures"]


def add(event: Event, number: int) -> None:
    """Add to a count in the caller's transaction. Call it at the end: it locks the row until the commit."""
    if number:
        db.session.execute(_addition(on_sqlite=is_sqlite()), {"event": event, "value": number})


@cache
def _addition(*, on_sqlite: bool) -> Insert:
    table = cast("Table", Total.__table__)
    row = sqlite.insert(table) if on_sqlite else postgresql.insert(table)
    sum_ = {"value": table.c.value + row.excluded.value}
    return row.on_conflict_do_update(index_elements=[table.c.event], set_=sum_)
