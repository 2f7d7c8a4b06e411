"""The database: one engine, one write transaction at a time on SQLite, erased bytes overwritten."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from sqlalchemy import (
    Connection,
    CursorResult,
    DateTime,
    Dialect,
    Engine,
    Executable,
    Row,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import DeclarativeBase, registry, scoped_session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from backend.config import settings

MIGRATIONS = Path(__file__).parent / "migrations"
SQLITE_BUSY_SECONDS = 10
POSTGRESQL_MIGRATION_LOCK = 0x54494C4553

_writing: ContextVar[bool] = ContextVar("writing", default=False)
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
        if db.engine.dialect.name == "sqlite":
            event.listen(db.engine, "connect", _prepare_sqlite)
            event.listen(db.engine, "begin", _begin_sqlite)


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": SQLITE_BUSY_SECONDS}}
    # A pooled connection may have died with its server; pinging costs less than a lost request.
    return {
        "pool_pre_ping": True,
        "pool_size": 16,
        "max_overflow": 16,
        "pool_timeout": 5,
        "connect_args": {"connect_timeout": 5},
    }


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
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writing.get() else "BEGIN")


AnyRow = Row[*tuple[Any, ...]]


def changed(statement: Executable) -> int:
    """Execute a statement in the open transaction and return how many rows it changed."""
    # Without being told, the PostgreSQL driver's count of an INSERT ... SELECT is thrown away.
    result = db.session.execute(statement, execution_options={"preserve_rowcount": True})
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
        token = _writing.set(True)
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            _writing.reset(token)


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


def insert_unless_taken(table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that inserts nothing, and raises nothing, where a unique value is taken.

    PostgreSQL would else write the value into its own log.
    """
    if db.engine.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def upgrade() -> tuple[str | None, str | None]:
    """Bring the schema to this release's version, once, however many processes try at the same time.

    Returns:
        The version before and the version after.
    """
    with _migration_connection(db.engine) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        config = _alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _migration_connection(engine: Engine) -> Iterator[Connection]:
    """Hold a lock for as long as migrations run: the database's own on PostgreSQL, the write lock on SQLite."""
    token = _writing.set(True)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_MIGRATION_LOCK})
            yield connection
    finally:
        _writing.reset(token)


def is_current() -> bool:
    """Tell whether the schema is at this release's version."""
    with db.engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == ScriptDirectory.from_config(_alembic()).get_current_head()
