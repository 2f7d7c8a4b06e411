"""Strangers cannot lock anybody out, even if they use every operation to its limit at once."""

import ipaddress
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest
from journeys import MakeService, MoveClock
from peers import text_of, token_of
from support import OTHER_PASSWORD, PASSWORD, Service, any_database
from werkzeug.test import TestResponse

from backend import clock
from backend.security import throttle

ADA, HOME = "ada@example.org", "192.0.2.1"
WORST = {
    "sessions": {"email": ADA, "password": "not that one at all"},
    "password-resets": {"email": ADA},
    "registrations": {"email": ADA, "name": "Eve"},
    "erasure-requests": {"email": ADA},
    "password-resets/confirm": {"token": "made-up", "password": PASSWORD},
    "feedback": {"message": "More tiles."},
    "email-changes/undo": {"token": "made-up"},
}


@pytest.fixture(autouse=True)
def noon(move_clock: MoveClock) -> None:
    """Move the clock to noon, so that no day ends during a test."""
    now = clock.now()
    move_clock(now.replace(hour=12) - now)


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """The service with the limits of the contract, behind a proxy."""
    service = make_service(rate_limits="", trusted_proxies=1)
    assert service.register(email=ADA)
    return service


def post(service: Service, client: str, path: str, **body: str) -> TestResponse:
    return service.http.post(f"/v1/{path}", json=body, headers={"X-Forwarded-For": client})


def do_the_worst(service: Service, clients: list[str], times: int, most: int = len(WORST)) -> Counter[int]:
    """Send the most harmful requests from each client, several times."""
    codes = (
        post(service, client, path, **body).status_code
        for _ in range(times) for client in clients for path, body in list(WORST.items())[:most]
    )  # fmt: skip
    statuses = Counter(codes)
    assert set(statuses) <= {201, 202, 400, 401, 429}
    return statuses


def links(service: Service) -> list[str]:
    """Return the reset links in Ada's mailbox, the newest last."""
    service.deliver()
    mine = (message for message in service.mail_server.messages if "/password-reset#" in text_of(message))
    return [token_of(message) for message in mine]


def customers_of_one_48() -> list[str]:
    return [f"2001:db8:1:{number % 256:02x}{number // 256:02x}::{number + 1:x}" for number in range(260)]


@pytest.mark.parametrize(
    ("database_url", "clients", "times"),
    [
        pytest.param("sqlite", ["198.51.100.1"], 60, id="a client, sqlite"),
        pytest.param("postgresql", ["198.51.100.1"], 60, id="a client, postgresql"),
        pytest.param("postgresql", customers_of_one_48(), 1, id="a /48", marks=pytest.mark.long),
    ],
    indirect=["database_url"],
)
def test_one_client_or_one_48_stops_nobody_from_signing_in_or_using_a_link(
    service: Service, clients: list[str], times: int
) -> None:
    assert do_the_worst(service, clients, times)[429] > 0
    signed_in = post(service, HOME, "sessions", email=ADA, password=PASSWORD)
    assert signed_in.status_code == 201
    # The owner forgot the password, once at home and once in the mobile network.
    for client in (HOME, "2001:db8:2::1"):
        assert post(service, client, "password-resets", email=ADA).status_code == 202
    assert (
        post(service, HOME, "password-resets/confirm", token=links(service)[-1], password=OTHER_PASSWORD).status_code
        == 204
    )
    assert post(service, HOME, "sessions", email=ADA, password=OTHER_PASSWORD).status_code == 201


@pytest.mark.long
@any_database
def test_hundreds_of_clients_cannot_lock_out_the_owner_of_the_mailbox(service: Service, move_clock: MoveClock) -> None:
    clients = [str(ipaddress.ip_address("198.18.0.0") + number) for number in range(300)]
    passwords = [OTHER_PASSWORD, PASSWORD]
    do_the_worst(service, clients, 1, 2)
    for password in passwords:
        do_the_worst(service, clients[:100], 1)
        # The daily limit of emails may be reached. Then the mailbox already has working links.
        assert post(service, HOME, "password-resets", email=ADA).status_code in {202, 429}
        link = links(service)[-1]
        assert post(service, HOME, "password-resets/confirm", token=link, password=password).status_code == 204
        do_the_worst(service, clients[:100], 1)
        assert post(service, HOME, "sessions", email=ADA, password=password).status_code == 201
        move_clock(timedelta(hours=1, minutes=1))
    # Resets, and registrations with an address that has an account, send such links.
    assert len(links(service)) <= 2 * (5 + len(passwords))


@any_database
def test_many_sign_ins_of_one_client_do_not_use_up_the_limit_of_the_service(service: Service) -> None:
    statuses = Counter(
        post(service, "198.51.100.1", "sessions", email=f"{number}@example.org", password=PASSWORD).status_code
        for number in range(300)
    )
    assert statuses == {401: 50, 429: 250}
    assert post(service, HOME, "sessions", email=ADA, password=PASSWORD).status_code == 201


@any_database
def test_one_48_cannot_reset_the_counts_of_others(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Scaled down like the part of a /48 that this test uses.
    monkeypatch.setattr(throttle, "MOST_KEYS", 5_000)
    for number in range(50):
        post(service, HOME, "sessions", email=f"bob{number}@example.org", password=PASSWORD)
    for number in range(6_000):
        client = f"ipv6:20010db80001{number:04x}"
        for scope in ("request", "sign-in", "token", "feedback"):
            with service.app.app_context(), suppress(throttle.TooManyRequests):
                throttle.charge(scope, client=client, address=f"{number}@example.org")
    assert post(service, HOME, "sessions", email=ADA, password=PASSWORD).status_code == 429
