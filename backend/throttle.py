"""Limits: charged before any look-up, under keys that nobody can link to a person later."""

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from flask import Flask, current_app
from limits import RateLimitItem, parse_many
from limits.storage import RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter

from backend.config import SettingsError, settings
from backend.errors import TooManyRequests

LIMITS = {
    "sign-in/client": "50/5 minutes",
    "sign-in/address": "10/5 minutes",
    "sign-in/service": "1000/5 minutes",
    "sign-in-failures/address": "100/30 days",
    "registration/client": "20/hour",
    "registration/address": "3/hour; 5/day",
    "password-reset/client": "20/hour",
    "password-reset/address": "3/hour; 5/day",
    "erasure-request/client": "20/hour",
    "erasure-request/address": "3/hour; 5/day",
    "email-change/account": "10/hour",
    "email-change/address": "5/hour",
    "token/client": "60/hour",
    "password/account": "10/5 minutes",
    "feedback/client": "10/hour",
    "feedback/account": "10/hour",
}
OFF = "off"
IPV6_CLIENT_PREFIX = 64
REDIS_SECONDS = 1
ALONE_SECONDS = 10.0
MOST_KEYS = 100_000

log = logging.getLogger(__name__)


class _WindowStorage(Storage):
    """Counts in this process. What belongs to a window goes with it, at once: nothing is ever searched.

    Past `MOST_KEYS` a window begins anew, so that memory is bounded however many names are tried.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._windows: dict[int, tuple[int, dict[str, int]]] = {}

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = int(time.time()) // expiry
        with self._lock:
            known, counts = self._windows.get(expiry, (None, {}))
            if known != window or len(counts) >= MOST_KEYS:
                counts = {}
                self._windows[expiry] = (window, counts)
            counts[key] = counts.get(key, 0) + amount
            return counts[key]

    def get(self, key: str) -> int:
        with self._lock:
            return next((counts[key] for _, counts in self._windows.values() if key in counts), 0)

    def get_expiry(self, key: str) -> float:  # noqa: ARG002 - a window ends for all its keys
        return math.inf

    def check(self) -> bool:
        return True

    def reset(self) -> None:
        with self._lock:
            self._windows.clear()

    def clear(self, key: str) -> None:
        with self._lock:
            for _, counts in self._windows.values():
                counts.pop(key, None)


class _Counter:
    """Counts in one storage, every subject under an HMAC whose key is random and ends with its window."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._limiter = FixedWindowRateLimiter(storage)
        self._lock = threading.Lock()
        self._keys: dict[int, tuple[int, bytes]] = {}

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What the storage raises when it is away."""
        found = self._storage.base_exceptions
        return found if isinstance(found, tuple) else (found,)

    def _window_key(self, item: RateLimitItem) -> bytes:
        seconds = item.get_expiry()
        window = int(time.time()) // seconds
        if isinstance(self._storage, RedisStorage):
            rest = (window + 1) * seconds - int(time.time())
            return self._shared_key(f"tiles:window:{seconds}:{window}", rest)
        with self._lock:
            known, key = self._keys.get(seconds, (None, b""))
            if known != window:
                key = secrets.token_bytes(32)
                self._keys[seconds] = (window, key)
            return key

    def _shared_key(self, name: str, seconds: int) -> bytes:
        """Agree with every other process on a random key that nobody keeps after its window."""
        assert isinstance(self._storage, RedisStorage)
        key = secrets.token_bytes(32)
        before = self._storage.storage.set(name, key, nx=True, get=True, ex=seconds)
        return before if isinstance(before, bytes) else key

    def _subject(self, item: RateLimitItem, name: str, subject: str) -> str:
        digest = hmac.digest(self._window_key(item), f"{name}\0{subject}".encode(), hashlib.sha256)
        return f"{name}:{digest.hex()[:32]}"

    def hit(self, item: RateLimitItem, name: str, subject: str) -> int:
        """Charge one; return 0, or the seconds to wait when the limit was reached already."""
        key = self._subject(item, name, subject)
        return 0 if self._limiter.hit(item, key) else self._wait(item, key)

    def test(self, item: RateLimitItem, name: str, subject: str) -> int:
        """Charge nothing; return 0, or the seconds to wait when the limit is reached."""
        key = self._subject(item, name, subject)
        return 0 if self._limiter.test(item, key) else self._wait(item, key)

    def _wait(self, item: RateLimitItem, key: str) -> int:
        now = time.time()
        end_of_window = (now // item.get_expiry() + 1) * item.get_expiry()
        reset = min(self._limiter.get_window_stats(item, key).reset_time, end_of_window)
        return max(1, math.ceil(reset - now))

    def clear(self, item: RateLimitItem, name: str, subject: str) -> int:
        """Forget what was charged."""
        self._limiter.clear(item, self._subject(item, name, subject))
        return 0


_Action = Callable[[_Counter, RateLimitItem, str, str], int]


class Throttle:
    """The table of limits and where they are counted: in Redis for all processes, else in this one."""

    def __init__(self, limits: dict[str, list[RateLimitItem]], redis_url: str | None) -> None:
        """Count in Redis when there is a URL; for a while after it failed, count in this process."""
        self._limits = limits
        self._own = _Counter(_WindowStorage())
        self._shared = _Counter(_redis(redis_url)) if redis_url else self._own
        self._alone_until = 0.0

    def charge(self, scope: str, **subjects: str | None) -> None:
        """Charge one to each subject's limit in a scope, the narrowest culprit first.

        Raises:
            TooManyRequests: a limit is reached; what comes after it in the order is not charged.
        """
        self._apply(_Counter.hit, scope, subjects)

    def check(self, scope: str, **subjects: str | None) -> None:
        """Charge nothing, and refuse where a limit is reached.

        Raises:
            TooManyRequests: it is.
        """
        self._apply(_Counter.test, scope, subjects)

    def clear(self, scope: str, **subjects: str | None) -> None:
        """Forget what was charged."""
        self._apply(_Counter.clear, scope, subjects)

    def _apply(self, action: _Action, scope: str, subjects: dict[str, str | None]) -> None:
        for kind in ("client", "account", "address", "service"):
            subject = subjects.get(kind)
            if subject is None:
                continue
            name = f"{scope}/{kind}"
            for item in self._limits.get(name, ()):
                if wait := self._count(action, item, name, subject):
                    raise TooManyRequests(retry_after=wait)

    def _count(self, action: _Action, item: RateLimitItem, name: str, subject: str) -> int:
        if self._shared is self._own or time.time() < self._alone_until:
            return action(self._own, item, name, subject)
        if action is _Counter.clear:
            # What was counted here while Redis was away is forgotten with the rest.
            self._own.clear(item, name, subject)
        try:
            return action(self._shared, item, name, subject)
        except self._shared.failures as error:
            # A Redis that hangs would cost every request its time-out, several times over.
            self._alone_until = time.time() + ALONE_SECONDS
            log.warning("Redis is away (%s): limits are counted in this process", type(error).__name__)
        return action(self._own, item, name, subject)


def _redis(url: str) -> Storage:
    return RedisStorage(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)


def parse_limits(changes: str) -> dict[str, list[RateLimitItem]]:
    """Read the table of limits with the operator's changes; nothing is limited with `off`.

    Raises:
        SettingsError: a change names no limit, or its value is none.
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


def client_key(address: str | None) -> str:
    """Return what stands for a client: its IPv4 address, or the network that one IPv6 customer is given.

    Some proxies add the port, and some write nonsense: all who come with that share one limit.
    """
    text = (address or "").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    with suppress(OSError, ValueError):
        # As most are; the library below takes twenty times as long.
        socket.inet_pton(socket.AF_INET, text)
        return text
    try:
        ip = ipaddress.IPv6Address(text)
    except ValueError:
        return "unknown"
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), IPV6_CLIENT_PREFIX), strict=False))


def init_app(app: Flask) -> None:
    """Give the app its limits."""
    with app.app_context():
        changes, redis_url = settings().rate_limits, settings().redis_url
    app.extensions["tiles.throttle"] = Throttle(parse_limits(changes), redis_url)


def throttle() -> Throttle:
    """Return the limits of the current app."""
    found: Throttle = current_app.extensions["tiles.throttle"]
    return found
