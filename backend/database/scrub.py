"""What deleting leaves behind in the database's own files, and how it is removed.

SQLite overwrites what it deletes, with two exceptions. A row that moved to another page leaves its bytes in the gap of
the old one. And the write-ahead log keeps what was written until it is emptied. PostgreSQL keeps dead rows until their
table is written anew.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Table, func, literal, select, text
from sqlalchemy.exc import OperationalError

from backend.database.engine import SQLITE_BUSY_SECONDS, Base, db, is_locked_out, sqlite_writer, transaction
from backend.errors import Impossible

REWRITTEN_ROWS = 10_000
POSTGRESQL_LOCK_SECONDS = 10
MOST_NOTED = 2**30
OLDER_TRANSACTIONS = (
    "SELECT count(*) FROM (SELECT backend_xmin FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    "AND (datname IS NULL OR datname = current_database()) "
    "UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database() "
    "UNION ALL SELECT xmin FROM pg_replication_slots) AS seen (xid) WHERE age(xid) > age(CAST(:beginning AS xid))"
)
# What an older release let PostgreSQL sample of names and addresses.
SAMPLES = "pg_statistic"
FILE_OF = "SELECT pg_relation_filenode(CAST(:table AS regclass))"


def scrub(*tables: type[Base]) -> bool:
    """Leave nothing of deleted rows of these tables in SQLite's files: true when nothing is.

    Their rows are written anew while they are few, and the log is emptied. On PostgreSQL nothing is done.
    """
    if not _is_sqlite() or not _log_size():
        return True
    for table in tables:
        _rewrite(table)
    return _empty_log()


def _is_sqlite() -> bool:
    return db.engine.dialect.name == "sqlite"


def _log_size() -> int:
    try:
        return Path(f"{db.engine.url.database}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _empty_log() -> bool:
    with sqlite_writer, _sqlite() as connection:
        # Somebody who reads for long is not waited for, as nobody could write meanwhile: the next round tries again.
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")
        return not busy


@contextmanager
def _sqlite() -> Iterator[sqlite3.Connection]:
    with db.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        try:
            yield raw
        except sqlite3.Error as error:
            raise OperationalError(None, None, error) from None


def _rewrite(table: type[Base]) -> None:
    name = table.__tablename__
    kept = select(literal(1)).select_from(table.__table__).limit(REWRITTEN_ROWS + 1).subquery()
    with transaction() as session:
        if 0 < (session.scalar(select(func.count()).select_from(kept)) or 0) <= REWRITTEN_ROWS:
            # Emptied whole, a table gives its pages back, and those are overwritten. Others wait to write meanwhile:
            # SQLite itself takes a tenth of the time that it takes to read the rows and give them back.
            for step in (
                f"CREATE TEMPORARY TABLE kept AS SELECT * FROM {name}",  # noqa: S608 - our own table
                f"DELETE FROM {name}",  # noqa: S608
                f"INSERT INTO {name} SELECT * FROM kept",  # noqa: S608
                "DROP TABLE kept",
            ):
                session.execute(text(step))


def leave_remains() -> None:
    """In the caller's transaction: note in the file that what is deleted now may have left copies between rows."""
    if _is_sqlite():
        noted = db.session.scalar(text("PRAGMA user_version")) or 0
        db.session.execute(text(f"PRAGMA user_version = {noted % MOST_NOTED + 1}"))


def has_remains() -> bool:
    """Tell whether copies of deleted rows may be left in SQLite's file."""
    if not _is_sqlite():
        return False
    with _sqlite() as connection:
        return bool(connection.execute("PRAGMA user_version").fetchone()[0])


def rewrite(tables: Iterable[Table]) -> Iterator[str]:
    """Write the database anew, so that no file holds bytes of what was deleted; tell each step when it is done.

    SQLite does it in one step, and writers wait meanwhile. PostgreSQL does it table by table, each of which nobody
    can read or write meanwhile.

    Raises:
        Impossible: a table cannot be had within 10 seconds, or may not be written anew; or somebody still reads what
            was deleted.
    """
    if not _is_sqlite():
        yield from _rewrite_postgresql(tables)
        return
    try:
        alone = compact()
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorname", None) == "SQLITE_CANTOPEN":
            raise
        msg = "the database cannot be written anew: it is locked, or there is no space for a second copy; try again"
        raise Impossible(f"{msg} ({getattr(error.orig, 'sqlite_errorname', None)})") from None
    if not alone:
        raise Impossible("somebody has been reading the database for long; try again when it is quieter")
    yield "database"


def compact() -> bool:
    """On SQLite, write the file anew; tell whether the log could be emptied too, which happens with the next mail else.

    Raises:
        OperationalError: it cannot be locked, or there is no space for a second copy.
    """
    if _is_sqlite():
        with sqlite_writer, _sqlite() as connection:
            noted = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("VACUUM")
            connection.execute("BEGIN IMMEDIATE")
            # What another process deleted meanwhile is for the next time.
            if connection.execute("PRAGMA user_version").fetchone() == noted:
                connection.execute("PRAGMA user_version = 0")
            connection.execute("COMMIT")
        return _empty_log()
    return True


def _outwait_older_transactions(connection: Connection) -> None:
    """Wait until nobody sees any more what was deleted before this: for them PostgreSQL would write it anew too."""
    beginning = connection.scalar(text("SELECT CAST(CAST(pg_current_xact_id() AS xid) AS text)"))
    deadline = time.monotonic() + POSTGRESQL_LOCK_SECONDS
    while connection.scalar(text(OLDER_TRANSACTIONS), {"beginning": beginning}):
        if time.monotonic() > deadline:
            raise Impossible("a transaction has been open for long and still sees what was deleted; try again later")
        time.sleep(0.1)


def _refuse_pooler(connection: Connection) -> None:
    """Refuse a pooler: what is set for this session would be set for others, and not for what follows."""
    driver = connection.connection.driver_connection
    assert driver
    if driver.info.backend_pid != connection.scalar(text("SELECT pg_backend_pid()")):
        raise Impossible("there is a pooler in front of the database: for this, name the database itself")


def _rewrite_postgresql(tables: Iterable[Table]) -> Iterator[str]:
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _refuse_pooler(connection)
        _outwait_older_transactions(connection)
        connection.execute(text(f"SET lock_timeout = '{POSTGRESQL_LOCK_SECONDS}s'"))
        try:
            for table in (*(table.name for table in tables), SAMPLES):
                file = connection.scalar(text(FILE_OF), {"table": table})
                try:
                    connection.execute(text(f"VACUUM FULL {table}"))
                except OperationalError as error:
                    if not is_locked_out(error):
                        raise
                    msg = f"{table} could not be locked, as somebody has been using it for long; try again later"
                    raise Impossible(msg) from None
                # To whoever may not do it, PostgreSQL gives a warning that nobody sees.
                if connection.scalar(text(FILE_OF), {"table": table}) == file and table != SAMPLES:
                    raise Impossible(f"{table}: this user of the database may not write it anew; run this as its owner")
                yield table
        finally:
            connection.execute(text("RESET lock_timeout"))
