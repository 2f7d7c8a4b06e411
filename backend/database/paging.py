"""Lists that are read page by page: the next page begins after the key of a row, so that an index finds it."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Date, Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from backend.database.engine import reading
from backend.errors import Impossible

PAGE = 50
_TIME_FORMAT = "%Y%m%dT%H%M%S.%f"


class Key(NamedTuple):
    """The place of a row in a list: its time, and its id among the rows of that time."""

    at: datetime
    id: uuid.UUID

    def __str__(self) -> str:
        """Return the key as an address has it."""
        return f"{self.at.astimezone(UTC):{_TIME_FORMAT}}_{self.id.hex}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Return the key that an address has; raise Impossible if it is none."""
        at, _, id_ = text.partition("_")
        try:
            return cls(datetime.strptime(at, _TIME_FORMAT).replace(tzinfo=UTC), uuid.UUID(id_))
        except ValueError:
            raise Impossible("there is no such page of this list: begin at its first page") from None


class Page(NamedTuple):
    """Some rows of a list, and the key after which the next page begins; None on the last page."""

    rows: list[Any]
    after: Key | None


Column = ColumnElement[Any] | InstrumentedAttribute[Any]


def page_of(rows: Sequence[Any], key: Callable[[Any], Key]) -> Page:
    """Return the page that rows begin with. One row more than a page was read, to know whether it is the last."""
    return Page(list(rows[:PAGE]), key(rows[PAGE - 1]) if len(rows) > PAGE else None)


def newest_first(query: Select[*tuple[Any, ...]], at: Column, id_: Column, after: Key | None) -> Page:
    """Return the page of a query's rows that begins after a key. The query has both columns."""
    if after:
        query = query.where(follows(at, id_, after, newest_first=True))
    with reading() as session:
        rows = session.execute(query.order_by(at.desc(), id_.desc()).limit(PAGE + 1)).all()
    return page_of(rows, lambda row: Key(end_of(getattr(row, str(at.key))), row.id))


def end_of(at: date) -> datetime:
    """Return a time itself, and of a day its end in UTC."""
    return at if isinstance(at, datetime) else datetime.combine(at, time.max, UTC)


def follows(at: Column, id_: Column, key: Key, *, newest_first: bool) -> ColumnElement[bool]:
    """Return the condition that a row comes after a key in a list that is sorted by these two columns."""
    moment = key.at.date() if isinstance(at.type, Date) else key.at
    row, last = tuple_(at, id_), tuple_(literal(moment, at.type), literal(key.id, id_.type))
    return row < last if newest_first else row > last
