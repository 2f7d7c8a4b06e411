"""Limits: charged before any look-up, counted under keys that cannot be linked to a person later."""

import hmac
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flask import Flask, current_app
from limits import RateLimitItem, parse_many
from limits.storage import RedisStorage

from backend.config import SettingsError, settings
from backend.errors import TooManyRequests
from backend.security.clients import NETWORK_SIZES, mailbox, networks

LIMITS = {
    # Charged before a body is read: far more than any app sends.
    "request/client": "600/5 minutes",
    "sign-in/client": "50/5 minutes",
    "sign-in/address+client": "10/5 minutes",
    # It takes more than a thousand clients together to shut sign-in for everybody.
    "sign-in/service": "100000/5 minutes",
    "registration/client": "20/hour",
    "registration/address+client": "3/hour; 5/day",
    "password-reset/client": "20/hour",
    "password-reset/address+client": "3/hour; 5/day",
    "erasure-request/client": "20/hour",
    "erasure-request/address+client": "3/hour; 5/day",
    "desk-sign-in/client": "20/hour",
    "desk-sign-in/address+client": "3/hour; 5/day",
    "email-change/account": "10/hour",
    "email-change/address": "5/hour",
    "token/client": "120/hour",
    "password/account": "10/5 minutes",
    "feedback/client": "10/hour",
    "feedback/account": "10/hour",
}
OFF = "off"
REDIS_SECONDS = 1
ALONE_SECONDS = 10.0
MOST_KEYS = 100_000

log = logging.getLogger(__name__)


class _Window(NamedTuple):
    """Counts of one window, and the random key that is forgotten with it."""

    number: int
    key: bytes
    counts: dict[str, int]


class _ProcessCounts:
    """Counts in this process. A window that has `MOST_KEYS` begins anew, which bounds the memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.windows: dict[int, _Window] = {}

    def _window(self, seconds: int) -> _Window:
        number = int(time.time()) // seconds
        window = self.windows.get(seconds)
        if window is None or window.number != number or len(window.counts) >= MOST_KEYS:
            window = self.windows[seconds] = _Window(number, secrets.token_bytes(32), {})
        return window

    def window_key(self, seconds: int) -> bytes:
        with self._lock:
            return self._window(seconds).key

    def incr(self, key: str, expiry: int) -> int:
        with self._lock:
            counts = self._window(expiry).counts
            counts[key] = counts.get(key, 0) + 1
            return counts[key]

    def get(self, key: str) -> int:
        with self._lock:
            return next((window.counts[key] for window in self.windows.values() if key in window.counts), 0)

    def clear(self, key: str) -> None:
        with self._lock:
            for window in self.windows.values():
                window.counts.pop(key, None)


class _RedisCounts(RedisStorage):
    """Counts in Redis for all processes."""

    def window_key(self, seconds: int) -> bytes:
        number, passed = divmod(int(time.time()), seconds)
        key = secrets.token_bytes(32)
        name = f"tiles:window:{seconds}:{number}"
        agreed = self.storage.set(name, key, nx=True, get=True, ex=seconds - passed)
        return agreed if isinstance(agreed, bytes) else key


_Counts = _ProcessCounts | _RedisCounts
_Action = Callable[[_Counts, RateLimitItem, str], bool]


def _key(counts: _Counts, item: RateLimitItem, name: str, subject: str) -> str:
    digest = hmac.digest(counts.window_key(item.get_expiry()), f"{name}\0{subject}".encode(), "sha256")
    return item.key_for(f"{name}:{digest.hex()[:32]}")


def _charge(counts: _Counts, item: RateLimitItem, key: str) -> bool:
    return counts.incr(key, item.get_expiry()) <= item.amount


def _test(counts: _Counts, item: RateLimitItem, key: str) -> bool:
    return counts.get(key) < item.amount


def _clear(counts: _Counts, item: RateLimitItem, key: str) -> bool:  # noqa: ARG001 - as the two above
    counts.clear(key)
    return True


class _Subject(NamedTuple):
    kind: str
    name: str
    times: int


def _around(client: str | None, mailbox_: str | None) -> list[_Subject]:
    """Return a client and the networks around it, alone and together with an address."""
    around = networks(client) if client else []
    alone = [_Subject("client", network, times) for network, times in around]
    if mailbox_ is None:
        return alone
    return alone + [_Subject("address+client", f"{mailbox_}\0{network}", times) for network, times in around]


class Throttle:
    """Counts in Redis when there is a URL. After Redis failed, counts in this process for `ALONE_SECONDS`."""

    def __init__(self, limits: dict[str, list[RateLimitItem]], redis_url: str | None) -> None:
        """Scale each limit for the networks around a client."""
        self._limits = {
            (name, times): [type(item)(item.amount * times, item.multiples) for item in items]
            for name, items in limits.items()
            for times in NETWORK_SIZES
        }
        self._own = _ProcessCounts()
        self._redis = None
        if redis_url:
            self._redis = _RedisCounts(redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
        self._alone_until = 0.0

    def charge(
        self,
        scope: str,
        *,
        client: str | None = None,
        address: str | None = None,
        account: str | None = None,
        service: str | None = None,
    ) -> None:
        """Charge one to each subject's limit in a scope, the narrowest first.

        Raises:
            TooManyRequests: a limit is reached. The subjects after it are not charged.
        """
        mailbox_ = mailbox(address) if address else None
        around = _around(client, mailbox_)
        # A client in a network that has reached its limit is not counted: the network could name very many.
        self._apply(_test, scope, [subject for subject in around if subject.times > 1])
        whole = {"account": account, "address": mailbox_, "service": service}
        self._apply(_charge, scope, around + [_Subject(kind, name, 1) for kind, name in whole.items() if name])

    def clear(self, scope: str, *, client: str | None, address: str) -> None:
        """Forget what was charged to a client for an address."""
        around = _around(client, mailbox(address))
        self._apply(_clear, scope, [subject for subject in around if subject.kind == "address+client"])

    def _apply(self, action: _Action, scope: str, subjects: Sequence[_Subject]) -> None:
        for subject in subjects:
            name = f"{scope}/{subject.kind}"
            for item in self._limits.get((name, subject.times), ()):
                if not self._count(action, item, name, subject.name):
                    seconds = item.get_expiry()
                    raise TooManyRequests(retry_after=math.ceil(seconds - time.time() % seconds))

    def _count(self, action: _Action, item: RateLimitItem, name: str, subject: str) -> bool:
        if self._redis and time.time() >= self._alone_until:
            try:
                allowed = action(self._redis, item, _key(self._redis, item, name, subject))
            except self._redis.base_exceptions as error:
                # A Redis that hangs would cost every request several time-outs.
                self._alone_until = time.time() + ALONE_SECONDS
                log.warning("Redis is away (%s): limits are counted in this process", type(error).__name__)
            else:
                if action is not _clear:
                    return allowed
        return action(self._own, item, _key(self._own, item, name, subject))


def parse_limits(changes: str) -> dict[str, list[RateLimitItem]]:
    """Return the limits with the operator's changes, or no limits for `off`.

    Raises:
        SettingsError: a change names no limit, or has no valid value.
    """
    if changes.strip().lower() == OFF:
        return {}
    table = dict(LIMITS)
    for change in filter(None, (part.strip() for part in changes.split(","))):
        name, _, value = (part.strip() for part in change.partition("="))
        if name not in table:
            msg = f"TILES_RATE_LIMITS: name one of {', '.join(table)} before the =, or write off"
            raise SettingsError(msg)
        table[name] = value
    try:
        limits = {name: parse_many(value) for name, value in table.items()}
    except ValueError:
        limits = {}
    if not limits or any(item.amount < 1 for items in limits.values() for item in items):
        raise SettingsError("TILES_RATE_LIMITS: write a limit as 10/5 minutes, of 1 or more; several, divided by ;")
    return limits


def init_app(app: Flask) -> None:
    """Give the app its limits."""
    with app.app_context():
        changes, redis_url = settings().rate_limits, settings().redis_url
    app.extensions["tiles.throttle"] = Throttle(parse_limits(changes), redis_url)


def throttle() -> Throttle:
    """Return the limits of the current app."""
    current: Throttle = current_app.extensions["tiles.throttle"]
    return current
