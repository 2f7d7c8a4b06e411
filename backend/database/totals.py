"""What was done since the first day, by all processes on all machines: counts in the database that name nobody."""

from typing import Literal

from sqlalchemy import select

from backend.database.engine import db, insert_into, reading
from backend.database.models import Total

Event = Literal["mails_sent", "mails_put_off", "mails_given_up", "mails_to_nobody", "mails_over_limit", "erasures"]


def add(event: Event, number: int) -> None:
    """Count some more, in the caller's transaction and at its end: others wait for the row until it commits."""
    if not number:
        return
    counted = insert_into(Total).values(event=event, value=number)
    db.session.execute(
        counted.on_conflict_do_update(index_elements=[Total.event], set_={"value": Total.value + number})
    )


def all_of_them() -> dict[str, int]:
    """Return what was counted so far."""
    with reading() as session:
        return {row.event: row.value for row in session.execute(select(Total.event, Total.value))}
