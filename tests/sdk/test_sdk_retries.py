"""How the SDK retries and waits, and what it makes of connections that break."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from simulated_service import (
    CALLS,
    Driver,
    Kind,
    Outcome,
    Service,
    answer_to,
    arguments_of,
    both_clients,
    described,
    outcome_of,
    page,
    problem,
)

from tiles_client import AsyncClient, Client, ServiceUnreachable, errors

REPEATABLE = {
    *("sessions", "account", "export_account", "policy"),  # they read
    *("change_account", "remove_name", "verify_erasure_receipt", "send_feedback"),  # a second time changes nothing
}

SENT: list[Outcome] = [httpx2.ReadTimeout(""), httpx2.WriteTimeout(""), httpx2.ReadError("cut"),
                       httpx2.RemoteProtocolError("cut")]  # fmt: skip
UNSENT: list[Outcome] = [httpx2.ConnectError("refused"), httpx2.ConnectTimeout(""), httpx2.PoolTimeout(""),
                         httpx2.ProxyError("no")]  # fmt: skip
PASSING: list[Outcome] = [problem("too-many-requests", 429), problem("overloaded", 503), page(502)]


def each(outcomes: list[Outcome], *calls: str) -> pytest.MarkDecorator:
    """Parametrize a test by every call with the first outcome, and by these calls with all outcomes."""
    pairs = [(call, outcomes[0]) for call in CALLS] + [(call, outcome) for call in calls for outcome in outcomes[1:]]
    return pytest.mark.parametrize(("name", "outcome"), pairs, ids=[f"{call} {described(of)}" for call, of in pairs])


@each(UNSENT, "register")
def test_a_request_that_was_not_sent_is_retried(name: str, outcome: Outcome, pauses: list[float]) -> None:
    driver = Driver(Client, Service(outcome, outcome, answer_to(name)))
    driver.call(name)
    assert (len(driver.service.requests), len(pauses)) == (3, 2)


@each(SENT + PASSING, "account", "register")
def test_a_request_that_was_sent_is_retried_only_when_that_is_safe(
    name: str, outcome: Outcome, pauses: list[float]
) -> None:
    driver = Driver(Client, Service(outcome, answer_to(name)))
    if name in REPEATABLE:
        driver.call(name)
        assert (len(driver.service.requests), len(pauses)) == (2, 1)
    else:
        driver.failure(name)
        assert (len(driver.service.requests), len(pauses)) == (1, 0)


@pytest.mark.parametrize("outcome", SENT + UNSENT + PASSING, ids=described)
@both_clients
def test_it_gives_up_after_three_attempts(kind: Kind, outcome: Outcome, pauses: list[float]) -> None:
    failure, service = outcome_of("account", outcome, kind=kind)
    assert (len(service.requests), len(pauses)) == (3, 2)
    if isinstance(outcome, httpx2.TransportError):
        assert type(failure) is (errors.NotConnected if outcome in UNSENT else ServiceUnreachable)
        assert failure.__cause__ is outcome


def test_pauses_grow_and_differ(pauses: list[float]) -> None:
    for _ in range(50):
        outcome_of("account", httpx2.ReadTimeout(""))
    first, second = pauses[::2], pauses[1::2]
    assert 0.25 <= min(first) < max(first) <= 0.5 <= min(second) < max(second) <= 1.0


def busy(retry_after: str, code: str = "overloaded", status: int = 503) -> httpx2.Response:
    response = problem(code, status)
    response.headers["Retry-After"] = retry_after
    return response


@both_clients
def test_retry_after_is_kept(kind: Kind, pauses: list[float]) -> None:
    refused, service = outcome_of("account", busy("4"), kind=kind)
    assert isinstance(refused, errors.Overloaded)
    assert (refused.retry_after, pauses, len(service.requests)) == (4.0, [4.0, 4.0], 3)


def test_retry_after_a_date_is_kept(pauses: list[float]) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)
    Driver(Client, Service(busy(moment), answer_to("account"))).call("account")
    assert 3 < pauses[0] <= 5


@pytest.mark.parametrize("retry_after", ["soon", "-1", "Tue, 01 Dec 2026 06:00:00 +99999999999999", "31 Foo 2026"])
def test_a_retry_after_that_cannot_be_read_is_ignored(retry_after: str, pauses: list[float]) -> None:
    Driver(Client, Service(busy(retry_after), answer_to("account"))).call("account")
    assert len(pauses) == 1


@pytest.mark.parametrize("retry_after", ["11", "86400", "9" * 5000, "Fri, 31 Dec 2999 23:59:59 GMT"])
@both_clients
def test_more_than_ten_seconds_are_not_waited(kind: Kind, retry_after: str, pauses: list[float]) -> None:
    refused, service = outcome_of("account", busy(retry_after, "too-many-requests", 429), kind=kind)
    assert isinstance(refused, errors.TooManyRequests)
    assert (refused.retry_after or 0) > 10
    assert (len(service.requests), pauses) == (1, [])


def test_all_pauses_together_stay_within_ten_seconds(pauses: list[float]) -> None:
    _, service = outcome_of("account", busy("6"))
    assert (len(service.requests), pauses) == (2, [6.0])


@pytest.mark.parametrize("retry_after", ["soon", "-1", "", "٣", "1.5", "Mon, 01 Jan 2024 00:00:00 -0000"])
def test_an_invalid_retry_after_is_ignored(retry_after: str, pauses: list[float]) -> None:
    response = httpx2.Response(503, headers=[(b"Retry-After", retry_after.encode())])
    Driver(Client, Service(response, answer_to("account"))).call("account")
    assert 0.25 <= pauses[0] <= 0.5


# Sockets


@contextlib.contextmanager
def listening(answers: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run a server that reads one request and answers it; yield its address."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            answers(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def register_over(kind: Kind, address: str, timeout: float = 5.0) -> None:
    """Register on a real connection."""
    arguments = arguments_of("register")
    if issubclass(kind, Client):
        with kind(base_url=address, timeout=timeout) as client:
            client.register(**arguments)
        return

    async def main() -> None:
        async with AsyncClient(base_url=address, timeout=timeout) as client:
            await client.register(**arguments)

    asyncio.run(main())


@both_clients
def test_the_proxies_of_the_environment_are_not_used(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    body = b'{"link_valid_for_seconds": 86400}'
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    with listening(lambda connection: connection.sendall(answer)) as address:
        register_over(kind, address)


@both_clients
def test_a_silent_service_is_unreachable_after_the_timeout(kind: Kind) -> None:
    patience = threading.Event()
    with listening(lambda _: patience.wait(5)) as address:
        with pytest.raises(ServiceUnreachable) as raised:
            register_over(kind, address, timeout=0.2)
        patience.set()
    assert type(raised.value) is ServiceUnreachable


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n", b"SSH-2.0-x\r\n"])
@both_clients
def test_a_cut_connection_is_unreachable_and_nothing_is_sent_twice(kind: Kind, answer: bytes) -> None:
    with (
        listening(lambda connection: connection.sendall(answer)) as address,
        pytest.raises(ServiceUnreachable) as raised,
    ):
        register_over(kind, address)
    assert type(raised.value) is ServiceUnreachable


@both_clients
def test_a_closed_port_is_not_connected(kind: Kind, pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(errors.NotConnected):
        register_over(kind, address)
    assert len(pauses) == 2
