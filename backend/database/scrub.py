"""Remove the bytes of deleted rows from the database's own files.

SQLite overwrites what it deletes, with two exceptions: a row that moved to another page leaves its bytes behind, and so
does the write-ahead log (WAL) until it is emptied. PostgreSQL keeps dead rows until their table is rewritten.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Connection, Table, func, select, text
from sqlalchemy.exc import OperationalError

from backend.database.engine import (
    SQLITE_BUSY_SECONDS,
    Base,
    autocommit,
    db,
    is_lock_timeout,
    is_sqlite,
    sqlite_writer,
    transaction,
)
from backend.errors import Impossible

MAX_REWRITTEN_ROWS = 10_000
POSTGRESQL_LOCK_SECONDS = 10
OLDER_TRANSACTIONS = (
    "SELECT count(*) FROM (SELECT backend_xmin FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    "AND (datname IS NULL OR datname = current_database()) "
    "UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database() "
    "UNION ALL SELECT xmin FROM pg_replication_slots) AS seen (xid) WHERE age(xid) > age(CAST(:beginning AS xid))"
)
# PostgreSQL's samples of columns; in an older release also of names and addresses.
SAMPLES = "pg_statistic"
FILE_OF = "SELECT pg_relation_filenode(CAST(:table AS regclass))"


def scrub(table: type[Base]) -> bool:
    """On SQLite, rewrite the rows of a table while they are few, and empty the WAL.

    Returns:
        False if a long read prevented it.
    """
    wal = Path(f"{db.engine.url.database}-wal")
    if not is_sqlite() or not wal.exists() or not wal.stat().st_size:
        return True
    name = table.__tablename__
    some = select(1).select_from(table.__table__).limit(MAX_REWRITTEN_ROWS + 1).subquery()
    with transaction() as session:
        if 0 < session.scalars(select(func.count()).select_from(some)).one() <= MAX_REWRITTEN_ROWS:
            # An emptied table frees its pages, which are overwritten. In SQL because other writers wait meanwhile.
            for step in (
                f"CREATE TEMPORARY TABLE kept AS SELECT * FROM {name}",  # noqa: S608 - our own table
                f"DELETE FROM {name}",  # noqa: S608
                f"INSERT INTO {name} SELECT * FROM kept",  # noqa: S608
                "DROP TABLE kept",
            ):
                session.execute(text(step))
    return _empty_wal()


def _empty_wal() -> bool:
    with sqlite_writer, autocommit() as connection:
        # Do not wait for a long read: nobody could write meanwhile, and the next round tries again.
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            return not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")


def _remains(connection: Connection) -> int:
    number: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    return number


def leave_remains() -> None:
    """In the caller's transaction, mark SQLite's file (`user_version`): it may have copies of deleted rows."""
    if is_sqlite():
        connection = db.session.connection()
        connection.exec_driver_sql(f"PRAGMA user_version = {_remains(connection) % 2**30 + 1}")


def has_remains() -> bool:
    """Return whether SQLite's file may contain copies of deleted rows."""
    if not is_sqlite():
        return False
    with autocommit() as connection:
        return _remains(connection) > 0


def compact() -> bool:
    """On SQLite, rewrite the file.

    Returns:
        False if a long read prevented emptying the WAL.

    Raises:
        OperationalError: the file is locked, or there is no space for a second copy.
    """
    if not is_sqlite():
        return True
    with sqlite_writer, autocommit() as connection:
        before = _remains(connection)
        connection.exec_driver_sql("VACUUM")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        # Another process may have deleted more meanwhile.
        if _remains(connection) == before:
            connection.exec_driver_sql("PRAGMA user_version = 0")
        connection.exec_driver_sql("COMMIT")
    return _empty_wal()


def rewrite(tables: Iterable[Table]) -> Iterator[str]:
    """Rewrite the database so that no file has bytes of deleted rows; yield the name of each finished step.

    SQLite is rewritten in one step, during which writers wait. PostgreSQL is rewritten table by table; nobody can read
    or write a table meanwhile.

    Raises:
        Impossible: a table is locked, or may not be rewritten, or a transaction still sees deleted rows.
    """
    if not is_sqlite():
        yield from _rewrite_postgresql(tables)
        return
    try:
        emptied = compact()
    except OperationalError as error:
        code = getattr(error.orig, "sqlite_errorname", None)
        if code == "SQLITE_CANTOPEN":
            raise
        msg = "the database cannot be rewritten: it is locked, or there is no space for a second copy; try again"
        raise Impossible(f"{msg} ({code})") from None
    if not emptied:
        raise Impossible("somebody has been reading the database for long; try again when it is quieter")
    yield "database"


def _rewrite_postgresql(tables: Iterable[Table]) -> Iterator[str]:
    with autocommit() as connection:
        driver = connection.connection.driver_connection
        assert driver
        # A pooler would run each statement in another session.
        if driver.info.backend_pid != connection.scalar(text("SELECT pg_backend_pid()")):
            raise Impossible("there is a pooler in front of the database: for this, name the database itself")
        _wait_for_older_transactions(connection)
        connection.execute(text(f"SET lock_timeout = '{POSTGRESQL_LOCK_SECONDS}s'"))
        try:
            for table in (*(table.name for table in tables), SAMPLES):
                _vacuum(connection, table)
                yield table
        finally:
            connection.execute(text("RESET lock_timeout"))


def _wait_for_older_transactions(connection: Connection) -> None:
    """Wait until no transaction sees rows that are deleted by now: PostgreSQL would copy them too."""
    beginning = connection.scalar(text("SELECT CAST(CAST(pg_current_xact_id() AS xid) AS text)"))
    deadline = time.monotonic() + POSTGRESQL_LOCK_SECONDS
    while connection.scalar(text(OLDER_TRANSACTIONS), {"beginning": beginning}):
        if time.monotonic() > deadline:
            raise Impossible("a transaction has been open for long and still sees deleted rows; try again later")
        time.sleep(0.1)


def _vacuum(connection: Connection, table: str) -> None:
    before = connection.scalar(text(FILE_OF), {"table": table})
    try:
        connection.execute(text(f"VACUUM FULL {table}"))
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise Impossible(f"{table} is locked, because somebody has been using it for long; try again later") from None
    # Without the right to vacuum, PostgreSQL only sends a warning.
    if connection.scalar(text(FILE_OF), {"table": table}) == before and table != SAMPLES:
        raise Impossible(f"{table}: this user of the database may not rewrite it; run this as its owner")
