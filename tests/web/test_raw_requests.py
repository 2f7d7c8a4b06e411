"""Requests that no client library sends, as the front and the HTTP server respond to them."""

import json
import re
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from browsing import Site

from backend.serving.server import HEADER_BYTES

FEEDBACK = b"POST /v1/feedback HTTP/1.1\r\nHost: tiles\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = json.dumps({"message": "GET /healthz HTTP/1.1"}).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CLOSE = b"Connection: close\r\n"


def responses(site: Site, *sent: bytes) -> bytes:
    """Send these bytes, and return the server's output until it closes the connection."""
    parts = urlsplit(site.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        for part in sent:
            connection.sendall(part)
        received = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.[01] (\d+) ", received)]


def problem(received: bytes) -> dict[str, object]:
    """Return the problem document that is the only response."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document: dict[str, object] = json.loads(body)
    assert statuses(received) == [document["status"]]
    return document


# Host and method


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n",
        b"GET http://tiles/healthz HTTP/1.1\r\n",
        b"GET /v1/account HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: b\r\n",
        b"GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
        b"POST /v1/sessions HTTP/1.1\r\n" + JSON + b"Content-Length: 0\r\n",
    ],
)
def test_a_request_without_a_host_or_with_two_is_refused(site: Site, head: bytes) -> None:
    document = problem(responses(site, head + CLOSE + b"\r\n"))
    assert (document["status"], document["code"]) == (400, "invalid-request")
    assert "Host" in str(document["detail"])


def test_a_request_of_http_1_0_needs_no_host(site: Site) -> None:
    assert statuses(responses(site, b"GET /healthz HTTP/1.0\r\n\r\n")) == [200]


def test_a_method_is_written_in_capitals(site: Site) -> None:
    for method in ("get", "Get", "gET", "post", "head", "delete", "_other"):
        for path in ("/healthz", "/v1/sessions", "/v1/account", "/privacy"):
            document = problem(
                responses(site, f"{method} {path} HTTP/1.1\r\nHost: tiles\r\n".encode() + CLOSE + b"\r\n")
            )
            assert (document["status"], document["code"]) == (405, "method-not-allowed")


# Broken HTTP


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad header: x\r\n\r\n", 400),
        (FEEDBACK + JSON + b"Content-Length: x\r\n\r\n", 400),
        (FEEDBACK + JSON + b"Content-Length: -2\r\n\r\n{}", 400),
        (FEEDBACK + JSON + b"Content-Length : 2\r\n\r\n{}", 400),
        (FEEDBACK + JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (FEEDBACK + JSON + b"Folded: a\r\n b\r\nX:\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * HEADER_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_bytes_that_are_no_http_are_refused_without_a_body(site: Site, sent: bytes, status: int) -> None:
    log = site.instance_path.with_name("serve.log")
    before = len(log.read_text())
    # The HTTP server responds before anything of ours runs: operating.md names the exception.
    received = responses(site, sent)
    assert (statuses(received), received.partition(b"\r\n\r\n")[2]) == ([status], b"")
    assert re.findall(r"Traceback|ERROR|WARN", log.read_text()[before:]) == []


def test_a_body_with_two_lengths_is_not_taken_for_a_second_request(site: Site) -> None:
    """Request smuggling (RFC 9112 section 11.2)."""
    head = FEEDBACK + JSON + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = responses(site, head + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: tiles\r\n\r\n")
    assert b'{"status":"up"}' not in received


# Unusual HTTP


def test_a_request_to_upgrade_has_a_body_like_any_other(site: Site) -> None:
    head = FEEDBACK + JSON + LENGTH + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
    assert statuses(responses(site, head, BODY)) == [201]


def test_the_trailer_of_a_chunked_body_is_no_header(site: Site) -> None:
    head = FEEDBACK + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    received = responses(site, head + b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n")
    assert problem(received)["code"] == "unsupported-media-type"


def test_pipelined_requests_are_answered_in_their_order(site: Site) -> None:
    paths = ["/healthz", "/v1/account", "/v1/nothing", "/healthz"]
    pipeline = "".join(f"GET {path} HTTP/1.1\r\nHost: tiles\r\n\r\n" for path in paths).encode()
    received = responses(site, pipeline + b"HEAD /healthz HTTP/1.1\r\nHost: tiles\r\n" + CLOSE + b"\r\n")
    assert statuses(received) == [200, 401, 404, 200, 200]
    assert received.endswith(b"\r\n\r\n")


def test_a_client_that_expects_100_continue_gets_it(site: Site) -> None:
    parts = urlsplit(site.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(FEEDBACK + JSON + CLOSE + LENGTH + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert statuses(connection.recv(1024)) == [201]


def test_a_session_that_is_not_ascii_is_refused_and_not_overlooked(site: Site) -> None:
    head = FEEDBACK + JSON + CLOSE + LENGTH
    assert statuses(responses(site, head + b"\r\n" + BODY)) == [201]
    received = responses(site, head + "Authorization: Bearer é\r\n\r\n".encode() + BODY)
    assert problem(received)["code"] == "unauthenticated"
