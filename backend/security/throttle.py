"""Limits: charged before any look-up, counted under keys that cannot be linked to a person later."""

import hmac
import logging
import math
import secrets
import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar
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

log = logging.getLogger(__name__)

charged: ContextVar[set[object] | None] = ContextVar("charged", default=None)
"""The charges of a request that may be answered twice: for its second answer they are not charged again."""


class _Count(NamedTuple):
    """A limit and what it counts, such as the requests of one client for password resets."""

    limit: RateLimitItem
    kind: str
    name: bytes


class _Window(NamedTuple):
    """Counts of one window, and the HMAC of a random key that is forgotten with it."""

    number: int
    mac: hmac.HMAC
    counts: dict[bytes, int]


class _ProcessCounts:
    """Counts in this process.

    A window that has `MOST_KEYS` begins anew: that bounds the memory, and gives everybody a new allowance.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.windows: dict[int, _Window] = {}

    def _find(self, counts: Sequence[_Count]) -> list[tuple[RateLimitItem, dict[bytes, int], bytes]]:
        entries = []
        for limit, _, name in counts:
            seconds = limit.get_expiry()
            number, window = int(time.time()) // seconds, self.windows.get(seconds)
            if window is None or window.number != number or len(window.counts) >= MOST_KEYS:
                window = self.windows[seconds] = _Window(
                    number, hmac.new(secrets.token_bytes(32), digestmod="sha256"), {}
                )
            # A copy, because hmac.digest gives the GIL away, which costs a tenth of a short request.
            mac = window.mac.copy()
            mac.update(name)
            entries.append((limit, window.counts, mac.digest()))
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


class _RedisCounts(_ProcessCounts):
    """Counts in Redis for all processes. After Redis failed, counts in this process for `ALONE_SECONDS`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis = RedisStorage(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
        self._alone_until = 0.0

    def charge(self, counts: Sequence[_Count]) -> RateLimitItem | None:
        """Add one to each count, or return a limit that is reached, also by other requests at the same time."""
        if time.time() >= self._alone_until:
            try:
                return self._charge_shared(counts)
            except self._redis.base_exceptions as error:
                self._note_failure(error)
        return super().charge(counts)

    def forget(self, counts: Sequence[_Count]) -> None:
        super().forget(counts)
        if time.time() >= self._alone_until:
            try:
                for _, key in self._shared(counts):
                    self._redis.clear(key)
            except self._redis.base_exceptions as error:
                self._note_failure(error)

    def _charge_shared(self, counts: Sequence[_Count]) -> RateLimitItem | None:
        shared = self._shared(counts)
        for limit, key in shared:
            if self._redis.get(key) >= limit.amount:
                return limit
        for limit, key in shared:
            if self._redis.incr(key, limit.get_expiry()) > limit.amount:
                return limit
        return None

    def _shared(self, counts: Sequence[_Count]) -> list[tuple[RateLimitItem, str]]:
        keys = {seconds: self._window_key(seconds) for seconds in {limit.get_expiry() for limit, *_ in counts}}
        return [
            (limit, f"tiles:count:{hmac.digest(keys[limit.get_expiry()], name, 'sha256').hex()}")
            for limit, _, name in counts
        ]

    def _window_key(self, seconds: int) -> bytes:
        number, passed = divmod(int(time.time()), seconds)
        key = secrets.token_bytes(32)
        name = f"tiles:window:{seconds}:{number}"
        agreed = self._redis.storage.set(name, key, nx=True, get=True, ex=seconds - passed)
        return agreed if isinstance(agreed, bytes) else key

    def _note_failure(self, error: Exception) -> None:
        # A Redis that hangs would cost every request several timeouts.
        self._alone_until = time.time() + ALONE_SECONDS
        log.warning("Redis is away (%s): limits are counted in this process", type(error).__name__)


class _Throttle(NamedTuple):
    """The limits of an app, by name and by the multiple that a network has, and their counts."""

    limits: dict[tuple[str, int], list[RateLimitItem]]
    counts: _ProcessCounts


def charge(
    scope: str,
    *,
    client: str | None = None,
    address: str | None = None,
    account: str | None = None,
    service: str | None = None,
) -> None:
    """Charge one to each limit of a scope: for each of what is given, and for each together with the address.

    Raises:
        TooManyRequests: a limit is reached. Nothing is charged: a limit on one thing never uses up another's.
    """
    earlier, this = charged.get(), (scope, client, address, account, service)
    if earlier is not None:
        if this in earlier:
            return
        earlier.add(this)
    throttle: _Throttle = current_app.extensions["tiles.throttle"]
    counts = _counts(throttle, scope, client=client, address=address, account=account, service=service)
    if counts and (limit := throttle.counts.charge(counts)):
        seconds = limit.get_expiry()
        raise TooManyRequests(retry_after=math.ceil(seconds - time.time() % seconds))


def clear(scope: str, *, client: str | None, address: str) -> None:
    """Forget what was charged to a client for an address."""
    throttle: _Throttle = current_app.extensions["tiles.throttle"]
    counts = _counts(throttle, scope, client=client, address=address)
    throttle.counts.forget([count for count in counts if count.kind == "address+client"])


def _counts(
    throttle: _Throttle, scope: str, *, address: str | None, client: str | None, **whole: str | None
) -> list[_Count]:
    subjects = [("client", network, times) for network, times in (networks(client) if client else [])]
    subjects += [(kind, name, 1) for kind, name in whole.items() if name]
    if address:
        own = mailbox(address)
        subjects += [(f"address+{kind}", f"{own}\0{name}", times) for kind, name, times in subjects]
    return [
        _Count(limit, kind, f"{scope}/{kind} {limit.amount}:{name}".encode())
        for kind, name, times in subjects
        for limit in throttle.limits.get((f"{scope}/{kind}", times), ())
    ]


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
    """Give the app its limits, each scaled for the networks around a client."""
    with app.app_context():
        config = settings()
    limits = {
        (name, times): [type(item)(item.amount * times, item.multiples) for item in items]
        for name, items in (parse_limits(config.rate_limits) if config.is_limited else {}).items()
        for times in NETWORK_SIZES
    }
    counts = _RedisCounts(config.redis_url) if config.redis_url else _ProcessCounts()
    app.extensions["tiles.throttle"] = _Throttle(limits, counts)
