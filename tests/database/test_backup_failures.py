"""A backup or a restore that fails leaves everything as it was."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import running
from apps import KEY
from backups import app_in, column, drafts, error_of, json_of
from forking import TILES
from server_process import environment

from backend.database import schema

HEAD = schema.versions()[-1]


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path) -> Path:  # noqa: ARG001 - the database is in the folder
    """An instance folder with a database and its backup."""
    json_of(tmp_path, "backup", str(tmp_path / "backup"))
    return tmp_path


def test_a_backup_needs_a_new_file_and_an_existing_database(folder: Path) -> None:
    before = (folder / "backup").read_bytes()
    assert "exists: name a new file" in error_of(folder, "backup", str(folder / "backup"))
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
        assert "exists: name a new file" in refused.communicate(timeout=60)[1]
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
