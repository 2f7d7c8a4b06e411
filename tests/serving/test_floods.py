"""Clients that send too much, too slowly or not at all hold nobody else up; the real server, real connections."""

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
from support import OTHER_PASSWORD, PASSWORD, ServerProcess, Service, any_database

from backend.security.hashing import LINE
from backend.serving.front import BODY_SECONDS

# More than a process answers at a time, and more than may wait for a hash.
CROWD = 4 * LINE
HEAD = b"POST /v1/sessions HTTP/1.1\r\nHost: tiles\r\nContent-Type: application/json\r\n"
ADDRESS = "nobody@example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The service with real password hashing, answering as many at a time as it does by default."""
    folder = tmp_path_factory.mktemp("floods")
    with ServerProcess(folder, rate_limits="off", argon2_memory_kib=19456, argon2_time_cost=2) as server:
        yield server


def connect(server: ServerProcess, sent: bytes = b"") -> socket.socket:
    """Open a connection and send something."""
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(sent)
    return connection


@contextmanager
def connections(server: ServerProcess, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold many connections, on each of which the same was sent."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, sent)) for _ in range(count)]


def answer_to(server: ServerProcess, *sent: bytes) -> bytes:
    """Send something, also when nobody listens any more, and return all that is answered."""
    with connect(server) as connection:
        try:
            for part in sent:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


def assert_serves(server: ServerProcess) -> None:
    """Check that others are answered, by the threads and by the password hasher too."""
    credentials = {"email": ADDRESS, "password": PASSWORD}
    assert httpx2.get(f"{server.url}/readyz").status_code == 200
    assert httpx2.post(f"{server.url}/v1/sessions", json=credentials).json()["code"] == "wrong-credentials"
    assert httpx2.post(f"{server.url}/v1/password-resets", json={"email": ADDRESS}).status_code == 202


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/sessions HTTP/1.1\r\nHost: ti",
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b'Content-Length: 100\r\n\r\n{"email": ',
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b'Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n5\r\n"ema',
        b"GET /v1/account HTTP/1.1\r\nHost: tiles\r\nContent-Length: 5\r\n\r\n",
    ],
    ids=["nothing", "half a header", "no body", "half a body", "no chunk", "half a chunk", "a body where none is read"],
)
def test_slow_bodies_do_not_hold_the_others_up(server: ServerProcess, sent: bytes) -> None:
    with connections(server, CROWD, sent):
        assert_serves(server)


def test_thousands_of_idle_connections_do_not_hold_the_others_up(server: ServerProcess) -> None:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connections(server, min(3000, most - 200)):
        assert_serves(server)


def test_a_body_that_does_not_come_is_waited_for_and_then_refused(server: ServerProcess) -> None:
    begun = time.monotonic()
    answers = [answer_to(server, HEAD + b'Content-Length: 100\r\nConnection: close\r\n\r\n{"email": ')]
    assert time.monotonic() - begun > BODY_SECONDS / 2
    assert [(answer[9:12], b'"malformed-json"' in answer) for answer in answers] == [(b"400", True)]


@pytest.mark.parametrize("announced", [True, False])
def test_an_endless_body_is_refused_unread(server: ServerProcess, announced: bool) -> None:  # noqa: FBT001
    length, chunk = (b"Content-Length: 1000000000000", b"x" * 65536)
    if not announced:
        length, chunk = b"Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer = answer_to(server, HEAD + length + b"\r\n\r\n", *[chunk] * 1000)
    # A server that stops reading may be cut off before its answer is read; what it must not do is read on.
    assert answer == b"" or (answer[9:12], b'"payload-too-large"' in answer) == (b"413", True)
    assert_serves(server)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: tiles\r\nX-Long: " + b"x" * 2**20 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: tiles\r\n" + b"X-Many: x\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: tiles\r\n\r\n",
    ],
    ids=["long", "many", "path"],
)
def test_huge_headers_are_refused(server: ServerProcess, sent: bytes) -> None:
    answer = answer_to(server, sent)
    assert answer == b"" or answer[9:12] in {b"400", b"414", b"431"}
    assert_serves(server)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: tiles\r\nno colon\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: -2\r\n\r\n{}",
        HEAD + b"Content-Length : 2\r\n\r\n{}",
        HEAD + b"Folded: a\r\n b\r\nX:\0\r\n\r\n",
    ],
    ids=["no method", "no header", "length twice", "negative", "space", "control"],
)
def test_what_is_no_http_is_refused_and_the_connection_ends(server: ServerProcess, sent: bytes) -> None:
    before = len(server.log)
    answer = answer_to(server, sent)
    assert (answer[9:12], answer.count(b"HTTP/1.1 ")) == (b"400", 1)
    assert_serves(server)
    assert re.findall(r"Traceback|ERROR|WARN", server.log[before:]) == []


def test_a_head_that_does_not_come_is_not_waited_for_without_end(server: ServerProcess) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect(server, sent)) for sent in (b"", b"GET / HT", b"\r\n")]
        begun = time.monotonic()
        for connection in waiting:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert time.monotonic() - begun < 45


def test_a_body_with_two_lengths_is_not_taken_for_a_second_request(server: ServerProcess) -> None:
    """Request smuggling (RFC 9112 section 11.2)."""
    head = HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = answer_to(server, head + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: tiles\r\n\r\n")
    assert b'{"status":"up"}' not in answer


def test_a_request_to_upgrade_has_a_body_like_any_other(server: ServerProcess) -> None:
    body = json.dumps({"message": "GET /healthz HTTP/1.1"}).encode()
    head = (
        b"POST /v1/feedback HTTP/1.1\r\nHost: tiles\r\nContent-Type: application/json\r\nConnection: Upgrade, close\r\n"
    )
    answer = answer_to(server, head + b"Upgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"201"]


def test_what_follows_a_chunked_body_is_no_header_of_it(server: ServerProcess) -> None:
    head = b"POST /v1/feedback HTTP/1.1\r\nHost: tiles\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = answer_to(server, head + b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n")
    assert (answer[9:12], b'"unsupported-media-type"' in answer) == (b"415", True)


def test_requests_that_are_sent_ahead_are_answered_in_their_order(server: ServerProcess) -> None:
    paths = ["/healthz", "/v1/account", "/v1/nothing", "/healthz"]
    sent = "".join(f"GET {path} HTTP/1.1\r\nHost: tiles\r\n\r\n" for path in paths)
    last = "HEAD /healthz HTTP/1.1\r\nHost: tiles\r\nConnection: close\r\n\r\n"
    answer = answer_to(server, (sent + last).encode())
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"401", b"404", b"200", b"200"]
    assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_asks_whether_to_send_its_body_is_told_to(server: ServerProcess) -> None:
    body = json.dumps({"message": "Hello."}).encode()
    head = b"POST /v1/feedback HTTP/1.1\r\nHost: tiles\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with connect(server, head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)) as connection:
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1024).startswith(b"HTTP/1.1 201 ")


def test_whoever_leaves_in_the_middle_leaves_no_trace_in_the_log(server: ServerProcess) -> None:
    before = len(server.log)
    for rest in (b"", b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"):
        with connections(server, 20, HEAD + rest):
            pass
    assert_serves(server)
    assert re.findall(r"Traceback|ERROR|WARN", server.log[before:]) == []


async def sign_in_at_once(server: ServerProcess, times: int) -> tuple[list[httpx2.Response], list[httpx2.Response]]:
    """Sign in wrongly many times at once; return the answers, and those that others got meanwhile."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60) as http:
        credentials = {"email": ADDRESS, "password": PASSWORD}
        flood = [asyncio.create_task(http.post("/v1/sessions", json=credentials)) for _ in range(times)]
        others = []
        while not all(task.done() for task in flood):
            others += [await http.get("/readyz"), await http.post("/v1/password-resets", json={"email": ADDRESS})]
        return [await task for task in flood], others


def memory_of(server: ServerProcess) -> int:
    """Return how much memory the server's processes have in use, in KiB."""
    found = [Path(f"/proc/{pid}/status").read_text() for pid in server.processes()]
    return sum(int(size) for text in found for size in re.findall(r"VmRSS:\s+(\d+) kB", text))


def test_a_sign_in_flood_is_refused_in_part_and_stops_nothing_else(server: ServerProcess) -> None:
    assert_serves(server)
    before = memory_of(server)
    for _ in range(4):
        flood, others = asyncio.run(sign_in_at_once(server, CROWD))
        assert set(Counter(answer.status_code for answer in flood)) <= {401, 503}
        refused = [answer for answer in flood if answer.status_code == 503]
        assert refused
        assert {(answer.json()["code"], answer.headers["Retry-After"]) for answer in refused} == {("overloaded", "5")}
        assert {answer.status_code for answer in others} == {200, 202}
    # Threads come to be, each with some memory of its own; what no thread may keep is that of a hash.
    assert memory_of(server) - before < (os.cpu_count() or 1) * 19456 + 96 * 1024


@any_database
@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/account/password"])
def test_those_who_wait_for_a_hash_take_nobody_s_place(
    path: str, make_service: Callable[..., Service], database_url: str, tmp_path: Path
) -> None:
    """One request at a time, and a hash that takes long: others are answered while not one knows the outcome."""
    slow = {"argon2_memory_kib": 65536, "argon2_time_cost": 30, "secret_keys": "k" * 40, "rate_limits": "off"}
    session = make_service(**slow).register(email=ADDRESS).session["token"]
    wrong = {"email": ADDRESS, "password": OTHER_PASSWORD}
    if path == "/v1/sessions":
        sent = complete("POST", path, **wrong)
    else:
        sent = complete("PUT", path, session, current_password=OTHER_PASSWORD, new_password=f"new {OTHER_PASSWORD}")
    with (
        ServerProcess(tmp_path, "--threads", "1", database_url=database_url, **slow) as server,
        connections(server, 8, sent) as waiting,
    ):
        time.sleep(0.2)
        assert httpx2.post(f"{server.url}/v1/password-resets", json={"email": ADDRESS}).status_code == 202
        assert httpx2.get(f"{server.url}/v1/account").status_code == 401
        readable, _, _ = select.select(waiting, [], [], 0)
        assert readable == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_process_says_how_it_is_while_all_others_wait_for_the_database(server: ServerProcess, path: str) -> None:
    with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with connections(server, CROWD, complete("POST", "/v1/registrations", name="Eve", email=ADDRESS)) as waiting:
            time.sleep(0.2)
            assert httpx2.get(f"{server.url}{path}").status_code == 200
            readable, _, _ = select.select(waiting, [], [], 0)
            database.execute("ROLLBACK")
            assert readable == []


def complete(method: str, path: str, session: str = "", **body: str) -> bytes:
    """Write down a whole request."""
    content = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: tiles\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}"
    if session:
        head += f"\r\nAuthorization: Bearer {session}"
    return head.encode() + b"\r\n\r\n" + content


def test_what_nobody_waits_for_any_more_fills_no_memory(server: ServerProcess) -> None:
    assert_serves(server)
    with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        # Every thread waits for the database, and these come on top.
        with connections(server, CROWD, complete("POST", "/v1/registrations", name="Eve", email=ADDRESS)):
            before = memory_of(server)
            for _ in range(12):
                with connections(server, 500, complete("POST", "/v1/sessions", email=ADDRESS, password="x" * 16_000)):
                    time.sleep(0.1)
            kept = memory_of(server) - before
            database.execute("ROLLBACK")
    assert_serves(server)
    # They sent that much in all, and would take more than twice of it if they were kept.
    assert kept < 12 * 500 * 16


def answers_behind_a_proxy(tmp_path: Path, *forwarded: list[tuple[str, str]]) -> list[int]:
    """Return the answers to a client that is told apart by what is forwarded, and may ask twice an hour."""
    with ServerProcess(tmp_path, trusted_proxies=1, rate_limits="password-reset/client=2/hour") as server:
        return [
            httpx2.post(
                f"{server.url}/v1/password-resets", json={"email": f"ada{number}@example.org"}, headers=headers
            ).status_code
            for number, headers in enumerate(forwarded)
        ]


def test_a_header_with_an_underscore_does_not_pass_for_another(tmp_path: Path) -> None:
    """Proxies overwrite X-Forwarded-For; X_Forwarded_For would get past them (CVE-2015-0219)."""
    forwarded = [[("X_Forwarded_For", f"192.0.2.{number}")] for number in range(3)]
    assert answers_behind_a_proxy(tmp_path, *forwarded) == [202, 202, 429]


def test_of_a_header_in_two_lines_the_one_that_the_proxy_added_counts(tmp_path: Path) -> None:
    """A list may come in several lines (RFC 9110 section 5.3); the first is whatever the client wrote."""
    forwarded = [[("X-Forwarded-For", f"192.0.2.{number}"), ("X-Forwarded-For", "198.51.100.7")] for number in range(3)]
    assert answers_behind_a_proxy(tmp_path, *forwarded) == [202, 202, 429]


def test_a_session_that_is_not_ascii_is_refused_and_not_overlooked(server: ServerProcess) -> None:
    sent = b"POST /v1/feedback HTTP/1.1\r\nHost: tiles\r\nConnection: close\r\nContent-Type: application/json\r\n"
    body = b'{"message": "More tiles, please."}'
    length = b"Content-Length: %d\r\n" % len(body)
    assert answer_to(server, sent + length + b"\r\n" + body)[9:12] == b"201"
    answer = answer_to(server, sent + length + "Authorization: Bearer é\r\n\r\n".encode() + body)
    assert (answer[9:12], b'"unauthenticated"' in answer) == (b"401", True)
