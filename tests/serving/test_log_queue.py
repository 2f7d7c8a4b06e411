"""No request, no email and no shutdown waits for the reader of the log."""

import os
import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from peers import wait_for
from server_process import ServerProcess

from backend.logs import QUEUED_LINES

pytestmark = pytest.mark.long

LOST = re.compile(r"(\d+) lines were lost")
PIPELINED = 100


class Piped(ServerProcess):
    """`tiles serve` whose standard output and error are one pipe that is not read at first."""

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._leaders.append(self._process.pid)

    def read(self, seconds: float) -> list[str]:
        """Return the lines that arrive within so many seconds."""
        assert self._process
        assert self._process.stdout
        pipe, read, deadline = self._process.stdout.fileno(), b"", time.monotonic() + seconds
        os.set_blocking(pipe, False)
        while time.monotonic() < deadline:
            try:
                read += os.read(pipe, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        return read.decode().splitlines()

    def __exit__(self, *about: object) -> None:
        super().__exit__(*about)  # type: ignore[arg-type]
        assert self._process
        assert self._process.stdout
        self._process.stdout.close()


def ask(server: ServerProcess, times: int) -> int:
    """Send `GET /healthz` many times on one connection; return how often the response was 200."""
    parts, count = urlsplit(server.url), 0
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=10) as connection,
        connection.makefile("rb") as received,
    ):
        for _ in range(0, times, PIPELINED):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: tiles\r\n\r\n" * PIPELINED)
            for _ in range(PIPELINED):
                count += received.readline().startswith(b"HTTP/1.1 200")
                while received.readline() != b"\r\n":
                    pass
                received.read(len(b'{"status":"up"}'))
    return count


def test_a_stalled_log_reader_blocks_no_request_and_gets_the_number_of_lost_lines(tmp_path: Path) -> None:
    with Piped(tmp_path, rate_limits="off") as server:
        requests = QUEUED_LINES * 3 // 2
        assert ask(server, requests) == requests
        person = {"name": "Ada Lovelace", "email": "ada@example.org"}
        assert httpx2.post(f"{server.url}/v1/registrations", json=person).status_code == 202
        # Without a mail server the email goes to the terminal too.
        wait_for(lambda: list((server.instance_path / "mailbox" / "new").glob("*")))
        lines = server.read(3)
        logged = sum('"/healthz"' in line for line in lines)
        (lost,) = (int(LOST.search(line)[1]) for line in lines if LOST.search(line))  # type: ignore[index]
        assert QUEUED_LINES / 2 < logged < requests
        # Some lines are about other requests of this test.
        assert requests - logged <= lost <= requests - logged + 50
        assert ask(server, PIPELINED) == PIPELINED
        assert sum('"/healthz"' in line for line in server.read(1)) == PIPELINED


def test_a_service_whose_log_is_not_read_stops_on_sigterm(tmp_path: Path) -> None:
    with Piped(tmp_path) as server:
        ask(server, 3000)
        assert server.terminate() == 0
        assert server.processes() == []


def test_queued_log_lines_are_written_before_the_end(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        ask(server, 1000)
        assert server.terminate() == 0
        assert server.log.count('"/healthz"') == 1000


@contextmanager
def redirected(folder: Path, how: str) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, rate_limits="off")
    server._command = ["sh", "-c", f'exec "$@" {how}', "sh", *server._command]  # noqa: SLF001
    with server:
        yield server


@pytest.mark.parametrize("how", [">/dev/full 2>&1", "<&- >&- 2>&-"])
def test_a_service_starts_and_answers_where_nothing_can_be_written(tmp_path: Path, how: str) -> None:
    with redirected(tmp_path, how) as server:
        assert ask(server, 1000) == 1000
        person = {"name": "Ada Lovelace", "email": "ada@example.org"}
        assert httpx2.post(f"{server.url}/v1/registrations", json=person).status_code == 202
        wait_for(lambda: list((server.instance_path / "mailbox" / "new").glob("*")))
        assert server.terminate() == 0
        # No file of the service took the number of a stream that was closed.
        with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert b"healthz" not in b"".join(
            path.read_bytes() for path in server.instance_path.rglob("*") if path.is_file()
        )


def test_the_lines_that_a_full_disk_lost_are_counted_when_there_is_space_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with redirected(tmp_path, f"2>>{log}") as server:
        ask(server, 100)
        wait_for(lambda: log.read_text().count('"/healthz"') == 100)
        size = log.stat().st_size
        for pid in server.processes():
            subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={size}:unlimited"], check=True)
        ask(server, 100)
        time.sleep(0.5)
        for pid in server.processes():
            subprocess.run(["prlimit", f"--pid={pid}", "--fsize=unlimited"], check=True)
        ask(server, 100)
        warning = wait_for(lambda: LOST.search(log.read_text()))
        assert int(warning[1]) == 100
        assert log.read_text().count("WARNING") == 1
