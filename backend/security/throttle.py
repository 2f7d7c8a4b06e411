"""Limits: charged before any look-up, under keys that nobody can link to a person later."""

import hashlib
import hmac
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from flask import Flask, current_app
from limits import RateLimitItem, parse_many
from limits.storage import RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter

from backend.config import SettingsError, settings
from backend.errors import TooManyRequests
from backend.security.clients import mailbox, networks

LIMITS = {
    # Before a body is read: more than any app sends, and less than keeps a processor.
    "request/client": "600/5 minutes",
    "sign-in/client": "50/5 minutes",
    "sign-in/address+client": "10/5 minutes",
    # More than a thousand clients may send together, so that they do not shut it for everybody.
    "sign-in/service": "100000/5 minutes",
    "registration/client": "20/hour",
    "registration/address+client": "3/hour; 5/day",
    "password-reset/client": "20/hour",
    "password-reset/address+client": "3/hour; 5/day",
    "erasure-request/client": "20/hour",
    "erasure-request/address+client": "3/hour; 5/day",
    "email-change/account": "10/hour",
    "email-change/address": "5/hour",
    "token/client": "120/hour",
    "password/account": "10/5 minutes",
    "feedback/client": "10/hour",
    "feedback/account": "10/hour",
}
OFF = "off"
NETWORK_SIZES = (1, 2, 4)
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
# The kind of limit, what is counted, and how many times the limit's amount it may have.
_Subject = tuple[str, str, int]


def _of_client(client: str | None, address: str | None) -> Iterator[_Subject]:
    around = networks(client) if client else []
    for network, times in around:
        yield "client", network, times
    if address:
        for network, times in around:
            yield "address+client", f"{mailbox(address)}\0{network}", times


class Throttle:
    """The table of limits and where they are counted: in Redis for all processes, else in this one."""

    def __init__(self, limits: dict[str, list[RateLimitItem]], redis_url: str | None) -> None:
        """Count in Redis when there is a URL; for a while after it failed, count in this process."""
        self._limits = {
            (name, times): [type(item)(item.amount * times, item.multiples) for item in items]
            for name, items in limits.items()
            for times in NETWORK_SIZES
        }
        self._own = _Counter(_WindowStorage())
        self._shared = _Counter(_redis(redis_url)) if redis_url else self._own
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
        """Charge one to each subject's limit in a scope, the narrowest culprit first.

        Raises:
            TooManyRequests: a limit is reached; what comes after it in the order is not charged.
        """
        around = list(_of_client(client, address))
        # A network that is refused leaves no trace of the many clients that it may name, and a client none in it.
        self._apply(_Counter.test, scope, (subject for subject in around if subject[2] > 1))
        self._apply(_Counter.hit, scope, around)
        whole = {"account": account, "address": mailbox(address) if address else None, "service": service}
        self._apply(_Counter.hit, scope, ((kind, subject, 1) for kind, subject in whole.items() if subject))

    def clear(self, scope: str, *, client: str | None, address: str) -> None:
        """Forget what was charged to a client for an address."""
        of_both = (subject for subject in _of_client(client, address) if subject[0] == "address+client")
        self._apply(_Counter.clear, scope, of_both)

    def _apply(self, action: _Action, scope: str, subjects: Iterable[_Subject]) -> None:
        for kind, subject, times in subjects:
            name = f"{scope}/{kind}"
            for item in self._limits.get((name, times), ()):
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


def init_app(app: Flask) -> None:
    """Give the app its limits."""
    with app.app_context():
        changes, redis_url = settings().rate_limits, settings().redis_url
    app.extensions["tiles.throttle"] = Throttle(parse_limits(changes), redis_url)


def throttle() -> Throttle:
    """Return the limits of the current app."""
    found: Throttle = current_app.extensions["tiles.throttle"]
    return found
