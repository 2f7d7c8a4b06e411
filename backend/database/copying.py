"""Copying SQLite's database into an empty PostgreSQL: every row, checked, with nothing changed in the source.

The source is read in one transaction, and so at one moment. The target is written in one: it has every row, or none.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import URL, Connection, Engine, Row, Table, func, inspect, make_url, select
from sqlalchemy import table as sql_table
from sqlalchemy.exc import DataError, IntegrityError

from backend.database.engine import db, engine_for
from backend.database.models import Account
from backend.database.schema import VERSION, is_current, upgrade, versions
from backend.errors import Impossible
from backend.values import database_url

BATCH = 1_000


@dataclass(slots=True)
class Sum:
    """How many rows a table has, and a sum over all of them in which their order does not count."""

    rows: int = 0
    digest: int = 0

    def add(self, row: Row[Any]) -> None:
        """Count a row."""
        text = json.dumps([_canonical(value) for value in row], sort_keys=True, ensure_ascii=False)
        self.rows += 1
        self.digest = (self.digest + int.from_bytes(hashlib.sha256(text.encode()).digest())) % 2**256


def _canonical(value: object) -> object:
    """Return a value as JSON knows it, each type in one spelling and no two types in the same."""
    match value:
        case bytes():
            return {"bytes": value.hex()}
        case datetime() | date():
            return {"time": value.isoformat()}
        case UUID():
            return {"id": value.hex}
        case dict() | list():
            return {"json": value}
        case _:
            return value


def target(url: str) -> URL:
    """Return the URL of a PostgreSQL database.

    Raises:
        Impossible: it is none.
    """
    try:
        found = make_url(database_url(url.strip()))
    except ValueError as error:
        raise Impossible(f"the target: {error}") from None
    if found.drivername == "sqlite":
        raise Impossible("the target: write a URL that starts with postgresql:// and names an empty database")
    return found


def count() -> int:
    """Return how many rows there are to copy.

    Raises:
        Impossible: the database in use is not SQLite's, or its schema is not this release's.
    """
    if db.engine.dialect.name != "sqlite":
        raise Impossible("the database in use is not SQLite's: pg_dump and pg_restore copy PostgreSQL's")
    if not is_current():
        raise Impossible("the schema is older than this release's: run `tiles db upgrade` first")
    with db.engine.connect() as source:
        return sum(source.scalar(select(func.count()).select_from(table)) or 0 for table in _tables())


def copy(url: URL, progress: Callable[[int], None]) -> dict[str, int]:
    """Copy every row into an empty PostgreSQL, and compare all that it then has with the source.

    Returns:
        For each table how many rows it has.

    Raises:
        Impossible: the target has rows or another schema, or a row cannot be stored there. It has no row then.
    """
    with _engine(url) as engine:
        _refuse_rows(engine)
        upgrade(engine)
        with db.engine.connect() as source, engine.begin() as connection:
            sums = {table: _copy(table, source, connection, progress) for table in _tables()}
            for table, read in sums.items():
                if _sum(table, connection) != read:
                    raise Impossible(f"{table.name}: the copy differs from the source; nothing was copied")
    return {table.name: read.rows for table, read in sums.items()}


@contextmanager
def _engine(url: URL) -> Iterator[Engine]:
    engine = engine_for(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _tables() -> list[Table]:
    return Account.metadata.sorted_tables


def _refuse_rows(engine: Engine) -> None:
    """Refuse a target in which somebody already stores something."""
    with engine.connect() as connection:
        for name in inspect(connection).get_table_names():
            if name == VERSION.name:
                if connection.scalar(select(VERSION.c.version_num)) not in {*versions(), None}:
                    raise Impossible("the target has a schema of another release or program: name an empty database")
            elif connection.scalar(select(1).select_from(sql_table(name)).limit(1)):
                raise Impossible(f"the target is not empty ({name} has rows): name an empty database")


def _copy(table: Table, source: Connection, connection: Connection, progress: Callable[[int], None]) -> Sum:
    read = Sum()
    for rows in source.execution_options(yield_per=BATCH).execute(select(table)).partitions():
        for row in rows:
            read.add(row)
        try:
            connection.execute(table.insert(), [row._asdict() for row in rows])
        except (DataError, IntegrityError) as error:
            # The driver's own message holds the row.
            reason = type(error.orig).__name__
            raise Impossible(f"{table.name}: PostgreSQL refuses a row ({reason}); nothing was copied") from None
        progress(len(rows))
    return read


def _sum(table: Table, connection: Connection) -> Sum:
    found = Sum()
    for row in connection.execution_options(yield_per=BATCH).execute(select(table)):
        found.add(row)
    return found
