"""`tiles db copy`: copy SQLite into an empty PostgreSQL, every row or none, and compare the two."""

import hashlib
import sqlite3
from collections.abc import Callable

from sqlalchemy import URL, Connection, Engine, Row, Table, func, inspect, make_url, select
from sqlalchemy import table as sql_table
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from backend.database.engine import Base, db, engine_for, is_sqlite
from backend.database.schema import VERSION, is_current, upgrade, versions
from backend.errors import Impossible
from backend.values import database_url

BATCH = 1_000


def target(text: str) -> URL:
    """Return the URL of a PostgreSQL database.

    Raises:
        Impossible: it is not one.
    """
    try:
        url = make_url(database_url(text.strip()))
    except ValueError as error:
        raise Impossible(f"the target: {error}") from None
    if url.drivername == "sqlite":
        raise Impossible("the target: write a URL that starts with postgresql:// and names an empty database")
    return url


def count() -> int:
    """Return how many rows there are to copy.

    Raises:
        Impossible: the app's database is not SQLite, or its schema is not this release's.
    """
    if not is_sqlite():
        raise Impossible("the database in use is not SQLite's: pg_dump and pg_restore copy PostgreSQL's")
    if not is_current():
        raise Impossible("the schema is older than this release's: run `tiles db upgrade` first")
    with db.engine.connect() as source:
        return sum(source.scalar(select(func.count()).select_from(table)) or 0 for table in Base.metadata.sorted_tables)


def copy(url: URL, progress: Callable[[int], None]) -> dict[str, int]:
    """Copy every row in one transaction, and return how many rows each table has.

    Raises:
        Impossible: the target cannot be used, has rows or another schema, or cannot store a row. It has no row then.
    """
    engine = engine_for(url)
    try:
        _refuse_rows(engine)
        upgrade(engine)
        with db.engine.connect() as source, engine.begin() as connection:
            tables = Base.metadata.sorted_tables
            return {table.name: _copy(table, source, connection, progress) for table in tables}
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise
        reason = type(error).__name__
        raise Impossible(
            f"the target: it cannot be used ({reason}); check that it exists and accepts this user. Nothing was copied"
        ) from None
    finally:
        engine.dispose()


def _refuse_rows(engine: Engine) -> None:
    with engine.connect() as connection:
        for name in inspect(connection).get_table_names():
            if name == VERSION.name:
                if connection.scalar(select(VERSION.c.version_num)) not in {*versions(), None}:
                    raise Impossible("the target has a schema of another release or program: name an empty database")
            elif connection.scalar(select(1).select_from(sql_table(name)).limit(1)):
                raise Impossible(f"the target is not empty ({name} has rows): name an empty database")


def _copy(table: Table, source: Connection, connection: Connection, progress: Callable[[int], None]) -> int:
    every_row = select(table).execution_options(yield_per=BATCH)
    number = digest = 0
    for rows in source.execute(every_row).partitions():
        number += len(rows)
        digest += sum(map(_digest, rows))
        try:
            connection.execute(table.insert(), [row._asdict() for row in rows])
        except (DataError, IntegrityError) as error:
            # The driver's own message contains the row.
            reason = type(error.orig).__name__
            raise Impossible(f"{table.name}: PostgreSQL refuses a row ({reason}); nothing was copied") from None
        progress(len(rows))
    if sum(map(_digest, connection.execute(every_row))) != digest:
        raise Impossible(f"{table.name}: the copy differs from the source; nothing was copied")
    return number


def _digest(row: Row[*tuple[object, ...]]) -> int:
    """Return a number that identifies a row. The sum of a table does not depend on the order of its rows."""
    return int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest())
