"""Limits: how often each thing may be asked for, the same in one process and in many, and nobody's trace in them."""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import redis
from conftest import needs
from support import (
    OTHER_PASSWORD,
    PASSWORD,
    Person,
    RedisServer,
    Service,
    assert_problem,
    free_port,
)
from werkzeug.test import TestResponse

from backend.config import SettingsError
from backend.security import throttle
from backend.security.throttle import LIMITS

MINUTE, HOUR, DAY, MONTH = 60, 3600, 86400, 30 * 86400


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Limits are charged before any look-up: one database is enough."""
    return sqlite_url


class Moment:
    """The time that the limits read; it stands still until it is moved."""

    def __init__(self, start: float) -> None:
        self.now = start

    def time(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """A moment of the past in the middle of every window, so that none ends during a test."""
    start = 600 * MONTH + MONTH // 2 + DAY // 2 + HOUR // 2 + 5 * MINUTE // 2
    found = Moment(start)
    monkeypatch.setattr(throttle, "time", SimpleNamespace(time=found.time))
    return found


@pytest.fixture
def clean_redis(redis_url: str) -> Iterator[str]:
    """A Redis in which nothing is yet."""
    with redis.from_url(redis_url) as connection:
        connection.flushall()
    return redis_url


@pytest.fixture(params=["memory", "redis"])
def counted_in(request: pytest.FixtureRequest) -> str | None:
    """Where limits are counted: in the process, then in Redis."""
    url: str | None = request.getfixturevalue("clean_redis") if request.param == "redis" else None
    return url


@pytest.fixture
def limited(make_service: Callable[..., Service], counted_in: str | None) -> Service:
    """The service with the limits of the contract."""
    return make_service(rate_limits="", redis_url=counted_in)


def client(number: int) -> dict[str, str]:
    """Return the environment of a request from one of many addresses."""
    return {"REMOTE_ADDR": str(ipaddress.ip_address("198.18.0.0") + number)}


def post(service: Service, path: str, body: dict[str, str], sender: int = 0) -> TestResponse:
    return service.http.post(path, json=body, environ_overrides=client(sender))


def register(service: Service, email: str = "ada@example.org", sender: int = 0) -> TestResponse:
    return post(service, "/v1/registrations", {"name": "Ada", "email": email}, sender)


def ask_for_reset(service: Service, email: str = "ada@example.org", sender: int = 0) -> TestResponse:
    return post(service, "/v1/password-resets", {"email": email}, sender)


def sign_in(service: Service, email: str = "ada@example.org", sender: int = 0, password: str = "wrong") -> TestResponse:
    return post(service, "/v1/sessions", {"email": email, "password": password}, sender)


def redeem(service: Service, path: str, sender: int = 0) -> TestResponse:
    return post(service, path, {"token": "made-up", "password": PASSWORD}, sender)


def assert_limited(response: TestResponse, seconds: int) -> None:
    assert_problem(response, 429, "too-many-requests")
    assert 1 <= int(response.headers["Retry-After"]) <= seconds


# The table


class Limit(NamedTuple):
    """How often something may be asked for, what it answers until then, and the limit's window."""

    ask: Callable[..., TestResponse]
    allowed: int
    status: int
    seconds: int


def per_what(*limits: Limit) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("limit", limits, ids=[limit.ask.__name__ for limit in limits])


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org"], ids=["known", "unknown"])
@per_what(Limit(sign_in, 10, 401, 5 * MINUTE), Limit(register, 3, 202, HOUR), Limit(ask_for_reset, 3, 202, HOUR))
def test_a_client_has_its_limit_for_an_address_whether_or_not_it_has_an_account(
    service: Service, limited: Service, limit: Limit, email: str
) -> None:
    service.register(email="ada@example.org")
    spellings = [email, email.upper(), email.replace("@", "+tag@")] * limit.allowed
    statuses = [limit.ask(limited, spelling).status_code for spelling in spellings[: limit.allowed]]
    assert statuses == [limit.status] * limit.allowed
    assert_limited(limit.ask(limited, email), limit.seconds)
    assert limit.ask(limited, "somebody.else@example.org").status_code == limit.status
    # Whoever else asks for it is not concerned.
    assert limit.ask(limited, email, sender=99).status_code == limit.status


@per_what(Limit(sign_in, 50, 401, 5 * MINUTE), Limit(register, 20, 202, HOUR), Limit(ask_for_reset, 20, 202, HOUR))
def test_a_client_has_its_limit_whatever_the_addresses(limited: Service, limit: Limit) -> None:
    statuses = [limit.ask(limited, f"{number}@example.org").status_code for number in range(limit.allowed)]
    assert statuses == [limit.status] * limit.allowed
    assert_limited(limit.ask(limited, "another@example.org"), limit.seconds)
    assert limit.ask(limited, "another@example.org", sender=1).status_code == limit.status


def test_a_client_redeems_120_tokens_an_hour_of_whatever_purpose(limited: Service) -> None:
    paths = ("/v1/registrations/confirm", "/v1/password-resets/confirm")
    assert [redeem(limited, paths[number % 2]).status_code for number in range(120)] == [400] * 120
    for path in paths:
        assert_limited(redeem(limited, path), HOUR)
    assert redeem(limited, paths[0], sender=1).status_code == 400


def test_a_page_counts_as_the_api_does(limited: Service) -> None:
    for _ in range(3):
        assert (
            limited.http.post(
                "/password-reset", data={"email": "ada@example.org"}, environ_overrides=client(0)
            ).status_code
            == 200
        )
    assert_limited(ask_for_reset(limited), HOUR)
    page = limited.http.post("/password-reset", data={"email": "ada@example.org"}, environ_overrides=client(0))
    assert (page.status_code, page.mimetype) == (429, "text/html")
    assert 1 <= int(page.headers["Retry-After"]) <= HOUR


def test_a_client_asks_for_an_address_five_times_a_day(limited: Service, moment: Moment) -> None:
    for ask in (register, ask_for_reset):
        assert [ask(limited).status_code for _ in range(4)] == [202, 202, 202, 429]
        moment.move(HOUR)
        assert [ask(limited).status_code for _ in range(2)] == [202, 202]
        refused = ask(limited)
        assert_limited(refused, DAY)
        assert int(refused.headers["Retry-After"]) > HOUR
        moment.move(-HOUR)


def test_sign_ins_are_charged_to_the_whole_service(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits="sign-in/service=3/5 minutes")
    statuses = [sign_in(service, f"{number}@example.org", number).status_code for number in range(4)]
    assert statuses == [401, 401, 401, 429]


def test_a_limit_ends_with_its_window(limited: Service, moment: Moment) -> None:
    for _ in range(3):
        ask_for_reset(limited)
    wait = int(ask_for_reset(limited).headers["Retry-After"])
    moment.move(wait - 1)
    assert ask_for_reset(limited).status_code == 429
    moment.move(1)
    assert ask_for_reset(limited).status_code == 202


def test_a_current_password_is_asked_for_ten_times_in_five_minutes(limited: Service) -> None:
    ada, eve = limited.register(), limited.register(email="eve@example.org")

    def change(person: Person) -> TestResponse:
        body = {"current_password": OTHER_PASSWORD, "new_password": OTHER_PASSWORD}
        return limited.http.put("/v1/account/password", json=body, headers=person.headers)

    assert [change(ada).status_code for _ in range(10)] == [403] * 10
    assert_limited(change(ada), 5 * MINUTE)
    assert change(eve).status_code == 403


# The line of the hasher


def test_a_full_line_of_the_hasher_is_no_failure(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits="")
    service.register()
    line = service.app.extensions["tiles.hasher"]._line  # noqa: SLF001 - a full line is made in no other way
    held = 0
    while line.acquire(blocking=False):
        held += 1
    with service.statements() as statements:
        assert [sign_in(service, password=PASSWORD).status_code for _ in range(3)] == [503] * 3
    assert statements == []
    line.release(held)
    assert sign_in(service, password=PASSWORD).status_code == 201


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


def test_what_cannot_be_read_is_charged_to_nobody(limited: Service) -> None:
    for _ in range(30):
        assert limited.http.post("/v1/password-resets", data="{", content_type="application/json").status_code == 400
        assert post(limited, "/v1/password-resets", {"email": "ada@example.org", "x": "y"}).status_code == 422
        assert post(limited, "/v1/password-resets", {"email": "ada@"}).status_code == 422
    assert [ask_for_reset(limited).status_code for _ in range(4)] == [202, 202, 202, 429]


# Who a client is


def reset_from(service: Service, address: str, number: int, **headers: str) -> int:
    body = {"email": f"{number}@example.org"}
    overrides = {"REMOTE_ADDR": address}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.post("/v1/password-resets", json=body, headers=given, environ_overrides=overrides).status_code


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
    make_service: Callable[..., Service], first: str, second: str, *, same: bool
) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT)
    assert reset_from(service, first, 1) == 202
    assert reset_from(service, second, 2) == (429 if same else 202)


def test_without_a_trusted_proxy_nobody_chooses_the_client_they_are(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT)
    assert reset_from(service, "192.0.2.1", 1, X_Forwarded_For="203.0.113.1") == 202
    assert reset_from(service, "192.0.2.1", 2, X_Forwarded_For="203.0.113.2") == 429
    assert reset_from(service, "192.0.2.1", 3, Forwarded="for=203.0.113.3") == 429


def test_behind_a_trusted_proxy_the_client_is_the_one_that_it_names(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT, trusted_proxies=1)
    assert reset_from(service, "192.0.2.1", 1, X_Forwarded_For="203.0.113.1") == 202
    assert reset_from(service, "192.0.2.1", 2, X_Forwarded_For="203.0.113.2") == 202
    assert reset_from(service, "192.0.2.1", 3, X_Forwarded_For="203.0.113.1") == 429


def test_behind_a_trusted_proxy_what_the_client_forged_to_the_left_is_ignored(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT, trusted_proxies=1)
    assert reset_from(service, "192.0.2.1", 1, X_Forwarded_For="198.51.100.1, 203.0.113.1") == 202
    assert reset_from(service, "192.0.2.1", 2, X_Forwarded_For="198.51.100.2, 203.0.113.1") == 429


def test_behind_two_trusted_proxies_the_client_is_the_second_from_the_right(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(rate_limits=ONE_A_CLIENT, trusted_proxies=2)
    assert reset_from(service, "192.0.2.1", 1, X_Forwarded_For="198.51.100.1, 203.0.113.1, 192.0.2.9") == 202
    assert reset_from(service, "192.0.2.1", 2, X_Forwarded_For="198.51.100.2, 203.0.113.1, 192.0.2.8") == 429


# Many processes


def stored_in(url: str) -> dict[bytes, tuple[bytes, int]]:
    """Return every key of a Redis with its value and the milliseconds that it still lives."""
    with redis.from_url(url) as connection:
        return {key: (connection.get(key) or b"", connection.pttl(key)) for key in connection.scan_iter()}


def test_two_processes_share_what_they_count_in_redis(make_service: Callable[..., Service], clean_redis: str) -> None:
    one, other = (make_service(rate_limits="", redis_url=clean_redis) for _ in range(2))
    assert [ask_for_reset(service).status_code for service in (one, other, one, other, one)] == [202] * 3 + [429] * 2


def test_what_redis_holds_names_nobody_and_ends(make_service: Callable[..., Service], clean_redis: str) -> None:
    service = make_service(rate_limits="", redis_url=clean_redis)
    for ask in (sign_in, register, ask_for_reset):
        # No letter of this name is a hexadecimal one but the e.
        ask(service, "quentin@example.org", sender=7)
    found = stored_in(clean_redis)
    told = repr(found).lower()
    assert all(secret not in told for secret in ("quentin", "example", "198.18", "wrong"))
    assert len(found) > len(LIMITS) / 2
    assert all(0 < lives <= MONTH * 1000 for _, lives in found.values())


def test_the_keys_change_with_the_window_and_end_with_it(
    make_service: Callable[..., Service], clean_redis: str, moment: Moment
) -> None:
    service = make_service(rate_limits="", redis_url=clean_redis)
    ask_for_reset(service)
    before = stored_in(clean_redis)
    keys = {value: lives / 1000 for value, lives in before.values() if len(value) == 32}
    rests = [window - moment.now % window for window in (5 * MINUTE, HOUR, DAY)]
    # Redis counts by its own clock, which goes on meanwhile: not a second after the window, and not long before.
    assert all(rest - 60 < lives <= rest for lives, rest in zip(sorted(keys.values()), rests, strict=True))
    moment.move(DAY)
    ask_for_reset(service)
    since = {name: value for name, (value, _) in stored_in(clean_redis).items() if name not in before}
    assert len(since) == len(before)
    assert not keys.keys() & since.values()


# Redis goes and comes


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that can be stopped."""
    with RedisServer(needs("redis-server"), tmp_path) as server:
        yield server


def test_without_redis_requests_are_answered_and_counted_in_the_process(
    make_service: Callable[..., Service],
    outage: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "ALONE_SECONDS", 0)
    service = make_service(rate_limits="", redis_url=outage.url)
    assert ask_for_reset(service).status_code == 202
    outage.stop()
    assert [ask_for_reset(service).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert "Redis is away" in caplog.text
    assert "ada" not in caplog.text
    outage.start()
    assert [ask_for_reset(service).status_code for _ in range(4)] == [202, 202, 202, 429]


def test_a_redis_that_hangs_is_asked_once_and_then_left_alone_for_a_while(
    make_service: Callable[..., Service], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "REDIS_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        service = make_service(rate_limits="", redis_url=url)
        assert [ask_for_reset(service).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert caplog.text.count("Redis is away") == 1


def test_processes_share_their_counts_again_when_redis_is_back_with_nothing(
    make_service: Callable[..., Service], outage: RedisServer
) -> None:
    old = make_service(rate_limits="", redis_url=outage.url)
    ask_for_reset(old)
    outage.stop()
    outage.start()
    new = make_service(rate_limits="", redis_url=outage.url)
    assert [ask_for_reset(service).status_code for service in (new, old, new, old, new)] == [202] * 3 + [429] * 2


def test_the_service_starts_without_its_redis(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits="", redis_url=f"redis://127.0.0.1:{free_port()}/0")
    assert [ask_for_reset(service).status_code for _ in range(4)] == [202, 202, 202, 429]


# Settings


def test_an_operator_changes_one_limit_and_keeps_the_others(
    make_service: Callable[..., Service], moment: Moment
) -> None:
    service = make_service(rate_limits=" password-reset/address+client = 1/hour ; 2/day , token/client=2/hour ")
    assert [ask_for_reset(service).status_code for _ in range(2)] == [202, 429]
    moment.move(HOUR)
    assert [ask_for_reset(service).status_code for _ in range(2)] == [202, 429]
    moment.move(HOUR)
    assert ask_for_reset(service).status_code == 429
    assert [redeem(service, "/v1/registrations/confirm").status_code for _ in range(3)] == [400, 400, 429]
    assert [register(service).status_code for _ in range(4)] == [202, 202, 202, 429]


@pytest.mark.parametrize("off", ["off", " OFF "])
def test_off_limits_nothing(make_service: Callable[..., Service], off: str) -> None:
    service = make_service(rate_limits=off)
    assert {ask_for_reset(service).status_code for _ in range(60)} == {202}


@pytest.mark.parametrize(
    "changes", ["on", "sign-in", "sign-in/client", "sign-in/client=", "sign-in/client=5", "sign-in/client=5/fortnight",
                "sign-in/client=-1/hour", "kilimanjaro/client=1/hour", "sign-in/client:1/hour",
                "sign-in/client=1/hour/x"],
)  # fmt: skip
def test_limits_that_make_no_sense_stop_the_start(make_service: Callable[..., Service], changes: str) -> None:
    with pytest.raises(SettingsError, match=r"^TILES_RATE_LIMITS: "):
        make_service(rate_limits=changes)


def test_what_is_counted_in_a_process_is_bounded_however_many_names_are_tried(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MOST_KEYS", 100)
    service = make_service(rate_limits="password-reset/client=100000/hour")
    with service.app.app_context():
        counter = throttle.throttle()
        for number in range(1_000):
            counter.charge("password-reset", client="127.0.0.1", address=f"{number}@example.org")
        windows = counter._own._storage._windows.values()  # noqa: SLF001 - no answer shows what memory holds
    assert all(len(counts) <= 100 for _, counts in windows)
