"""While another process holds SQLite's write lock, every request that only reads gets a response."""

import sqlite3
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest
from peers import MailServer, token_of, wait_for
from served_requests import register, send_through
from server_process import ServerProcess
from support import PASSWORD, bearer

pytestmark = pytest.mark.long

HELD_SECONDS = 5
PEOPLE = [f"ada{number}@example.org" for number in range(8)]
READS = ("/healthz", "/readyz", "/v1/account", "/v1/sessions", "/v1/account/export", "/v1/policy", "/privacy", "/docs")
# All other operations take a token, which is refused before anything is written.
BODIES = {
    "/v1/registrations": {"name": "Bob", "email": "bob@example.org"},
    "/v1/password-resets": {"email": "ada@example.org"},
    "/v1/erasure-requests": {"email": "ada@example.org"},
    "/v1/feedback": {"message": "More tiles."},
    "/v1/sessions": {"email": "ada@example.org", "password": PASSWORD},
    "/v1/account": {"name": "Ada"},
    "/v1/account/password": {"current_password": PASSWORD, "new_password": "seven wooden boats drift"},
    "/v1/account/email-changes": {"email": "new@example.org", "password": PASSWORD},
    "/v1/account/close": {"password": PASSWORD},
}


@contextmanager
def write_lock(server: ServerProcess) -> Iterator[None]:
    """Hold SQLite's write lock, as another process that writes does."""
    with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def sign_up(server: ServerProcess, mails: MailServer) -> str:
    """Register everybody, and return the token of the first session."""
    for email in PEOPLE:
        register(server.url, email)
    wait_for(lambda: len(mails.messages) == len(PEOPLE))
    bodies = [{"token": token_of(message), "password": PASSWORD} for message in mails.messages]
    responses = [httpx2.post(f"{server.url}/v1/registrations/confirm", json=body) for body in bodies]
    session: str = responses[0].json()["session"]["token"]
    return session


def writing_operations(document: dict[str, dict[str, object]]) -> list[tuple[str, str]]:
    """Return every operation of the OpenAPI document that may write, those that end the session last."""
    operations = [
        (method.upper(), path.replace("{session_id}", str(uuid.uuid4())))
        for path, methods in document["paths"].items()
        for method in methods  # type: ignore[attr-defined]
        if method != "get"
    ]
    return sorted(operations, key=lambda operation: operation[0] == "DELETE" or operation[1].endswith("close"))


def slowest_read(http: httpx2.Client, seconds: float) -> float:
    """Read everything repeatedly, and return the seconds of the slowest response."""
    slowest, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        for path in READS:
            begun = time.monotonic()
            assert http.get(path).status_code == (404 if path == "/v1/policy" else 200), path
            slowest = max(slowest, time.monotonic() - begun)
    return slowest


def test_reads_continue_during_a_long_write_of_another_process(tmp_path: Path, mail_server: MailServer) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        session = sign_up(server, mail_server)
        server.terminate()
    # The cost of password hashes was raised, so signing in stores new ones.
    with (
        ServerProcess(tmp_path, **send_through(mail_server), argon2_memory_kib=65536, argon2_time_cost=3) as server,
        httpx2.Client(base_url=server.url, headers=bearer(session), timeout=30) as http,
        ThreadPoolExecutor(200) as threads,
    ):

        def send(method: str, path: str, body: dict[str, str]) -> int:
            headers = bearer(session) if method == "PATCH" or path == "/v1/feedback" else {}
            return httpx2.request(method, server.url + path, json=body, headers=headers, timeout=60).status_code

        with write_lock(server):
            responses = [threads.submit(send, "POST", "/v1/sessions", {"email": email, "password": PASSWORD})
                    for email in PEOPLE]  # fmt: skip
            for method, path in 3 * writing_operations(http.get("/openapi.json").json()):
                responses.append(threads.submit(send, method, path, BODIES.get(path, {"token": "none"})))
            slowest = slowest_read(http, HELD_SECONDS)
        # Requests that waited continue, up to their next write.
        time.sleep(0.05)
        with write_lock(server):
            slowest = max(slowest, slowest_read(http, 2))
        statuses = {response.result() for response in responses}
        # On a busy machine a read takes up to a second and a half.
        assert slowest < 3, "a read waited for the write lock"
        assert not statuses & {500, 502}
        assert "unexpected" not in server.log


def test_a_write_that_waits_too_long_is_refused_as_overloaded(tmp_path: Path, mail_server: MailServer) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server, ThreadPoolExecutor() as threads:

        def send(path: str) -> httpx2.Response:
            return httpx2.post(server.url + path, json=BODIES[path], timeout=30)

        paths = ("/v1/registrations", "/v1/feedback")
        with write_lock(server):
            refused = list(threads.map(send, paths))
        assert [(response.status_code, response.json()["code"]) for response in refused] == [(503, "overloaded")] * 2
        assert [send(path).status_code for path in paths] == [202, 201]
