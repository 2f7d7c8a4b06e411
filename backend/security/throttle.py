"""Limits: charged before any look-up, counted under keys that cannot be linked to a person later."""

import hmac
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

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
    "email-change/address+account": "5/hour",
    "token/client": "120/hour",
    "password/account": "10/5 minutes",
    "export/account": "30/hour",
    "feedback/client": "10/hour",
    "feedback/account": "10/hour",
}
REDIS_SECONDS = 1
ALONE_SECONDS = 10.0
MOST_KEYS = 100_000

T = TypeVar("T")
log = logging.getLogger(__name__)


class _Subject(NamedTuple):
    kind: str
    name: str
    times: int


class _Count(NamedTuple):
    """A limit, and the name of what it counts."""

    limit: RateLimitItem
    name: str

    def key(self, window_key: bytes) -> str:
        """Return the key of this count in a window; without the window's key it names nobody."""
        scope, _, subject = self.name.partition(":")
        return self.limit.key_for(f"{scope}:{hmac.digest(window_key, subject.encode(), 'sha256').hex()[:32]}")


class _Window(NamedTuple):
    """Counts of one window, and the random key that is forgotten with it."""

    number: int
    key: bytes
    counts: dict[str, int]


class _ProcessCounts:
    """Counts in this process.

    A window that has `MOST_KEYS` begins anew: that bounds the memory, and gives everybody a new allowance.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.windows: dict[int, _Window] = {}

    def _find(self, counts: Sequence[_Count]) -> list[tuple[RateLimitItem, dict[str, int], str]]:
        entries = []
        for count in counts:
            seconds = count.limit.get_expiry()
            number, window = int(time.time()) // seconds, self.windows.get(seconds)
            if window is None or window.number != number or len(window.counts) >= MOST_KEYS:
                window = self.windows[seconds] = _Window(number, secrets.token_bytes(32), {})
            entries.append((count.limit, window.counts, count.key(window.key)))
        return entries

    def charge(self, counts: Sequence[_Count]) -> RateLimitItem | None:
        """Add one to each count, or return a limit that is reached."""
        with self._lock:
            entries = self._find(counts)
            for limit, stored, key in entries:
                if stored.get(key, 0) >= limit.amount:
                    return limit
            for _, stored, key in entries:
                stored[key] = stored.get(key, 0) + 1
        return None

    def forget(self, counts: Sequence[_Count]) -> None:
        with self._lock:
            for _, stored, key in self._find(counts):
                stored.pop(key, None)


class _RedisCounts(RedisStorage):
    """Counts in Redis for all processes."""

    def _find(self, counts: Sequence[_Count]) -> list[tuple[RateLimitItem, str]]:
        keys = {seconds: self._window_key(seconds) for seconds in {count.limit.get_expiry() for count in counts}}
        return [(count.limit, count.key(keys[count.limit.get_expiry()])) for count in counts]

    def _window_key(self, seconds: int) -> bytes:
        number, passed = divmod(int(time.time()), seconds)
        key = secrets.token_bytes(32)
        name = f"tiles:window:{seconds}:{number}"
        agreed = self.storage.set(name, key, nx=True, get=True, ex=seconds - passed)
        return agreed if isinstance(agreed, bytes) else key

    def charge(self, counts: Sequence[_Count]) -> RateLimitItem | None:
        """Add one to each count, or return a limit that is reached, also by other requests at the same time."""
        entries = self._find(counts)
        for limit, key in entries:
            if self.get(key) >= limit.amount:
                return limit
        for limit, key in entries:
            if self.incr(key, limit.get_expiry()) > limit.amount:
                return limit
        return None

    def forget(self, counts: Sequence[_Count]) -> None:
        for _, key in self._find(counts):
            self.clear(key)


charged: ContextVar[set[object] | None] = ContextVar("charged", default=None)
"""The charges of a request that may be answered twice: for its second answer they are not charged again."""


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
        """Charge one to each limit of a scope.

        Raises:
            TooManyRequests: a limit is reached. Nothing is charged: a limit on one thing never uses up another's.
        """
        earlier, charge = charged.get(), (scope, client, address, account, service)
        if earlier is not None:
            if charge in earlier:
                return
            earlier.add(charge)
        mailbox_ = mailbox(address) if address else None
        of_account = f"{mailbox_}\0{account}" if mailbox_ and account else None
        whole = {"account": account, "address+account": of_account, "service": service}
        subjects = _around(client, mailbox_) + [_Subject(kind, name, 1) for kind, name in whole.items() if name]
        if counts := self._counts(scope, subjects):
            limit = self._in_redis(lambda redis: redis.charge(counts), otherwise=lambda: self._own.charge(counts))
            if limit:
                seconds = limit.get_expiry()
                raise TooManyRequests(retry_after=math.ceil(seconds - time.time() % seconds))

    def clear(self, scope: str, *, client: str | None, address: str) -> None:
        """Forget what was charged to a client for an address."""
        around = _around(client, mailbox(address))
        counts = self._counts(scope, [subject for subject in around if subject.kind == "address+client"])
        self._own.forget(counts)
        self._in_redis(lambda redis: redis.forget(counts), otherwise=lambda: None)

    def _counts(self, scope: str, subjects: Sequence[_Subject]) -> list[_Count]:
        return [
            _Count(limit, f"{scope}/{kind}:{name}")
            for kind, name, times in subjects
            for limit in self._limits.get((f"{scope}/{kind}", times), ())
        ]

    def _in_redis(self, call: Callable[[_RedisCounts], T], *, otherwise: Callable[[], T]) -> T:
        if self._redis and time.time() >= self._alone_until:
            try:
                return call(self._redis)
            except self._redis.base_exceptions as error:
                # A Redis that hangs would cost every request several time-outs.
                self._alone_until = time.time() + ALONE_SECONDS
                log.warning("Redis is away (%s): limits are counted in this process", type(error).__name__)
        return otherwise()


def parse_limits(changes: str) -> dict[str, list[RateLimitItem]]:
    """Return the limits with the operator's changes.

    Raises:
        SettingsError: a change names no limit, or has no valid value.
    """
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
        config = settings()
    limits = parse_limits(config.rate_limits) if config.is_limited else {}
    app.extensions["tiles.throttle"] = Throttle(limits, config.redis_url)


def throttle() -> Throttle:
    """Return the limits of the current app."""
    current: Throttle = current_app.extensions["tiles.throttle"]
    return current
