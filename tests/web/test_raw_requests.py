"""Requests that no client library sends, as the front and the HTTP server respond to them."""

import json
import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest
from browsing import Site

from backend.serving.server import HEADER_BYTES


def answer(site: Site, sent: bytes) -> tuple[int, bytes, str]:
    """Send these bytes; return the status, the body and its type."""
    parts = urlsplit(site.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(sent)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.read(), response.headers.get("Content-Type", "")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n",
        b"GET http://tiles/healthz HTTP/1.1\r\n",
        b"GET /v1/account HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: b\r\n",
        b"GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_a_request_without_a_host_or_with_two_is_refused(site: Site, head: bytes) -> None:
    status, body, kind = answer(site, head if b"\r\n\r\n" in head else head + b"\r\n")
    assert (status, kind) == (400, "application/problem+json")
    document = json.loads(body)
    assert (document["status"], document["code"]) == (400, "invalid-request")
    assert "Host" in document["detail"]


def test_a_request_of_http_1_0_needs_no_host(site: Site) -> None:
    assert answer(site, b"GET /healthz HTTP/1.0\r\n\r\n")[0] == 200


def test_a_method_is_written_in_capitals(site: Site) -> None:
    for method in ("get", "Get", "gET", "post", "head", "delete", "_other"):
        for path in ("/healthz", "/v1/sessions", "/v1/account", "/privacy"):
            status, body, kind = answer(site, f"{method} {path} HTTP/1.1\r\nHost: tiles\r\n\r\n".encode())
            assert (status, kind) == (405, "application/problem+json")
            assert json.loads(body)["code"] == "method-not-allowed"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad header: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * HEADER_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_what_cannot_be_read_as_http_the_http_server_refuses_without_a_body(
    site: Site, sent: bytes, status: int
) -> None:
    # Its own answer, before anything of ours: operating.md names the exception.
    assert answer(site, sent)[:2] == (status, b"")
