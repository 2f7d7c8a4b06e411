"""Lockout: at most 100 wrong passwords for an address, and the owner of the mailbox can always sign in."""

import ipaddress
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial

import pytest
from journeys import MakeService, MoveClock, at_once, close, tidy
from sqlalchemy.exc import OperationalError
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend.database import engine
from backend.errors import TooManyRequests
from backend.security import keys, lockout
from backend.security.hashing import Hasher
from backend.serving import worker

ADA, NOBODY = "ada@example.org", "nobody@example.org"
WRONG = "not that one at all"
# These tests use the lockout only, because the other limits end within minutes.
SLOWLY = ",".join(
    f"{limit}=100000/hour"
    for limit in ("request/client", "sign-in/client", "sign-in/address+client", "password/account")
)


@pytest.fixture
def service(make_service: MakeService) -> Service:
    return make_service(rate_limits=SLOWLY)


def ipv4(number: int) -> str:
    return str(ipaddress.ip_address("198.18.0.0") + number)


def in_one_48(number: int) -> str:
    """Return an address in one of the 65,536 /64 networks of a /48; the next number is in another /56."""
    return f"2001:db8:1:{number % 256:02x}{number // 256:02x}::1"


def sign_in(service: Service, address: str, email: str = ADA, password: str = WRONG) -> TestResponse:
    body = {"email": email, "password": password}
    return service.http.post("/v1/sessions", json=body, environ_overrides={"REMOTE_ADDR": address})


def wrong_passwords(service: Service, addresses: list[str], email: str = ADA) -> int:
    """Try a wrong password from each address; return how many were checked."""
    statuses = Counter(sign_in(service, address, email).status_code for address in addresses)
    assert set(statuses) <= {401, 429}
    return statuses[401]


@pytest.mark.parametrize("email", [ADA, NOBODY])
def test_a_client_tries_20_wrong_passwords_and_locks_out_only_itself(service: Service, email: str) -> None:
    service.register(email=ADA)
    assert wrong_passwords(service, [ipv4(1)] * 25, email) == 20
    refused = assert_problem(sign_in(service, ipv4(1), email), 429, "too-many-requests")
    assert "Reset the password" in refused["detail"]
    assert sign_in(service, ipv4(2), email, PASSWORD).status_code == (201 if email == ADA else 401)


@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [
        ([f"2001:db8:1:1::{number:x}" for number in range(1, 30)], 20),
        ([f"2001:db8:1:1{number % 32:02x}::1" for number in range(64)], 40),
        ([in_one_48(number) for number in range(100)], 60),
    ],
    ids=["/64", "/56", "/48"],
)
@any_database
def test_networks_of_ipv6_have_growing_allowances(service: Service, addresses: list[str], allowed: int) -> None:
    service.register(email=ADA)
    assert wrong_passwords(service, addresses) == allowed
    # One stranger has a /48 and an IPv4 address.
    wrong_passwords(service, [ipv4(1)] * 25)
    assert sign_in(service, "2001:db8:2::1", password=PASSWORD).status_code == 201


@any_database
def test_refused_tries_of_a_client_do_not_count_for_its_neighbours(service: Service) -> None:
    service.register(email=ADA)
    assert wrong_passwords(service, ["2001:db8:1:1::1"] * 80) == 20
    assert sign_in(service, "2001:db8:1:2::1", password=PASSWORD).status_code == 201


@pytest.mark.parametrize(
    ("database_url", "email"), [("sqlite", ADA), ("postgresql", ADA), ("sqlite", NOBODY)], indirect=["database_url"]
)
def test_after_90_wrong_passwords_of_strangers_a_reset_lets_the_owner_sign_in(
    service: Service, move_clock: MoveClock, email: str
) -> None:
    service.register(email=ADA)
    assert wrong_passwords(service, [ipv4(number) for number in range(95)], email) == 90
    refused = sign_in(service, "192.0.2.1", email, PASSWORD)
    assert_problem(refused, 429, "too-many-requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    if email == NOBODY:
        return
    assert service.reset(service.ask_for_reset()).status_code == 204
    # The strangers continue at once. The last ten tries are for the client that used the link, also a second time.
    for _ in range(2):
        assert wrong_passwords(service, [ipv4(number) for number in range(95)]) == 90
        assert sign_in(service, ipv4(999), password=OTHER_PASSWORD).status_code == 429
        assert sign_in(service, "127.0.0.1", password=OTHER_PASSWORD).status_code == 201
    # The trust in this client ends after an hour, and another link renews it.
    move_clock(timedelta(minutes=61))
    assert wrong_passwords(service, [ipv4(number) for number in range(95)]) == 90
    assert sign_in(service, "127.0.0.1", password=OTHER_PASSWORD).status_code == 429
    service.deliver()
    assert service.reset(service.ask_for_reset(), PASSWORD).status_code == 204
    assert sign_in(service, "127.0.0.1", password=PASSWORD).status_code == 201


@any_database
def test_a_password_that_could_not_be_checked_is_no_wrong_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.register(email=ADA)

    def fail(*_: object) -> None:
        raise OperationalError(None, None, Exception("away"))

    with monkeypatch.context() as away:
        away.setattr(Hasher, "verify", fail)
        assert {sign_in(service, ipv4(0)).status_code for _ in range(30)} == {503}
    assert sign_in(service, ipv4(0), password=PASSWORD).status_code == 201


@any_database
def test_the_right_password_clears_the_wrong_ones(service: Service) -> None:
    service.register(email=ADA)
    for _ in range(2):
        assert wrong_passwords(service, [ipv4(number) for number in range(60)]) == 60
        assert sign_in(service, ipv4(0), password=PASSWORD).status_code == 201
    assert [row for row in service.rows("wrong_passwords") if row["trusted_until"] is None] == []


def test_of_200_wrong_passwords_at_once_two_processes_check_at_most_100(make_service: MakeService) -> None:
    services = [make_service(rate_limits=SLOWLY) for _ in range(2)]
    services[0].register(email=ADA)
    barrier = threading.Barrier(20)

    def guess(number: int) -> int:
        barrier.wait()
        return [sign_in(services[number % 2], ipv4(20 * number + each)).status_code for each in range(10)].count(401)

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(guess, range(20))) == 90
    assert sign_in(services[1], "192.0.2.1", password=PASSWORD).status_code == 429
    # A reset through one unlocks the other.
    assert services[0].reset(services[0].ask_for_reset()).status_code == 204
    assert sign_in(services[1], "192.0.2.1", password=OTHER_PASSWORD).status_code == 201


def ask_again(service: Service, person: Person, password: str, address: str) -> int:
    body = {"current_password": password, "new_password": OTHER_PASSWORD}
    headers, environ = person.headers, {"REMOTE_ADDR": address}
    return service.http.put("/v1/account/password", json=body, headers=headers, environ_overrides=environ).status_code


def test_confirming_the_password_counts_like_a_sign_in(service: Service) -> None:
    ada = service.register(email=ADA)
    assert [ask_again(service, ada, WRONG, ipv4(1)) for _ in range(12)] == [403] * 12
    assert wrong_passwords(service, [ipv4(1)] * 12) == 8
    assert ask_again(service, ada, PASSWORD, ipv4(1)) == 429
    assert ask_again(service, ada, PASSWORD, ipv4(2)) == 204
    assert sign_in(service, ipv4(1), password=OTHER_PASSWORD).status_code == 201


def test_wrong_passwords_are_stored_under_digests_and_expire_by_their_number(
    service: Service, move_clock: MoveClock
) -> None:
    for email in (ADA, NOBODY):
        assert wrong_passwords(service, [ipv4(1)] * 11 + ["2001:db8:1:1::1"], email) == 12
    rows = service.rows("wrong_passwords")
    assert len(rows) == 2 * 5
    assert len({bytes(row["client"]) for row in rows}) == 2 * 4 + 1
    assert {len(row["address"]) for row in rows} == {32}
    # A single wrong password, as of a client that tries many addresses, is forgotten first.
    wrong_passwords(service, [ipv4(2)], "somebody@example.org")

    def left_after(days: int) -> int:
        move_clock(timedelta(days=days))
        tidy(service)
        return len(service.rows("wrong_passwords"))

    assert [left_after(days) for days in (4, 1, 360, 1)] == [12, 4, 4, 0]


def test_erasing_an_account_deletes_its_wrong_passwords(service: Service) -> None:
    ada = service.register(email=ADA)
    wrong_passwords(service, [ipv4(1)])
    assert close(service, ada.headers, erase=True).status_code == 200
    wrong_passwords(service, [ipv4(1)])
    with service.app.app_context():
        with engine.transaction() as session:
            session.execute(engine.text("UPDATE accounts SET erase_after = closed_at"))
        assert worker.erase_due() == 1
    assert service.rows("wrong_passwords") == []


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_wrong_and_right_passwords_at_once_never_deadlock(service: Service) -> None:
    service.register(email=ADA)

    def guess(number: int) -> None:
        with service.app.app_context():
            with suppress(TooManyRequests), lockout.guess(ADA, f"192.0.2.{number % 2}"):
                pass
            lockout.clear(ADA)

    for _ in range(40):
        at_once(*[partial(guess, number) for number in range(6)])


@any_database
def test_erasing_after_a_rotation_deletes_the_wrong_passwords_of_older_keys(make_service: MakeService) -> None:
    service = make_service(secret_keys="", rate_limits=SLOWLY)
    service.run(keys.begin)
    service.register(email=ADA)
    assert wrong_passwords(service, [ipv4(0)]) == 1
    service.run(keys.rotate, ())
    with service.app.app_context(), engine.transaction():
        lockout.forget([ADA])
    assert {bytes(row["client"]) for row in service.rows("wrong_passwords")} == set()
