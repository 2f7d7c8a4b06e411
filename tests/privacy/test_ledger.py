"""The ledger: a full disk changes nothing, an altered line stops the start, and a long one is read quickly."""

import errno
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from apps import dispose, make_app, make_settings
from journeys import cancel, closed_by, erase_due, in_ledger
from peers import MailServer, free_port
from server_process import run_tiles
from sqlalchemy.exc import OperationalError
from support import Service, any_database

from backend import clock
from backend.database.engine import db
from backend.errors import Impossible
from backend.privacy import erasure, ledger

ADA = "ada@example.org"
ACCOUNT = "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11"
EARLIER = json.dumps({"account": ACCOUNT, "erased_at": "2026-01-01T00:00:00Z"})


def write(service: Service, count: int = 1) -> Path:
    """Append accounts as an erasure does; return the ledger's path."""
    with service.app.app_context(), ledger.opened() as append:
        append({uuid.uuid4(): clock.now() for _ in range(count)})
        return ledger.path()


# A full disk


def failing(error: int, after: int) -> object:
    """Return an `os.write` that writes this many bytes and then fails."""
    room, os_write = after, os.write

    def fail(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(error, os.strerror(error))
        count = os_write(file, data[:room])
        room -= count
        return count

    return fail


@pytest.mark.parametrize(
    ("after", "then"), [(0, "cancel"), (40, "erase")], ids=["nothing is written", "half a line is written"]
)
def test_a_ledger_that_cannot_be_written_leaves_the_account_which_is_cancelled_or_erased_at_once(
    hasty: Service, monkeypatch: pytest.MonkeyPatch, after: int, then: str
) -> None:
    token = closed_by(hasty, hasty.register().headers, ADA, erase=True)
    file = write(hasty)
    before, content = hasty.rows("accounts"), file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC, after))
        with pytest.raises(OSError, match="No space left"):
            erase_due(hasty)
    assert hasty.rows("accounts") == before
    assert file.read_bytes() == content
    if then == "cancel":
        assert cancel(hasty, token).status_code == 204
        return
    assert erase_due(hasty) == 1
    assert len(in_ledger(hasty)) == 2
    assert hasty.rows("accounts") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("log_has_room", [True, False], ids=["the database has room left", "nothing has"])
def test_a_full_disk_leaves_the_account_and_the_ledger_unchanged(
    small_disk: Path, sqlite_template: Path, mail_server: MailServer, *, log_has_room: bool
) -> None:
    shutil.copy(sqlite_template, small_disk / "tiles.sqlite3")
    peer = {"mail_server": mail_server.host, "mail_port": mail_server.port, "erasure_grace_days": 0}
    service = Service(make_app(make_settings(small_disk, f"sqlite:///{small_disk}/tiles.sqlite3", **peer)), mail_server)
    token = closed_by(service, service.register().headers, ADA, erase=True)
    # The ledger fills its last page, so the next line needs another.
    (small_disk / "erasures.jsonl").write_bytes(b"\n" * 4096)
    if log_has_room:
        with service.app.app_context(), db.engine.connect() as connection:
            # After this, SQLite writes its WAL from the beginning.
            connection.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)")
    before, ballast = service.rows("accounts"), small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError if log_has_room else OperationalError, match=r"No space left|disk is full"):
        erase_due(service)
    assert service.rows("accounts") == before
    assert (small_disk / "erasures.jsonl").read_bytes() == b"\n" * 4096
    ballast.unlink()
    assert erase_due(service) == 1
    assert cancel(service, token).status_code == 400
    dispose(service.app)


# An altered line


# Alterations of the second of three lines
ALTERED: dict[str, Callable[[str], str]] = {
    "another account": lambda two: two[:14] + ("0" if two[14] != "0" else "1") + two[15:],
    "another time": lambda two: re.sub(r"T\d\d:", "T24:", two),
    "another time without a check": lambda _: EARLIER.replace("T00", "T25") + "\n",
    "cut in the middle": lambda two: two[:30] + "\n",
    "no JSON": lambda _: "Dear diary\n",
    "joined with the third": str.strip,
    "another field": lambda two: two.replace('"check"', '"czech"'),
}


@any_database
def test_an_altered_line_stops_the_start_and_the_error_says_what_to_do(
    service: Service, database_url: str, tmp_path: Path
) -> None:
    file = write(service, 3)
    first, second, third = file.read_text().splitlines(keepends=True)
    for alter in ALTERED.values():
        file.write_text(first + alter(second) + third)
        with service.app.app_context(), pytest.raises(Impossible, match="line 2 is no entry of a ledger"):
            erasure.replay()
    dispose(service.app)
    stopped = run_tiles(tmp_path, "serve", "--port", str(free_port()), database_url=database_url)
    assert (stopped.returncode, stopped.stdout) == (2, "")
    assert stopped.stderr.startswith(f"Error: {file}: line 2 is no entry of a ledger")
    assert "put the newest copy of the file in its place" in stopped.stderr


@any_database
def test_lines_of_an_earlier_release_and_a_byte_order_mark_are_read(service: Service) -> None:
    file = write(service, 3)
    file.write_text(f"\n{EARLIER}\n" + file.read_text(), "utf-8-sig")
    assert uuid.UUID(ACCOUNT) in in_ledger(service)
    assert len(in_ledger(service)) == 4


@any_database
@pytest.mark.parametrize("zeros", [20, 4_096, 20_000])
@pytest.mark.parametrize("length", [0, 1, 50, 80])
def test_a_partial_last_line_is_not_read_and_cut_off_before_the_next_one(
    service: Service, length: int, zeros: int
) -> None:
    file = write(service, 3)
    with file.open("a") as end:
        end.write(EARLIER[:length] + "\0" * zeros)
    assert len(in_ledger(service)) == 3
    write(service)
    assert len(in_ledger(service)) == 4
    assert len(file.read_bytes().splitlines()) == 4


@any_database
def test_a_whole_last_line_without_its_line_break_is_kept(service: Service) -> None:
    with write(service, 3).open("a") as end:
        end.write(EARLIER)
    write(service)
    assert len(in_ledger(service)) == 5


# A long ledger


@pytest.mark.parametrize("erased_at", [clock.now(), datetime(2020, 1, 1, tzinfo=UTC)], ids=["erased here", "long ago"])
def test_a_start_reads_a_long_ledger_once_and_asks_the_database_about_all_lines_together(
    service: Service, monkeypatch: pytest.MonkeyPatch, erased_at: datetime
) -> None:
    lines = 20_000
    service.register()
    with service.app.app_context():
        with ledger.opened() as append:
            append({uuid.uuid4(): erased_at for _ in range(lines)})
        erasure.replay()
        read, opened = Path.read_text, list[Path]()
        monkeypatch.setattr(Path, "read_text", lambda self, *arguments: opened.append(self) or read(self, *arguments))
        with service.statements() as statements:
            assert erasure.replay() == erasure.Replayed(lines, 0)
        assert opened == [ledger.path()]
        assert len(statements) < 10
    assert len(service.rows("accounts")) == 1
