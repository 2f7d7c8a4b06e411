"""The database: one engine, and transactions that write in turn on SQLite."""

import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from sqlalchemy import ColumnElement, Executable, Select, Table, event, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, CursorResult, Dialect, Engine, Row, create_engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, declared_attr, registry, scoped_session
from sqlalchemy.types import DateTime, TypeDecorator, Uuid

from backend.config import served_threads, settings

SQLITE_BUSY_SECONDS = 10
# SQLite's write-ahead log grows to 4 MiB before it is written back into the file.
SQLITE_LEAST_FREE_BYTES = 4 * 2**20
SQLITE_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON",
                  "temp_store = MEMORY")  # fmt: skip
# Requests at a time in a process that serves none: a command or the worker.
DEFAULT_THREADS = 8
# A lost connection is noticed within 11 seconds, not after 15 minutes. Options in the URL have priority.
POSTGRESQL_CONNECTION = {
    "connect_timeout": 3,  # for each host
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# Set in each transaction, because a pooler shares its sessions among clients. In one round trip.
POSTGRESQL_BEGIN = (
    "BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '60s'"
)

AnyRow = Row[*tuple[Any, ...]]
sqlite_writer = threading.Lock()


class UTCDateTime(TypeDecorator[datetime]):
    """A time in UTC, with its time zone also on SQLite, which stores none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert a time to UTC; refuse one without a time zone."""
        if value is not None and value.tzinfo is None:
            msg = "a stored time needs a time zone"
            raise ValueError(msg)
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the stored time in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base of every table. The docstring of a table's class is shown to people."""

    registry = registry(type_annotation_map={datetime: UTCDateTime, uuid.UUID: Uuid})

    @declared_attr.directive
    def __table_args__(cls) -> dict[str, Any]:  # noqa: D105, N805 - SQLAlchemy's own way
        return {"info": {"purpose": (cls.__doc__ or "").removesuffix(".")}}


db = SQLAlchemy(model_class=Base)


def init_app(app: Flask) -> None:
    """Connect the app to the database that its settings name."""
    with app.app_context():
        url = settings().database
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = _engine_options(url)
    db.init_app(app)
    with app.app_context():
        _listen(db.engine)


def engine_for(url: URL) -> Engine:
    """Return a new engine for another database than the app's."""
    engine = create_engine(url, **_engine_options(url))
    _listen(engine)
    return engine


def _listen(engine: Engine) -> None:
    event.listen(engine, "begin", _begin)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "do_connect", _open_sqlite)


def _engine_options(url: URL) -> dict[str, Any]:
    if url.drivername == "sqlite":
        return {"hide_parameters": True, "connect_args": {"timeout": SQLITE_BUSY_SECONDS}, "max_overflow": -1}
    try:
        threads = served_threads()
    except KeyError:
        threads = DEFAULT_THREADS
    return {
        "hide_parameters": True,
        "pool_pre_ping": True,
        "pool_size": threads,
        "max_overflow": 8,
        "pool_timeout": 5,
        "pool_recycle": 1800,  # The server behind a host name may change.
        "connect_args": {
            **{name: value for name, value in POSTGRESQL_CONNECTION.items() if name not in url.query},
            # With autocommit the driver sends no BEGIN of its own, which would be one more round trip.
            "autocommit": True,
            # Behind a pooler the next statement may reach a connection that has not prepared it.
            "prepare_threshold": None,
        },
    }


def _open_sqlite(dialect: Dialect, _entry: object, arguments: list[str], options: dict[str, Any]) -> DBAPIConnection:
    """Open an existing file: only a migration makes one."""
    connection: DBAPIConnection = dialect.loaded_dbapi.connect(
        f"file:{quote(arguments[0])}?mode=rw", **options, uri=True
    )
    # The driver's own BEGIN would come too late for reads, and would never be immediate.
    connection.isolation_level = None
    for pragma in SQLITE_PRAGMAS:
        connection.cursor().execute(f"PRAGMA {pragma}")
    return connection


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("autocommit"):
        return
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(POSTGRESQL_BEGIN)
    elif options.get("writing"):
        _begin_writing(connection)
    else:
        connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: Connection) -> None:
    """Take SQLite's write lock now: a transaction that reads first would fail if another one wrote in between.

    SQLite waits longer before each try, up to 100 ms, but most transactions of other processes take a few ms.
    """
    cursor, deadline = connection.connection.cursor(), time.monotonic() + SQLITE_BUSY_SECONDS
    # It tries after 1 ms and after 2 ms more.
    cursor.execute("PRAGMA busy_timeout = 3")
    try:
        while time.monotonic() < deadline:
            try:
                cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    break
            else:
                return
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")


def is_sqlite() -> bool:
    """Return whether the app's database is SQLite."""
    return db.engine.dialect.name == "sqlite"


@contextmanager
def transaction() -> Iterator[scoped_session[Session]]:
    """Commit everything that the block writes at its end, or nothing if it raises.

    On SQLite, the writers of this process queue on a lock, because SQLite itself polls.
    """
    session = db.session
    session.rollback()
    with sqlite_writer if is_sqlite() else nullcontext():
        try:
            session.connection(execution_options={"writing": True})
            session.info["writing"] = True
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.info["writing"] = False


@contextmanager
def reading() -> Iterator[scoped_session[Session]]:
    """Read, and return the connection to the pool at the end of the block. In a transaction, read in that."""
    session = db.session
    try:
        yield session
    finally:
        if not session.info.get("writing"):
            session.rollback()


def autocommit() -> Connection:
    """Return a connection, to be used as a context, on which each statement is a transaction of its own."""
    return db.engine.connect().execution_options(autocommit=True)


def changed(statement: Executable, **values: object) -> int:
    """Execute a statement in the open transaction and return how many rows it changed."""
    # Without this option the row count of an INSERT ... SELECT is lost on PostgreSQL.
    result = db.session.execute(statement, values, execution_options={"preserve_rowcount": True})
    assert isinstance(result, CursorResult)
    return result.rowcount


def lock(name: str) -> None:
    """Let only one transaction at a time continue. SQLite has only one writer anyway.

    A unique constraint would do it too, but PostgreSQL writes the refused value into its own log.
    """
    if not is_sqlite():
        db.session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def insert_unless_taken(table: type[Base] | Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that does nothing if a unique value is taken. A failed one would log it on PostgreSQL."""
    return insert_into(table).on_conflict_do_nothing()


def insert_into(table: type[Base] | Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT of the database's own dialect, which has ON CONFLICT."""
    return sqlite.insert(table) if is_sqlite() else postgresql.insert(table)


def materialized(keys: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Return a locking query of keys, to be used with IN.

    PostgreSQL may run a plain subquery again for each row, and so lock more rows than the LIMIT allows. A common table
    expression with FOR UPDATE runs once.
    """
    # Nested, as SQLite's driver counts the rows of a statement only if it begins with UPDATE.
    rows = keys.cte(nesting=True)
    return select(*rows.c)


def locked(condition: ColumnElement[bool], *key: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Return the condition of the same rows, locked in the order of their key, so that no two transactions deadlock."""
    rows = select(*key).where(condition).order_by(*key).with_for_update()
    return tuple_(*key).in_(materialized(rows))


def is_lock_timeout(error: DBAPIError) -> bool:
    """Return whether PostgreSQL gave up waiting for a lock."""
    # lock_not_available and deadlock_detected
    return getattr(error.orig, "sqlstate", None) in {"55P03", "40P01"}


def sqlite_file() -> Path | None:
    """Return the path of SQLite's file, which may be missing; None on PostgreSQL."""
    return Path(str(db.engine.url.database)) if is_sqlite() else None


def has_file() -> bool:
    """Return False if SQLite's file is missing."""
    file = sqlite_file()
    return file is None or file.exists()


def has_room() -> bool:
    """Return False if the disk of SQLite's file is nearly full."""
    file = sqlite_file()
    return file is None or shutil.disk_usage(file.parent).free >= SQLITE_LEAST_FREE_BYTES


def is_read_only() -> bool:
    """Return True if SQLite's file or folder cannot be written, such as on a read-only file system."""
    file = sqlite_file()
    return file is not None and not all(os.access(path, os.W_OK) for path in (file, file.parent))
