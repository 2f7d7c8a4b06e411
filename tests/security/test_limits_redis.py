"""Limits counted in Redis: shared by processes, without names, and replaced by local counts if Redis fails."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import needs
from journeys import MakeService
from limits_steps import DAY, HOUR, MINUTE, MONTH, Moment, ask_for_reset, register, sign_in, stop_time
from peers import RedisServer
from support import OTHER_PASSWORD, any_database

from backend.security import throttle
from backend.security.throttle import LIMITS

# Limits are charged before any look-up.
pytestmark = any_database


@pytest.fixture(autouse=True)
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    return stop_time(monkeypatch)


@pytest.fixture
def clean_redis(redis_url: str) -> str:
    """An empty Redis."""
    with redis.from_url(redis_url) as connection:
        connection.flushall()
    return redis_url


def stored_in(url: str) -> dict[bytes, tuple[bytes, int]]:
    """Return every key of a Redis with its value and its remaining lifetime in milliseconds."""
    with redis.from_url(url) as connection:
        return {key: (connection.get(key) or b"", connection.pttl(key)) for key in connection.scan_iter()}


def test_two_processes_share_their_counts_in_redis(make_service: MakeService, clean_redis: str) -> None:
    first, second = (make_service(rate_limits="", redis_url=clean_redis) for _ in range(2))
    statuses = [ask_for_reset(service).status_code for service in (first, second, first, second, first)]
    assert statuses == [202] * 3 + [429] * 2


def test_a_reset_ends_a_sign_in_lock_in_redis_too(make_service: MakeService, clean_redis: str) -> None:
    service = make_service(rate_limits="sign-in/address+client=3/5 minutes", redis_url=clean_redis)
    service.register()
    statuses = [service.sign_in(password="not that one").status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    assert service.reset(service.ask_for_reset("ada@example.org")).status_code == 204
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201


def test_redis_holds_no_name_and_every_key_expires(make_service: MakeService, clean_redis: str) -> None:
    service = make_service(rate_limits="", redis_url=clean_redis)
    for ask in (sign_in, register, ask_for_reset):
        # Hexadecimal digests cannot contain this name.
        ask(service, "quentin@example.org", sender=7)
    stored = stored_in(clean_redis)
    content = repr(stored).lower()
    assert all(secret not in content for secret in ("quentin", "example", "198.18", "wrong"))
    assert len(stored) > len(LIMITS) / 2
    assert all(0 < lives <= MONTH * 1000 for _, lives in stored.values())


def test_keys_change_and_expire_with_their_window(make_service: MakeService, clean_redis: str, moment: Moment) -> None:
    service = make_service(rate_limits="", redis_url=clean_redis)
    ask_for_reset(service)
    before = stored_in(clean_redis)
    keys = {value: lives / 1000 for value, lives in before.values() if len(value) == 32}
    lifetimes = [window - moment.now % window for window in (5 * MINUTE, HOUR, DAY)]
    # Redis counts down with its own clock, so the keys are already some moments old.
    assert all(full - 60 < left <= full for left, full in zip(sorted(keys.values()), lifetimes, strict=True))
    moment.move(DAY)
    ask_for_reset(service)
    since = {name: value for name, (value, _) in stored_in(clean_redis).items() if name not in before}
    assert len(since) == len(before)
    assert not keys.keys() & since.values()


# Outages of Redis


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that can be stopped."""
    with RedisServer(needs("redis-server"), tmp_path) as server:
        yield server


def test_without_redis_requests_are_answered_and_counted_in_the_process(
    make_service: MakeService,
    outage: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "ALONE_SECONDS", 0)
    service = make_service(rate_limits="", redis_url=outage.url)
    assert ask_for_reset(service).status_code == 202
    outage.stop()
    # This process starts while Redis is unreachable.
    for each in (service, make_service(rate_limits="", redis_url=outage.url)):
        assert [ask_for_reset(each).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert "Redis is away" in caplog.text
    assert "ada" not in caplog.text
    outage.start()
    other = make_service(rate_limits="", redis_url=outage.url)
    statuses = [ask_for_reset(each).status_code for each in (other, service, other, service, other)]
    assert statuses == [202] * 3 + [429] * 2


def test_a_redis_that_hangs_is_tried_once_and_then_skipped_for_a_while(
    make_service: MakeService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "REDIS_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        service = make_service(rate_limits="", redis_url=url)
        assert [ask_for_reset(service).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert caplog.text.count("Redis is away") == 1
