"""The limits for one client in the shipped nginx configuration."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from peers import wait_for
from reverse_proxy import HOST, Proxy

from backend.errors import TooManyRequests

IN_HAND, BURST, PER_SECOND = 100, 500, 50
# Lets a test choose a client's address: the loopback of a test machine may have no IPv6.
ANY_ADDRESS = "set_real_ip_from 127.0.0.1;\nreal_ip_header X-Test-Address;\n"


class Answering(BaseHTTPRequestHandler):
    """A server behind nginx that answers at once."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Proxy(tmp_path_factory.mktemp("proxy") / "nginx", [server.server_port], ANY_ADDRESS) as proxy:
            yield proxy
        server.shutdown()
        thread.join()


def ask(proxy: Proxy, address: str, times: int) -> Counter[int]:
    """Pipeline many requests on one connection; return how often each status came."""
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Test-Address: {address}\r\n"
    statuses = Counter[int]()
    with proxy.connect() as connection, connection.makefile("rb") as received:
        connection.sendall((request + "\r\n").encode() * (times - 1) + (request + "Connection: close\r\n\r\n").encode())
        while line := received.readline():
            statuses[int(line.split()[1])] += 1
            length = 0
            while (header := received.readline()) != b"\r\n":
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            received.read(length)
    return statuses


def spend(proxy: Proxy, address: str) -> Counter[int]:
    """Send all the requests that one client may send, and more."""
    return ask(proxy, address, 900)


def test_the_proxy_limits_the_rate_of_one_client_and_of_no_other(proxy: Proxy) -> None:
    statuses = spend(proxy, "192.0.2.1")
    assert BURST <= statuses[200] < 900 - 1
    assert set(statuses) == {200, 429}
    assert ask(proxy, "192.0.2.2", 20) == {200: 20}
    wait_for(lambda: ask(proxy, "192.0.2.1", 1) == {200: 1})


def test_a_refused_request_gets_the_service_s_own_problem_and_no_log_names_the_client(proxy: Proxy) -> None:
    spend(proxy, "192.0.2.3")
    with proxy.client(headers={"X-Test-Address": "192.0.2.3"}) as http:
        refused = next(response for response in (http.get("/") for _ in range(900)) if response.status_code == 429)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert int(refused.headers["Retry-After"]) == BURST / PER_SECOND
    assert refused.headers.get_list("Cache-Control") == ["no-store"]
    assert refused.json() == {
        "type": f"https://{HOST}/problems/{TooManyRequests.code}",
        "title": TooManyRequests.title,
        "status": 429,
        "detail": TooManyRequests.explanation,
        "code": TooManyRequests.code,
        "errors": [],
        "request_id": refused.headers["X-Request-Id"],
    }
    assert "192.0.2.3" not in proxy.logs


@pytest.mark.parametrize(
    ("address", "same_network", "strangers"),
    [
        ("2001:db8:1:2::1", ["2001:db8:1:2:ffff:ffff:ffff:ffff"], ["2001:db8:1:3::1", "2001:db8:0:2:1:1:1:1"]),
        ("2001:db8:3::1", ["2001:db8:3:0:1::"], ["2001:db8:3:1::1"]),
        ("2001:db8:0:5:1:1:1:1", [], ["2001:db8:0:6:1:1:1:1"]),
        ("::ffff:192.0.2.11", [], ["::ffff:192.0.2.12"]),
        ("198.51.100.1", [], ["198.51.100.2"]),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network_of_64_bits(
    proxy: Proxy, address: str, same_network: list[str], strangers: list[str]
) -> None:
    assert spend(proxy, address)[429]
    assert [bool(ask(proxy, other, 100)[429]) for other in same_network] == [True] * len(same_network)
    assert [bool(ask(proxy, stranger, 100)[429]) for stranger in strangers] == [False] * len(strangers)


@contextmanager
def in_hand(proxy: Proxy, address: str, times: int) -> Iterator[None]:
    """Hold requests whose bodies are unfinished."""
    head = (f"POST / HTTP/1.1\r\nHost: {HOST}\r\nX-Test-Address: {address}\r\nContent-Length: 2\r\n\r\n{{").encode()
    with ExitStack() as stack:
        for _ in range(times):
            stack.enter_context(proxy.connect()).sendall(head)
        time.sleep(0.2)
        yield


def test_the_proxy_limits_the_concurrent_requests_of_one_client_and_of_no_other(proxy: Proxy) -> None:
    with in_hand(proxy, "203.0.113.1", IN_HAND), proxy.client() as http:
        addresses = ("203.0.113.1", "203.0.113.2")
        statuses = [http.get("/", headers={"X-Test-Address": address}).status_code for address in addresses]
        assert statuses == [429, 200]
    wait_for(lambda: ask(proxy, "203.0.113.1", 1) == {200: 1})


def test_a_household_that_opens_the_app_at_once_is_answered(proxy: Proxy) -> None:
    with in_hand(proxy, "203.0.113.3", 50):
        assert ask(proxy, "203.0.113.3", 300) == {200: 300}


def test_the_processes_of_the_proxy_leave_no_core(proxy: Proxy) -> None:
    (worker, *_) = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
    limits = Path(f"/proc/{worker}/limits").read_text()
    assert [line.split()[4] for line in limits.splitlines() if "core file" in line] == ["0"]
