"""The database: one engine, one write transaction at a time on SQLite, erased bytes overwritten."""

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    DateTime,
    Dialect,
    Engine,
    Executable,
    Row,
    Table,
    Uuid,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, registry, scoped_session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from backend.config import served_threads, settings

LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED = "55P03", "40P01"
SQLITE_BUSY_SECONDS = 10
# SQLite's log grows to 4 MiB before it is emptied into the file.
SQLITE_LEAST_FREE_BYTES = 4 * 2**20

THREADS_ELSEWHERE = 8
SPARE_CONNECTIONS = 8
# A server behind the same name may have changed since.
RECYCLE_SECONDS = 1800
# What a URL says itself comes first. A peer that is gone is noticed within 11 seconds, also in the middle of a wait for
# its answer; the system alone takes 15 minutes.
POSTGRESQL_CONNECTION = {
    "connect_timeout": 3,  # for each host
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# A thread waits for nobody for ever, and a machine that froze or was cut off leaves no lock behind. Given with each
# transaction, as what a pooler shares among its clients keeps no setting of a session, and takes none at its start.
_POSTGRESQL_WAITS = {
    "lock_timeout": "10s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
}
# Each in one round trip; the latter as part of a pipeline, which takes single statements only.
POSTGRESQL_BEGIN = "; ".join(["BEGIN", *(f"SET LOCAL {name} = '{wait}'" for name, wait in _POSTGRESQL_WAITS.items())])
POSTGRESQL_WAIT = "SELECT " + ", ".join(
    f"set_config('{name}', '{wait}', true)" for name, wait in _POSTGRESQL_WAITS.items()
)

writing: ContextVar[bool] = ContextVar("writing", default=False)
sqlite_writer = threading.Lock()


class UTCDateTime(TypeDecorator[datetime]):
    """A moment: aware and in UTC on the way in and out, on SQLite too, which knows no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse a moment that does not say its time zone."""
        if value is not None and value.tzinfo is None:
            msg = "a stored moment needs a time zone"
            raise ValueError(msg)
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give back what was stored, in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base of every table."""

    registry = registry(type_annotation_map={datetime: UTCDateTime, uuid.UUID: Uuid})


db = SQLAlchemy(model_class=Base)


def init_app(app: Flask) -> None:
    """Bind the app to the database that its settings name."""
    with app.app_context():
        url = settings().database
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"hide_parameters": True, **_engine_options(url)}
    db.init_app(app)
    with app.app_context():
        _listen(db.engine)


def engine_for(url: URL) -> Engine:
    """Return an engine of its own for another database than the app's."""
    engine = create_engine(url, hide_parameters=True, **_engine_options(url))
    _listen(engine)
    return engine


def _listen(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "do_connect", _open_sqlite)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "begin", _begin_postgresql)


def _engine_options(url: URL) -> dict[str, Any]:
    if url.drivername == "sqlite":
        return {"connect_args": {"timeout": SQLITE_BUSY_SECONDS}, "max_overflow": -1}
    said = url.query
    connection = {name: value for name, value in POSTGRESQL_CONNECTION.items() if name not in said}
    # A pooled connection may have died with its server; pinging costs less than a lost request.
    return {
        "pool_pre_ping": True,
        "pool_size": _threads(),
        "max_overflow": SPARE_CONNECTIONS,
        "pool_timeout": 5,
        "pool_recycle": RECYCLE_SECONDS,
        # Behind a pooler the next statement may meet a server connection that does not know what was prepared.
        "connect_args": {**connection, "prepare_threshold": None},
    }


def _threads() -> int:
    """Return how many requests this process answers at a time; a worker and a command answer none."""
    try:
        return served_threads()
    except KeyError:
        return THREADS_ELSEWHERE


def _prepare_postgresql(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # We begin ourselves: the driver's own BEGIN would be a round trip more.
    connection.autocommit = True


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql(POSTGRESQL_BEGIN)


def _open_sqlite(
    dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[str], options: dict[str, Any]
) -> DBAPIConnection:
    """Open a file that is there: only a migration makes one."""
    connection: DBAPIConnection = dialect.loaded_dbapi.connect(
        f"file:{quote(arguments[0])}?mode=rw", **options, uri=True
    )
    return connection


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own transaction control begins too late for a read and never immediately.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
        "temp_store = MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads and then writes fails at once when another wrote in between: take the lock first.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing.get() else "BEGIN")


AnyRow = Row[*tuple[Any, ...]]


def changed(statement: Executable, **values: object) -> int:
    """Execute a statement in the open transaction and return how many rows it changed."""
    # Without being told, the PostgreSQL driver's count of an INSERT ... SELECT is thrown away.
    result = db.session.execute(statement, values, execution_options={"preserve_rowcount": True})
    assert isinstance(result, CursorResult)
    return result.rowcount


@contextmanager
def transaction() -> Iterator[scoped_session[Session]]:
    """Write: everything inside is stored durably at the end, or nothing is.

    On SQLite writers of this process queue on a lock, which is quicker than SQLite's own sleeping.
    """
    session = db.session
    session.rollback()
    alone = sqlite_writer if db.engine.dialect.name == "sqlite" else nullcontext()
    with alone:
        token = writing.set(True)
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            writing.reset(token)


@contextmanager
def reading() -> Iterator[scoped_session[Session]]:
    """Read, and give the connection back at the end, so that nothing slow holds it. Each statement sees its moment."""
    try:
        yield db.session
    finally:
        db.session.rollback()


def lock(name: str) -> None:
    """Let one transaction at a time go on from here; on SQLite only one writes at all.

    A unique value that is taken first and checked by its constraint would end in PostgreSQL's own log.
    """
    if db.engine.dialect.name == "postgresql":
        db.session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def insert_unless_taken(table: type[Base] | Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that inserts nothing, and raises nothing, where a unique value is taken.

    PostgreSQL would else write the value into its own log.
    """
    return insert_into(table).on_conflict_do_nothing()


def insert_into(table: type[Base] | Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT in the database's own dialect, which knows what to do about a row that is there already."""
    return sqlite.insert(table) if db.engine.dialect.name == "sqlite" else postgresql.insert(table)


def is_locked_out(error: DBAPIError) -> bool:
    """Tell whether PostgreSQL gave up waiting for what others hold."""
    return getattr(error.orig, "sqlstate", None) in {LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED}


def has_room() -> bool:
    """Tell whether SQLite's file still has a disk to grow on; of PostgreSQL's disk nothing is known here."""
    file = _sqlite_file()
    return file is None or shutil.disk_usage(file.parent).free >= SQLITE_LEAST_FREE_BYTES


def is_read_only() -> bool:
    """Tell whether SQLite's file or folder takes no writes, such as on a read-only file system; nothing is written."""
    file = _sqlite_file()
    return file is not None and not all(os.access(path, os.W_OK) for path in (file, file.parent))


def _sqlite_file() -> Path | None:
    file = db.engine.url.database
    return Path(file) if file and db.engine.dialect.name == "sqlite" else None


def has_file() -> bool:
    """Tell whether SQLite's file is there; of PostgreSQL only a connection tells."""
    file = _sqlite_file()
    return file is None or file.exists()
