"""A stranger cannot find out whether an address has an account: not by responses, work, limits or emails."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from journeys import CHANGE_CONFIRM, MakeService, close, confirm_email_change, request_email_change, the_mail
from pairwise import on_one_database_each
from peers import text_of, token_of
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem, comparable
from werkzeug.test import TestResponse

from backend.mail import queue
from backend.security import throttle

ADA, UNKNOWN, CLOSED = "ada@example.org", "bob@example.org", "eve@example.org"

Ask = Callable[..., TestResponse]


def post(service: Service, path: str, client: str = "192.0.2.1", **body: str) -> TestResponse:
    return service.http.post(f"/v1/{path}", json=body, environ_overrides={"REMOTE_ADDR": client})


def send(service: Service, path: str, client: str = "192.0.2.1", **fields: str) -> TestResponse:
    return service.http.post(path, data=fields, environ_overrides={"REMOTE_ADDR": client})


ASKS: dict[str, Ask] = {
    "register": lambda service, email, **of: post(service, "registrations", name="Eve", email=email, **of),
    "reset": lambda service, email, **of: post(service, "password-resets", email=email, **of),
    "reset page": lambda service, email, **of: send(service, "/password-reset", email=email, **of),
    "erasure": lambda service, email, **of: post(service, "erasure-requests", email=email, **of),
    "erasure page": lambda service, email, **of: send(service, "/erasure", email=email, **of),
    "sign in": lambda service, email, **of: post(service, "sessions", email=email, password=OTHER_PASSWORD, **of),
}


def work(service: Service, ask: Ask, email: str, hash_work: Counter[str]) -> tuple[object, ...]:
    """Send a request, and return its response, statements and hashes."""
    hash_work.clear()
    with service.statements() as statements:
        response = ask(service, email)
    return *comparable(response, email), statements, dict(hash_work)


@on_one_database_each("ask", ASKS.values(), ASKS)
@pytest.mark.usefixtures("ada")
def test_promise_4_an_address_gets_the_same_response_and_work_with_an_account_or_without(
    service: Service, ask: Ask, hash_work: Counter[str]
) -> None:
    eve = service.register(name="Eve", email=CLOSED, password=OTHER_PASSWORD)
    assert close(service, eve.headers, password=OTHER_PASSWORD).status_code == 200
    ask(service, "warm@example.org")
    known, unknown, closed = (work(service, ask, email, hash_work) for email in (ADA, UNKNOWN, CLOSED))
    assert known == unknown == closed
    *_, statements, hashed = known
    looked_up = [statement for statement in statements if "accounts" in statement]
    if ask is ASKS["sign in"]:
        assert hashed == {"verify $argon2id$v=19$m=8,t=1,p=1": 1}
    else:
        assert (looked_up, hashed) == ([], {})


@pytest.fixture
def no_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the limits."""
    monkeypatch.setattr(throttle, "time", SimpleNamespace(time=lambda: 1_000_000_000.0))


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
@pytest.mark.usefixtures("ada", "no_window_ends")
@any_database
def test_promise_4_a_limit_reveals_no_account_by_its_counts_or_responses(make_service: MakeService, ask: Ask) -> None:
    service = make_service(rate_limits="")

    def responses_to(email: str, net: str) -> list[tuple[int, bytes]]:
        responses = (ask(service, email, client=f"{net}.{number % 3}") for number in range(40))
        # A page shows the typed address again.
        return [(response.status_code, comparable(response)[2].replace(email.encode(), b"")) for response in responses]

    known, unknown = responses_to(ADA, "192.0.2"), responses_to(UNKNOWN, "198.51.100")
    assert known == unknown
    assert known[-1][0] == 429


@pytest.mark.usefixtures("ada", "no_window_ends")
@any_database
def test_promise_4_a_locked_address_reveals_no_account_by_the_work_done(
    make_service: MakeService, hash_work: Counter[str]
) -> None:
    service = make_service(rate_limits="sign-in/address+client=100/hour")
    wrong: Ask = lambda s, e: s.sign_in(e, OTHER_PASSWORD)  # noqa: E731 - one line of it
    wrong(service, "warm@example.org")
    known, unknown = (work(service, wrong, email, hash_work) for email in (ADA, UNKNOWN))
    assert known == unknown
    assert len([statement for statement in known[3] if "wrong_passwords" in statement]) == 2
    costs = []
    for email in (ADA, UNKNOWN):
        assert [service.sign_in(email, OTHER_PASSWORD).status_code for _ in range(19)] == [401] * 19
        # The right password gets the same response, and costs no hash.
        costs.append(work(service, lambda s, e: s.sign_in(e, PASSWORD), email, hash_work))
    status, *_, statements, hashed = costs[0]
    assert (status, {"accounts" in statement for statement in statements}, hashed) == (429, {False}, {})
    assert costs[0] == costs[1]


def test_promise_4_user_enumeration_by_email_in_use_needs_the_mailbox(
    service: Service, ada: Person, hash_work: Counter[str]
) -> None:
    eve = service.register(name="Eve", email=CLOSED)
    ask: Ask = lambda service, email: request_email_change(service, eve.headers, email)  # noqa: E731 - one line of it
    known, unknown = (work(service, ask, email, hash_work) for email in (ada.email, UNKNOWN))
    assert known == unknown
    assert known[0] == 202
    link = token_of(the_mail(service.deliver(), ada.email, CHANGE_CONFIRM))
    assert_problem(confirm_email_change(service, link), 409, "email-in-use")


@any_database
def test_promise_4_the_order_of_emails_reveals_no_account(service: Service) -> None:
    requested = [f"person{number}@example.org" for number in range(queue.BATCH)]
    for _ in range(3):
        for email in requested:
            assert post(service, "registrations", name="Ada", email=email).status_code == 202
        if [message["To"] for message in service.deliver()] != requested:
            return
    raise AssertionError("three times the emails left in the order in which they were requested")


def test_promise_4_an_email_waits_as_long_behind_an_unknown_as_behind_a_known_address(
    service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = service.mail_server.handle_DATA

    async def accept_slowly(*envelope: Any) -> str:
        await asyncio.sleep(0.2)
        return await accept(*envelope)

    monkeypatch.setattr(service.mail_server, "handle_DATA", accept_slowly)
    for email in (ada.email, "nobody@example.org"):
        post(service, "password-resets", email=email)
        begun = time.monotonic()
        service.deliver()
        assert time.monotonic() - begun >= 0.2


LOOKS_ALIKE = {
    "dotless i": "m\u0131ke@example.org",
    "dotted I": "m\u0130ke@example.org",
    "Kelvin sign": "mi\u212ae@example.org",
    "full width": "\uff4dike@example.org",
    "Cyrillic": "mik\u0435@example.org",
    "domain with a dotless i": "mike@s\u0131te.example.org",
    "domain with a Cyrillic letter": "mike@sit\u0435.example.org",
    "domain with a long s": "mike@\u017fite.example.net",
}


@any_database
def test_promise_4_a_unicode_homograph_of_an_address_gets_no_link_to_its_account(service: Service) -> None:
    for email in ("mike@example.org", "mike@site.example.org"):
        service.register(name="Mike", email=email)
    for other in LOOKS_ALIKE.values():
        for ask in ASKS.values():
            assert ask(service, other).status_code in {200, 202, 401, 422}
    # The homograph can at most register its own account, without Mike's data.
    for message in service.deliver():
        assert message["To"] not in {"mike@example.org", "mike@site.example.org"}
        assert "/registration#" in text_of(message)
