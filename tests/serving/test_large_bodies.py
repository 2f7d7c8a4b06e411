"""The only form with a large body is read from a signed-in data manager only."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
import pytest
from peers import MailServer, token_of, wait_for
from served_requests import memory_of, send_through
from server_process import ServerProcess, run_tiles

MARY = "mary@example.org"
PATH = "/desk/policies/new"
# The part of a body of the largest size that is sent.
SENT = b"x" * 250 * 1024
FLOOD = 200


@dataclass
class Desk:
    """A server, and a browser in which a data manager is signed in."""

    server: ServerProcess
    http: httpx2.Client
    form_token: str

    def publish(self, version: str, text: bytes) -> httpx2.Response:
        fields = {"form_token": self.form_token, "act": "publish", "version": version, "effective_on": "2099-01-01"}
        return self.http.post(PATH, data=fields, files={"file": ("policy.md", text)})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with MailServer() as mail, ExitStack() as stack:
        server = stack.enter_context(
            ServerProcess(tmp_path_factory.mktemp("large"), "--workers", "1", **send_through(mail))
        )
        assert run_tiles(server.instance_path, "desk", "invite", MARY, "--name", "Mary").returncode == 0
        http = stack.enter_context(httpx2.Client(base_url=server.url, timeout=60))
        http.post("/desk/sign-in", data={"email": MARY})
        token = wait_for(lambda: [token_of(message) for message in mail.messages])[0]
        assert http.post("/desk/sign-in/confirm", data={"token": token}).status_code == 303
        field = re.search(r'name="form_token" value="(\w+)"', http.get(PATH).text)
        assert field
        yield Desk(server, http, field[1])


def start_of_request(cookie: str, path: str = PATH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: tiles\r\nCookie: tiles_desk={cookie}\r\nContent-Length: {256 * 1024}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()


def flood(server: ServerProcess, sent: bytes) -> Callable[[], list[bytes]]:
    """Send the same on many connections that stay open; return how to get their responses and end them."""
    parts = urlsplit(server.url)
    connections = []
    for _ in range(FLOOD):
        connections.append(socket.create_connection((parts.hostname, parts.port), timeout=10))
        # The server may refuse and close before it has everything.
        with suppress(OSError):
            connections[-1].sendall(sent)

    def end() -> list[bytes]:
        responses = []
        for connection in connections:
            with suppress(OSError):
                responses.append(connection.recv(12))
            connection.close()
        return responses

    return end


@pytest.mark.parametrize("cookie", ["", "x" * 43], ids=["none", "forged"])
def test_without_a_sign_in_a_large_body_is_refused_unread(desk: Desk, cookie: str) -> None:
    cookies = {"tiles_desk": cookie} if cookie else {}
    with httpx2.Client(base_url=desk.server.url, cookies=cookies) as stranger:
        files = {"file": ("policy.md", b"x" * 15 * 1024)}
        assert stranger.post(PATH, files=files).status_code == 403
        assert stranger.post(PATH, files={"file": ("policy.md", SENT)}).status_code == 403


def test_a_flood_of_large_bodies_costs_no_more_memory_than_one_of_feedback(desk: Desk) -> None:
    server = desk.server
    end = flood(server, start_of_request("", "/v1/feedback").replace(b"262144", b"65536") + b"x" * 60 * 1024)
    time.sleep(1)
    of_feedback = memory_of(server)
    end()
    end = flood(server, start_of_request("x" * 43) + SENT)
    time.sleep(1)
    of_large_bodies = memory_of(server)
    assert desk.publish("2099-a", b"a" * 240 * 1024).status_code == 303
    assert desk.publish("2099-b", b"b" * 257 * 1024).status_code == 413
    responses = end()
    # If the server read them, they would take 250 KiB each.
    assert of_large_bodies - of_feedback < FLOOD * 64
    assert {response for response in responses if response} <= {b"HTTP/1.1 403"}
    assert re.findall(r"Traceback|ERROR", server.log) == []
