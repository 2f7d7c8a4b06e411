"""Upgrades: every migration keeps all rows, up and down, and the service continues while it runs."""

import threading
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from apps import KEY, dispose, make_app, make_settings
from flask import Flask
from migrations import migrate
from peers import wait_for
from server_process import ServerProcess
from sqlalchemy import Column, Connection, MetaData, Table, select, text
from support import Service, any_database, assert_problem, empty_database

from backend.database import engine, schema
from backend.errors import Impossible
from backend.serving import worker

ROWS = 7
REVISIONS = schema.versions()
Rows = dict[str, list[dict[str, Any]]]


def test_versions_are_numbers_that_count_up_one_after_the_other() -> None:
    scripts = ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions()
    assert [script.revision for script in reversed(list(scripts))] == REVISIONS
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


# Rows


def tables_of(connection: Connection) -> dict[str, Table]:
    """Return the database's present tables, each after the tables that it refers to."""
    metadata = MetaData()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*expression-based index")
        metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables if table.name != "alembic_version"}


def stored(app: Flask) -> Rows:
    """Return every row of every table."""
    with app.app_context(), engine.db.engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for name, table in tables_of(connection).items()
        }


def value_of(column: Column[Any], number: int, parents: Rows) -> object:
    for key in column.foreign_keys:
        return parents[key.column.table.name][number][key.column.name]
    if column.name == "taken_back_at":
        # A migration removes the hash of such an account, which test_email_change_thief shows.
        return None
    if column.name == "password_hash":
        return f"$argon2id$v=19$m={number + 8},t=1,p=1$" + "s" * 22 + "$" + "d" * 43
    made = uuid.uuid4()
    values = {str: made.hex[:20], uuid.UUID: made, bytes: made.bytes, bool: True, int: number,
              datetime: datetime.now(UTC), date: date(2026, 1, 1), object: {"number": number}}  # fmt: skip
    return values[column.type.python_type]


def fill(app: Flask) -> None:
    """Put rows into every table, with a value in every column."""
    rows: Rows = {}
    with app.app_context(), engine.db.engine.begin() as connection:
        for name, table in tables_of(connection).items():
            rows[name] = [{c.name: value_of(c, number, rows) for c in table.columns} for number in range(ROWS)]
            connection.execute(table.insert(), rows[name])


def assert_kept(before: Rows, after: Rows) -> None:
    """Check that every row is unchanged in the columns that exist before and after."""
    for name in before.keys() & after.keys():
        columns = before[name][0].keys() & after[name][0].keys()
        unchanged = [{column: row[column] for column in columns} for row in after[name]]
        assert all({column: row[column] for column in columns} in unchanged for row in before[name]), name


@empty_database
def test_every_migration_keeps_every_row_up_and_down(app: Flask) -> None:
    with app.app_context():
        engine.db.engine.dispose()
    for revision in REVISIONS:
        before = stored(app)
        migrate(app, command.upgrade, revision)
        assert_kept(before, after := stored(app))
        if revision == "0004":
            costs = {f"m={number + 8},t=1,p=1" for number in range(ROWS)}
            assert {row["cost"] for row in after["password_costs"]} == costs
        fill(app)
    for revision in reversed(["base", *REVISIONS[:-1]]):
        before = stored(app)
        assert all(len(rows) >= ROWS for rows in before.values())
        migrate(app, command.downgrade, revision)
        assert_kept(before, after := stored(app))
        assert after.keys() <= before.keys()
    assert stored(app) == {}


# While others use the database


@pytest.fixture
def behind(empty_postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """A service on PostgreSQL with an older schema; migrations wait only briefly for locks."""
    monkeypatch.setattr(schema, "MIGRATION_LOCK_TIMEOUT", "100ms")
    app = make_app(make_settings(tmp_path, empty_postgresql_url))
    migrate(app, command.upgrade, "0002")
    fill(app)
    yield app
    dispose(app)


def upgraded(app: Flask) -> tuple[str | None, str | None]:
    with app.app_context():
        return schema.upgrade()


def test_a_migration_that_waits_for_a_long_transaction_delays_nobody(
    behind: Flask, empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema, "MIGRATION_PAUSES", [0.05])
    before = stored(behind)
    reader, long = (psycopg.connect(empty_postgresql_url) for _ in range(2))
    with ThreadPoolExecutor() as pool, reader, long:
        long.execute("SELECT count(*) FROM accounts")
        with pytest.raises(Impossible, match="pg_stat_activity"):
            pool.submit(upgraded, behind).result(20)
        assert stored(behind) == before
        monkeypatch.setattr(schema, "MIGRATION_PAUSES", [0.05] * 400)
        reader.execute("SET lock_timeout = '5s'")
        reader.commit()
        caplog.clear()
        upgrading = pool.submit(upgraded, behind)
        while caplog.text.count("a table is in use") < 5:
            assert reader.execute("SELECT count(*) FROM accounts").fetchone() == (ROWS,)
            reader.rollback()
        long.rollback()
        assert upgrading.result(20) == ("0002", REVISIONS[-1])


def test_a_process_that_starts_during_a_migration_waits_for_its_end(
    behind: Flask, empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATION_PAUSES", [])
    monkeypatch.setattr(
        engine, "POSTGRESQL_BEGIN", "BEGIN; SET LOCAL lock_timeout = '50ms'; SET LOCAL statement_timeout = '50ms'"
    )
    with ThreadPoolExecutor() as pool, psycopg.connect(empty_postgresql_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [schema.POSTGRESQL_MIGRATION_LOCK])
        upgrading = pool.submit(upgraded, behind)
        with pytest.raises(TimeoutError):
            upgrading.result(0.5)
        other.rollback()
        assert upgrading.result(20) == ("0002", REVISIONS[-1])


# Another release's schema


@pytest.mark.long
def test_this_release_serves_on_the_schema_of_a_later_one(service: Service, tmp_path: Path, database_url: str) -> None:
    with service.app.app_context(), engine.transaction() as session:
        session.execute(text("ALTER TABLE accounts ADD COLUMN colour VARCHAR(20)"))
        session.execute(text("CREATE TABLE colours (name VARCHAR(20) PRIMARY KEY)"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert service.http.get("/readyz").status_code == 200
    ada = service.register()
    assert service.account(ada.headers).status_code == 200
    assert upgraded(service.app) == ("9999", "9999")
    with ServerProcess(tmp_path, database_url=database_url, secret_keys=KEY) as server:
        assert server.terminate() == 0


@any_database
def test_on_the_schema_of_an_older_release_it_is_not_ready(service: Service) -> None:
    with service.app.app_context(), engine.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :older"), {"older": REVISIONS[-2]})
    assert_problem(service.http.get("/readyz"), 503, "overloaded")


@empty_database
def test_a_worker_without_tables_says_what_to_do(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    working = threading.Thread(target=worker.work, args=(app, stop))
    working.start()
    wait_for(lambda: "run `tiles db upgrade`" in caplog.text)
    stop.set()
    working.join()
