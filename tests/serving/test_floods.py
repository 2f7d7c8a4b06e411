"""Clients that send too much, too slowly or not at all block no other client of the real server."""

import asyncio
import json
import os
import re
import resource
import select
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from peers import wait_for
from served_requests import memory_of
from server_process import ServerProcess
from support import OTHER_PASSWORD, PASSWORD, Service, any_database

from backend.security.hashing import BACKLOG
from backend.serving.front import BODY_SECONDS

HEAD = b"POST /v1/feedback HTTP/1.1\r\nHost: tiles\r\nContent-Type: application/json\r\n"
# More than a process answers at a time, and more than may wait for a hash.
CROWD = 4 * BACKLOG
ADDRESS = "nobody@example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The service with real password hashing, and its default number of threads."""
    folder = tmp_path_factory.mktemp("floods")
    with ServerProcess(folder, rate_limits="off", argon2_memory_kib=19456, argon2_time_cost=2) as server:
        yield server


@pytest.fixture
def quiet(server: ServerProcess) -> Iterator[None]:
    """Check that the log has no error afterwards."""
    before = len(server.log)
    yield
    assert_serves(server)
    assert re.findall(r"Traceback|ERROR|WARN", server.log[before:]) == []


def connect(server: ServerProcess, sent: bytes = b"") -> socket.socket:
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(sent)
    return connection


@contextmanager
def connections(server: ServerProcess, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold many connections, on each of which the same was sent."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, sent)) for _ in range(count)]


def open_files(server: ServerProcess) -> int:
    return sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in server.processes())


def response_to(server: ServerProcess, *sent: bytes) -> bytes:
    """Send data, even if the server closes the connection meanwhile, and return the response."""
    received = b""
    with connect(server) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in sent:
                connection.sendall(part)
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    return received


def request(method: str, path: str, session: str = "", **body: str) -> bytes:
    content = json.dumps(body).encode()
    authorization = f"\r\nAuthorization: Bearer {session}" if session else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: tiles\r\nContent-Type: application/json{authorization}"
    return f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def is_problem(response: bytes, status: bytes, code: bytes) -> bool:
    return (response[9:12], b'"%s"' % code in response) == (status, True)


def assert_serves(server: ServerProcess) -> None:
    """Check that others get responses, from the threads and from the password hasher too."""
    credentials = {"email": ADDRESS, "password": PASSWORD}
    assert httpx2.get(f"{server.url}/readyz").status_code == 200
    assert httpx2.post(f"{server.url}/v1/sessions", json=credentials).json()["code"] == "wrong-credentials"
    assert httpx2.post(f"{server.url}/v1/password-resets", json={"email": ADDRESS}).status_code == 202


@pytest.fixture
def write_lock(server: ServerProcess) -> Iterator[sqlite3.Connection]:
    """SQLite's write lock, held by another process until it is rolled back."""
    with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield database


# Slow and idle


def test_slow_bodies_do_not_hold_the_others_up(server: ServerProcess) -> None:
    unfinished = [
        b"POST /v1/sessions HTTP/1.1\r\nHost: ti",
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b'Content-Length: 100\r\n\r\n{"email": ',
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b'Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n5\r\n"ema',
        b"GET /v1/account HTTP/1.1\r\nHost: tiles\r\nContent-Length: 5\r\n\r\n",
    ]
    with ExitStack() as stack:
        for part in unfinished:
            stack.enter_context(connections(server, CROWD, part))
        assert_serves(server)


def test_thousands_of_idle_connections_do_not_hold_the_others_up(server: ServerProcess) -> None:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connections(server, min(3000, most - 200)):
        assert_serves(server)


@pytest.mark.long
def test_an_unfinished_head_or_body_times_out(server: ServerProcess) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect(server, sent)) for sent in (b"", b"GET / HT", b"\r\n")]
        begun = time.monotonic()
        response = response_to(server, HEAD + b'Content-Length: 100\r\nConnection: close\r\n\r\n{"email": ')
        assert is_problem(response, b"400", b"malformed-json"), "a body that does not come is refused"
        assert time.monotonic() - begun > BODY_SECONDS / 2
        for connection in waiting:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


@pytest.mark.usefixtures("quiet")
def test_a_client_that_disconnects_in_the_middle_leaves_no_trace_in_the_log(server: ServerProcess) -> None:
    for rest in (b"", b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"):
        with connections(server, 20, HEAD + rest):
            pass


# Too much


@pytest.mark.parametrize("announced", [True, False])
def test_an_endless_body_is_refused_unread(server: ServerProcess, announced: bool) -> None:  # noqa: FBT001
    length, chunk = (b"Content-Length: 1000000000000", b"x" * 65536)
    if not announced:
        length, chunk = b"Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n"
    response = response_to(server, HEAD + length + b"\r\n\r\n", *[chunk] * 1000)
    # The server stops reading: the connection may break before its response is read.
    assert response == b"" or is_problem(response, b"413", b"payload-too-large")
    assert_serves(server)


def test_huge_headers_are_refused(server: ServerProcess) -> None:
    for sent in (
        b"GET / HTTP/1.1\r\nHost: tiles\r\nX-Long: " + b"x" * 2**20 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: tiles\r\n" + b"X-Many: x\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: tiles\r\n\r\n",
    ):
        response = response_to(server, sent)
        assert response == b"" or response[9:12] in {b"400", b"414", b"431"}
    assert_serves(server)


async def sign_in_at_once(server: ServerProcess, times: int) -> tuple[list[httpx2.Response], list[httpx2.Response]]:
    """Sign in wrongly many times at once; return the responses, and those that others got meanwhile."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60) as http:
        credentials = {"email": ADDRESS, "password": PASSWORD}
        flood = [asyncio.create_task(http.post("/v1/sessions", json=credentials)) for _ in range(times)]
        others = []
        while not all(task.done() for task in flood):
            others += [await http.get("/readyz"), await http.post("/v1/password-resets", json={"email": ADDRESS})]
        return [await task for task in flood], others


def test_a_sign_in_flood_is_refused_in_part_and_stops_nothing_else(server: ServerProcess) -> None:
    assert_serves(server)
    before = memory_of(server)
    for _ in range(2):
        flood, others = asyncio.run(sign_in_at_once(server, CROWD))
        assert set(Counter(response.status_code for response in flood)) <= {401, 503}
        refused = [response for response in flood if response.status_code == 503]
        assert {(response.json()["code"], response.headers["Retry-After"]) for response in refused} == {
            ("overloaded", "5")
        }
        assert {response.status_code for response in others} == {200, 202}
    # New threads take some memory; none keeps the memory of a hash.
    assert memory_of(server) - before < (os.cpu_count() or 1) * 19456 + 96 * 1024


@any_database
def test_requests_that_wait_for_a_hash_block_no_other(
    make_service: Callable[..., Service], database_url: str, tmp_path: Path
) -> None:
    # A hash takes several seconds.
    slow = {"argon2_memory_kib": 65536, "argon2_time_cost": 100, "rate_limits": "off"}
    session = make_service(secret_keys="k" * 40).register(email=ADDRESS).session["token"]
    passwords = {"current_password": OTHER_PASSWORD, "new_password": f"new {OTHER_PASSWORD}"}
    with (
        ServerProcess(tmp_path, "--threads", "1", database_url=database_url, secret_keys="k" * 40, **slow) as server,
        connections(server, 8, request("POST", "/v1/sessions", email=ADDRESS, password=OTHER_PASSWORD)) as signing_in,
        connections(server, 8, request("PUT", "/v1/account/password", session, **passwords)) as changing,
    ):
        time.sleep(0.2)
        assert httpx2.post(f"{server.url}/v1/password-resets", json={"email": ADDRESS}).status_code == 202
        assert httpx2.get(f"{server.url}/v1/account").status_code == 401
        # On a busy machine some have waited too long by now, and no other has a response.
        answered, _, _ = select.select([*signing_in, *changing], [], [], 0)
        assert {connection.recv(12) for connection in answered} <= {b"HTTP/1.1 503"}


# While another process holds SQLite's write lock


def test_probes_and_reading_go_on_while_every_writing_thread_waits_for_the_database(
    server: ServerProcess, write_lock: sqlite3.Connection
) -> None:
    with (
        httpx2.Client(base_url=server.url) as http,
        connections(server, CROWD, request("POST", "/v1/registrations", name="Eve", email=ADDRESS)) as waiting,
    ):
        time.sleep(0.2)
        for _ in range(10):
            assert http.get("/v1/account", headers={"Authorization": "Bearer x"}).status_code == 401
            assert http.get("/healthz").status_code == 200
            assert http.get("/readyz").status_code == 200
        readable, _, _ = select.select(waiting, [], [], 0)
        assert readable == []
        write_lock.execute("ROLLBACK")
        for connection in waiting:
            assert connection.recv(12) == b"HTTP/1.1 202"


def test_requests_of_disconnected_clients_take_no_memory(server: ServerProcess, write_lock: sqlite3.Connection) -> None:
    rounds = 8
    # Every thread waits for the database, and these requests come on top.
    with connections(server, CROWD, request("POST", "/v1/registrations", name="Eve", email=ADDRESS)):
        files, before = open_files(server), memory_of(server)
        for _ in range(rounds):
            with connections(server, 500, request("POST", "/v1/sessions", email=ADDRESS, password="x" * 16_000)):
                time.sleep(0.1)
            wait_for(lambda: open_files(server) <= files)
        growth = memory_of(server) - before
        write_lock.execute("ROLLBACK")
    assert_serves(server)
    # The bodies have this size; kept in memory, they would take twice as much.
    assert growth < rounds * 500 * 16


def test_a_header_with_an_underscore_does_not_pass_for_another(tmp_path: Path) -> None:
    """Proxies overwrite X-Forwarded-For; X_Forwarded_For would get past them (CVE-2015-0219)."""
    with ServerProcess(tmp_path, trusted_proxies=1, rate_limits="password-reset/client=2/hour") as server:

        def statuses(headers: Callable[[int], list[tuple[str, str]]]) -> list[int]:
            return [
                httpx2.post(
                    f"{server.url}/v1/password-resets", json={"email": f"ada{n}@example.org"}, headers=headers(n)
                ).status_code
                for n in range(3)
            ]

        assert statuses(lambda n: [("X_Forwarded_For", f"192.0.2.{n}")]) == [202, 202, 429]
        # A list may come in several lines (RFC 9110 section 5.3); the client wrote the first one.
        forwarded = ("X-Forwarded-For", "198.51.100.7")
        assert statuses(lambda n: [("X-Forwarded-For", f"192.0.2.{n}"), forwarded]) == [202, 202, 429]
