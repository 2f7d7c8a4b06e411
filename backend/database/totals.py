"""Counts of work done since the first day by all processes on all machines. They name nobody."""

from typing import Literal, cast

from sqlalchemy import Table

from backend.database.engine import db, insert_into
from backend.database.service_tables import Total

Event = Literal["mails_sent", "mails_put_off", "mails_given_up", "mails_to_nobody", "mails_over_limit", "erasures"]


def add(event: Event, number: int) -> None:
    """Add to a count in the caller's transaction. Call it at the end: it locks the row until the commit."""
    if number:
        row = insert_into(cast("Table", Total.__table__)).values(event=event, value=number)
        sum_ = {"value": Total.value + row.excluded.value}
        db.session.execute(row.on_conflict_do_update(index_elements=[Total.event], set_=sum_))
