"""Limits: how often each operation may be requested, the same with one process and with many, without storing names."""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from journeys import MakeService
from limits_steps import DAY, HOUR, MINUTE, Moment, ask_for_reset, client, post, register, sign_in, stop_time
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend.config import SettingsError
from backend.security import throttle

# Limits are charged before any look-up.
pytestmark = any_database


@pytest.fixture(autouse=True)
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    return stop_time(monkeypatch)


@pytest.fixture
def limited(make_service: MakeService) -> Service:
    """The service with the limits of the contract."""
    return make_service(rate_limits="")


def ask_for_erasure(service: Service, email: str, sender: int = 0) -> TestResponse:
    return post(service, "/v1/erasure-requests", {"email": email}, sender)


def redeem(service: Service, path: str, sender: int = 0) -> TestResponse:
    return post(service, path, {"token": "made-up", "password": PASSWORD}, sender)


def assert_limited(response: TestResponse, seconds: int) -> None:
    problem = assert_problem(response, 429, "too-many-requests")
    assert re.search(r"Try again in (a minute|\d+ (minutes|hours))\.$", problem["detail"])
    assert 1 <= int(response.headers["Retry-After"]) <= seconds


# The table


class Limit(NamedTuple):
    """A request, how often a client may send it, its status until then, and the limit's window."""

    ask: Callable[..., TestResponse]
    allowed: int
    status: int
    seconds: int


def limits_of(*limits: Limit) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("limit", limits, ids=[limit.ask.__name__ for limit in limits])


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org"], ids=["known", "unknown"])
@limits_of(
    Limit(sign_in, 10, 401, 5 * MINUTE),
    Limit(register, 3, 202, HOUR),
    Limit(ask_for_reset, 3, 202, HOUR),
    Limit(ask_for_erasure, 3, 202, HOUR),
)
def test_a_client_is_limited_for_an_address_with_or_without_an_account(
    service: Service, limited: Service, limit: Limit, email: str
) -> None:
    service.register(email="ada@example.org")
    spellings = [email, email.upper(), email.replace("@", "+tag@")] * limit.allowed
    statuses = [limit.ask(limited, spelling).status_code for spelling in spellings[: limit.allowed]]
    assert statuses == [limit.status] * limit.allowed
    assert_limited(limit.ask(limited, email), limit.seconds)
    assert limit.ask(limited, "somebody.else@example.org").status_code == limit.status
    # The limit applies to this client only.
    assert limit.ask(limited, email, sender=99).status_code == limit.status


@limits_of(
    Limit(sign_in, 50, 401, 5 * MINUTE),
    Limit(register, 20, 202, HOUR),
    Limit(ask_for_reset, 20, 202, HOUR),
    Limit(ask_for_erasure, 20, 202, HOUR),
)
def test_a_client_is_limited_across_all_addresses(limited: Service, limit: Limit) -> None:
    statuses = [limit.ask(limited, f"{number}@example.org").status_code for number in range(limit.allowed)]
    assert statuses == [limit.status] * limit.allowed
    assert_limited(limit.ask(limited, "another@example.org"), limit.seconds)
    assert limit.ask(limited, "another@example.org", sender=1).status_code == limit.status


def test_a_client_redeems_120_tokens_an_hour_of_any_purpose(limited: Service) -> None:
    paths = ("/v1/registrations/confirm", "/v1/password-resets/confirm")
    assert [redeem(limited, paths[number % 2]).status_code for number in range(120)] == [400] * 120
    for path in paths:
        assert_limited(redeem(limited, path), HOUR)
    assert redeem(limited, paths[0], sender=1).status_code == 400


def test_pages_and_the_api_share_their_limits(limited: Service) -> None:
    def send_form() -> TestResponse:
        return limited.http.post("/password-reset", data={"email": "ada@example.org"}, environ_overrides=client(0))

    assert [send_form().status_code for _ in range(3)] == [200] * 3
    assert_limited(ask_for_reset(limited), HOUR)
    page = send_form()
    assert (page.status_code, page.mimetype) == (429, "text/html")
    assert 1 <= int(page.headers["Retry-After"]) <= HOUR


def test_a_client_requests_emails_to_an_address_3_times_an_hour_and_5_a_day(limited: Service, moment: Moment) -> None:
    start = moment.now
    for ask in (register, ask_for_reset):
        assert [ask(limited).status_code for _ in range(3)] == [202] * 3
        # The limit ends with its window, not a second earlier.
        moment.move(int(ask(limited).headers["Retry-After"]) - 1)
        assert ask(limited).status_code == 429
        moment.move(1)
        assert [ask(limited).status_code for _ in range(2)] == [202, 202]
        refused = ask(limited)
        assert_limited(refused, DAY)
        assert int(refused.headers["Retry-After"]) > HOUR
        moment.now = start


def test_sign_ins_are_charged_to_the_whole_service(make_service: MakeService) -> None:
    service = make_service(rate_limits="sign-in/service=3/5 minutes")
    statuses = [sign_in(service, f"{number}@example.org", number).status_code for number in range(4)]
    assert statuses == [401, 401, 401, 429]


def test_a_current_password_may_be_tried_ten_times_in_five_minutes(limited: Service) -> None:
    ada, eve = limited.register(), limited.register(email="eve@example.org")

    def change(person: Person) -> TestResponse:
        body = {"current_password": OTHER_PASSWORD, "new_password": OTHER_PASSWORD}
        return limited.http.put("/v1/account/password", json=body, headers=person.headers)

    assert [change(ada).status_code for _ in range(10)] == [403] * 10
    assert_limited(change(ada), 5 * MINUTE)
    assert change(eve).status_code == 403


# One limit never blocks another


def test_a_limit_on_one_thing_blocks_no_other(limited: Service) -> None:
    asks: dict[Callable[..., TestResponse], int] = {sign_in: 401, register: 202, ask_for_reset: 202}
    reached: set[Callable[..., TestResponse]] = set()
    for ask in asks:
        assert any(ask(limited).status_code == 429 for _ in range(100))
        reached.add(ask)
        for other, status in asks.items():
            if other not in reached:
                assert other(limited).status_code == status
    assert redeem(limited, "/v1/password-resets/confirm").status_code == 400


def test_a_refused_request_uses_up_no_other_limit(limited: Service, moment: Moment) -> None:
    assert Counter(ask_for_reset(limited, "loud@example.org").status_code for _ in range(40)) == {202: 3, 429: 37}
    others = [ask_for_reset(limited, f"quiet{number}@example.org").status_code for number in range(18)]
    assert others == [202] * 17 + [429], "the client may ask for 20 in all"
    for _ in range(10):
        assert ask_for_reset(limited, "late@example.org").status_code == 429
    moment.move(HOUR)
    assert [ask_for_reset(limited, "late@example.org").status_code for _ in range(4)] == [202, 202, 202, 429]


def test_an_invalid_request_is_charged_to_no_address(limited: Service) -> None:
    for _ in range(30):
        assert limited.http.post("/v1/password-resets", data="{", content_type="application/json").status_code == 400
        assert post(limited, "/v1/password-resets", {"email": "ada@example.org", "x": "y"}).status_code == 422
        assert post(limited, "/v1/password-resets", {"email": "ada@"}).status_code == 422
    assert [ask_for_reset(limited).status_code for _ in range(4)] == [202, 202, 202, 429]


# What counts as one client


def reset_from(service: Service, address: str, number: int, **headers: str) -> int:
    body = {"email": f"{number}@example.org"}
    overrides = {"REMOTE_ADDR": address}
    as_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post(
        "/v1/password-resets", json=body, headers=as_headers, environ_overrides=overrides
    ).status_code


ONE_A_CLIENT = "password-reset/client=1/hour"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:0DB8:0:0::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network_of_64_bits(
    make_service: MakeService, first: str, second: str, *, same: bool
) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT)
    assert reset_from(service, first, 1) == 202
    assert reset_from(service, second, 2) == (429 if same else 202)


@pytest.mark.parametrize(
    ("proxies", "first", "second", "same"),
    [
        (0, "203.0.113.1", "203.0.113.2", True),
        (1, "203.0.113.1", "203.0.113.2", False),
        (1, "198.51.100.1, 203.0.113.1", "198.51.100.2, 203.0.113.1", True),
        (2, "198.51.100.1, 203.0.113.1, 192.0.2.9", "198.51.100.2, 203.0.113.1, 192.0.2.8", True),
    ],
)
def test_trusted_proxies_name_the_client_and_entries_to_the_left_are_ignored(
    make_service: MakeService, proxies: int, first: str, second: str, *, same: bool
) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT, trusted_proxies=proxies)
    assert reset_from(service, "192.0.2.1", 1, X_Forwarded_For=first) == 202
    assert reset_from(service, "192.0.2.1", 2, X_Forwarded_For=second) == (429 if same else 202)
    assert reset_from(service, "192.0.2.1", 3, X_Forwarded_For=first, Forwarded="for=203.0.113.3") == 429


# Settings


def test_an_operator_changes_one_limit_and_keeps_the_others(make_service: MakeService, moment: Moment) -> None:
    service = make_service(rate_limits=" password-reset/address+client = 1/hour ; 2/day , token/client=2/hour ")
    assert [ask_for_reset(service).status_code for _ in range(2)] == [202, 429]
    moment.move(HOUR)
    assert [ask_for_reset(service).status_code for _ in range(2)] == [202, 429]
    moment.move(HOUR)
    assert ask_for_reset(service).status_code == 429
    assert [redeem(service, "/v1/registrations/confirm").status_code for _ in range(3)] == [400, 400, 429]
    assert [register(service).status_code for _ in range(4)] == [202, 202, 202, 429]


def test_off_limits_nothing(make_service: MakeService) -> None:
    service = make_service(rate_limits=" OFF ")
    assert {ask_for_reset(service).status_code for _ in range(60)} == {202}


@pytest.mark.parametrize(
    "changes", ["on", "sign-in", "sign-in/client", "sign-in/client=", "sign-in/client=5", "sign-in/client=5/fortnight",
                "sign-in/client=-1/hour", "kilimanjaro/client=1/hour", "sign-in/client:1/hour",
                "sign-in/client=1/hour/x"],
)  # fmt: skip
def test_invalid_limits_stop_the_start(make_service: MakeService, changes: str) -> None:
    with pytest.raises(SettingsError, match=r"^TILES_RATE_LIMITS: "):
        make_service(rate_limits=changes)


def test_counts_in_a_process_are_bounded_for_any_number_of_keys(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MOST_KEYS", 100)
    service = make_service(rate_limits="password-reset/client=100000/hour")
    with service.app.app_context():
        for number in range(1_000):
            throttle.charge("password-reset", client="127.0.0.1", address=f"{number}@example.org")
    windows = service.app.extensions["tiles.throttle"].counts.windows.values()
    assert all(len(counts) <= 100 for _, _, counts in windows)
