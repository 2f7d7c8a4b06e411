"""The options of a client: retries, timeouts, and where its session is stored."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from simulated_service import (
    BASE,
    CONTRACT,
    PASSWORD,
    SIGNED_IN,
    TOKEN,
    Driver,
    Outcome,
    Service,
    answer_to,
    both_clients,
    every_call,
    outcome_of,
    problem,
)

from tiles_client import AsyncClient, Client, NotConnected, Overloaded, TilesError, Unauthenticated


def driver_of(kind: type[Client | AsyncClient], *outcomes: Outcome, token: str | None = TOKEN) -> Driver:
    return Driver(kind, Service(*outcomes), session_token=token)


# Retries and timeouts


@both_clients
@pytest.mark.parametrize("retries", [0, 1, 4])
def test_a_call_is_retried_as_often_as_the_client_says(
    kind: type[Client | AsyncClient],
    retries: int,
    pauses: list[float],
) -> None:
    driver = driver_of(kind, httpx2.ConnectError(""))
    driver.client = driver.client.with_options(max_retries=retries)
    assert isinstance(driver.failure("account"), NotConnected)
    assert (len(driver.service.requests), len(pauses)) == (retries + 1, retries)


@both_clients
def test_a_timeout_is_for_one_client_and_leaves_the_other_as_it_was(kind: type[Client | AsyncClient]) -> None:
    driver = driver_of(kind, answer_to("policy"))
    patient, driver.client = driver.client, driver.client.with_options(timeout=2)
    driver.call("policy")
    driver.client = patient
    driver.call("policy")
    timeouts = [request.extensions["timeout"] for request in driver.service.requests]
    assert [set(timeout.values()) for timeout in timeouts] == [{2}, {10.0}]


NUMBERS: list[dict[str, object]] = [
    *({"timeout": value} for value in (0, -1, float("nan"), float("inf"), "2")),
    *({"max_retries": value} for value in (-1, 1.5, "2")),
]


@pytest.mark.parametrize("options", NUMBERS)
def test_an_invalid_option_is_refused_by_name(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: "):
        Client(base_url=BASE, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{name}: "):
        Client(base_url=BASE).with_options(**options)  # type: ignore[arg-type]


async def store(_token: str | None) -> None:
    """Store the session, where only a function that is not async can be called."""


@pytest.mark.parametrize(
    ("name", "value"),
    [("base_url", None), ("session_token", 5), ("on_session_change", 5), ("on_session_change", store),
     ("timeout", None), ("max_retries", None)],
)  # fmt: skip
@both_clients
def test_an_argument_of_another_type_is_refused_by_name(
    kind: type[Client | AsyncClient], name: str, value: object
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        kind(**{"base_url": BASE, name: value})  # type: ignore[arg-type]


# The session

# The sessions that the app gets to store, by call.
CHANGED = {"confirm_registration": [TOKEN], "sign_in": [TOKEN], "change_password": ["tiles_earlier"],
           "sign_out": [None], "end_all_sessions": [None], "close_account": [None]}  # fmt: skip


def stored(kind: type[Client | AsyncClient], *outcomes: Outcome, token: str | None) -> tuple[Driver, list[str | None]]:
    """Return a driver whose client stores its session in a list."""
    tokens: list[str | None] = []
    driver = driver_of(kind, *outcomes)
    driver.client = kind(
        base_url=BASE,
        session_token=token,
        on_session_change=tokens.append,
        transport=httpx2.MockTransport(driver.service),
    )
    return driver, tokens


@both_clients
@every_call
def test_the_app_gets_each_new_session_to_store(kind: type[Client | AsyncClient], name: str) -> None:
    driver, tokens = stored(kind, answer_to(name), token="tiles_earlier")
    driver.call(name)
    assert tokens == CHANGED.get(name, [])
    assert driver.client.session_token == (tokens or ["tiles_earlier"])[-1]
    assert driver.client.is_signed_in == (driver.client.session_token is not None)


@both_clients
@pytest.mark.parametrize("name", CHANGED)
def test_a_call_that_failed_changes_no_session(kind: type[Client | AsyncClient], name: str) -> None:
    for outcome in (problem("wrong-password", 403), httpx2.ReadTimeout(""), problem("overloaded", 503)):
        driver, tokens = stored(kind, outcome, token=TOKEN)
        driver.failure(name)
        assert (tokens, driver.client.session_token) == ([], TOKEN)


@both_clients
@pytest.mark.parametrize("name", [name for name, line in CONTRACT.items() if line.session])
def test_a_session_that_the_service_has_ended_is_forgotten(kind: type[Client | AsyncClient], name: str) -> None:
    driver, tokens = stored(kind, problem("unauthenticated", 401), token=TOKEN)
    for _ in range(2):
        assert isinstance(driver.failure(name), Unauthenticated)
    assert (tokens, driver.client.session_token, driver.client.is_signed_in) == ([None], None, False)


@pytest.mark.parametrize("late", [problem("unauthenticated", 401), httpx2.Response(204)])
def test_a_late_response_about_an_old_session_leaves_the_new_one_alone(late: httpx2.Response) -> None:
    async def race() -> str | None:
        signed_in = asyncio.Event()

        async def service(request: httpx2.Request) -> httpx2.Response:
            if request.method == "POST":
                return answer_to("sign_in")
            await signed_in.wait()
            return late

        transport = httpx2.MockTransport(service)
        async with AsyncClient(base_url=BASE, session_token="tiles_old", transport=transport) as client:
            leaving = asyncio.create_task(client.sign_out())
            await asyncio.sleep(0)
            await client.sign_in(email="ada@example.org", password=PASSWORD)
            signed_in.set()
            await asyncio.wait([leaving])
            leaving.exception()
            return client.session_token

    assert asyncio.run(race()) == TOKEN


@both_clients
def test_a_client_with_other_options_has_the_same_session(kind: type[Client | AsyncClient]) -> None:
    driver, tokens = stored(kind, answer_to("sign_in"), problem("unauthenticated", 401), token=None)
    first, driver.client = driver.client, driver.client.with_options(timeout=1)
    driver.call("sign_in")
    assert first.session_token == TOKEN
    driver.client = first
    driver.failure("account")
    assert tokens == [TOKEN, None]


def test_threads_share_a_client_and_the_last_reported_token_is_the_current_one() -> None:
    tokens: list[str | None] = []
    number = iter(range(10**6))
    lock = threading.Lock()

    def answer(_request: httpx2.Request) -> httpx2.Response:
        with lock:
            session = {**SIGNED_IN["session"], "token": f"tiles_{next(number)}"}
        return httpx2.Response(201, json={**SIGNED_IN, "session": session})

    client = Client(base_url=BASE, on_session_change=tokens.append, transport=httpx2.MockTransport(answer))
    with ThreadPoolExecutor(16) as pool:
        for _ in range(400):
            pool.submit(client.sign_in, email="ada@example.org", password="x")
    assert len(set(tokens)) == 400
    assert client.session_token == tokens[-1]


# Errors


@pytest.mark.parametrize(
    "response",
    [
        problem("overloaded", 503, request_id="abc"),
        httpx2.Response(503, text="<h1>503</h1>"),
        httpx2.Response(200, text="a captive portal"),
    ],
    ids=["problem", "proxy", "portal"],
)
def test_every_failure_names_the_request_and_how_long_to_wait(response: httpx2.Response, pauses: list[float]) -> None:
    response.headers.update({"X-Request-Id": "abc", "Retry-After": "60"})
    failure, _ = outcome_of("account", response)
    assert (failure.request_id, failure.retry_after) == ("abc", 60)
    assert pauses == []


def test_a_failure_without_a_response_has_neither(pauses: list[float]) -> None:
    failure, _ = outcome_of("account", httpx2.ConnectError(""))
    assert (failure.request_id, failure.retry_after, len(pauses)) == (None, None, 2)
    assert isinstance(Overloaded("overloaded", 503, "", ""), TilesError)


WRONG: list[Callable[[Any], object]] = [
    lambda client: client.register(name="Ada"),
    lambda client: client.register(name=b"Ada", email="ada@example.org"),
    lambda client: client.policy(1),
    lambda client: client.account(x=1),
    lambda client: client.register(name="Ada", email="ada@example.org", phone="1"),
    lambda client: client.with_options(retries=1),
    lambda client: type(client)(BASE),
    lambda client: type(client)(),
]


@both_clients
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_refused_before_sending_and_name_the_class_that_was_used(
    kind: type[Client | AsyncClient], wrong: Callable[[object], object]
) -> None:
    driver = driver_of(kind, answer_to("policy"))
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.\w+\(\) "):
        wrong(driver.client)
    assert driver.service.requests == []
