"""Limits: charged before any look-up, under keys that nobody can link to a person later."""

import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
import time

from flask import Flask, current_app
from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter
from redis import RedisError

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
    "token/client": "60/hour",
    "password/account": "10/5 minutes",
}
OFF = "off"
IPV6_CLIENT_PREFIX = 64
REDIS_SECONDS = 1

log = logging.getLogger(__name__)


class _Counter:
    """Counts in one storage, every subject under an HMAC whose key is random and ends with its window."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._limiter = FixedWindowRateLimiter(storage)
        self._keys: dict[int, tuple[int, bytes]] = {}

    def _window_key(self, item: RateLimitItem) -> bytes:
        seconds = item.get_expiry()
        window = int(time.time()) // seconds
        known, key = self._keys.get(seconds, (None, b""))
        if known != window:
            key = self._shared_key(f"tiles:window:{seconds}:{window}", seconds)
            self._keys[seconds] = (window, key)
        return key

    def _shared_key(self, name: str, seconds: int) -> bytes:
        """Agree with every other process on a random key that nobody keeps after its window."""
        key = secrets.token_bytes(32)
        if isinstance(self._storage, RedisStorage):
            redis = self._storage.storage
            redis.set(name, key, nx=True, ex=seconds)
            key = redis.get(name) or key
        return key

    def _subject(self, item: RateLimitItem, name: str, subject: str) -> str:
        digest = hmac.digest(self._window_key(item), f"{name}\0{subject}".encode(), hashlib.sha256)
        return f"{name}:{digest.hex()[:32]}"

    def hit(self, item: RateLimitItem, name: str, subject: str) -> int:
        """Charge one; return 0, or the seconds to wait when the limit was reached already."""
        key = self._subject(item, name, subject)
        if self._limiter.hit(item, key):
            return 0
        now = time.time()
        end_of_window = (now // item.get_expiry() + 1) * item.get_expiry()
        reset = min(self._limiter.get_window_stats(item, key).reset_time, end_of_window)
        return max(1, math.ceil(reset - now))

    def clear(self, item: RateLimitItem, name: str, subject: str) -> None:
        """Forget what was charged."""
        self._limiter.clear(item, self._subject(item, name, subject))


class Throttle:
    """The table of limits and where they are counted: in Redis for all processes, else in this one."""

    def __init__(self, limits: dict[str, list[RateLimitItem]], redis_url: str | None) -> None:
        """Count in Redis when there is a URL; while Redis is away, count in this process."""
        self._limits = limits
        self._own = _Counter(MemoryStorage())
        self._shared = _Counter(_redis(redis_url)) if redis_url else self._own

    def charge(self, scope: str, **subjects: str | None) -> None:
        """Charge one to each subject's limit in a scope, the narrowest culprit first.

        Raises:
            TooManyRequests: a limit is reached; what comes after it in the order is not charged.
        """
        for kind in ("client", "account", "address", "service"):
            subject = subjects.get(kind)
            if subject is None:
                continue
            name = f"{scope}/{kind}"
            for item in self._limits.get(name, ()):
                if wait := self._hit(item, name, subject):
                    raise TooManyRequests(retry_after=wait)

    def _hit(self, item: RateLimitItem, name: str, subject: str) -> int:
        try:
            return self._shared.hit(item, name, subject)
        except RedisError as error:
            log.warning("Redis is away (%s): limits are counted in this process", type(error).__name__)
            return self._own.hit(item, name, subject)

    def clear(self, scope: str, *, address: str) -> None:
        """Forget what was charged to an address in a scope."""
        name = f"{scope}/address"
        for item in self._limits.get(name, ()):
            try:
                self._shared.clear(item, name, address)
            except RedisError:
                self._own.clear(item, name, address)


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
        return {name: parse_many(value) for name, value in table.items()}
    except ValueError:
        msg = "TILES_RATE_LIMITS: write a limit as 10/5 minutes; several, divided by ;"
        raise SettingsError(msg) from None


def client_key(address: str | None) -> str | None:
    """Return what stands for a client: its IPv4 address, or the network that one IPv6 customer is given."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, IPV6_CLIENT_PREFIX), strict=False))


def init_app(app: Flask) -> None:
    """Give the app its limits."""
    with app.app_context():
        changes, redis_url = settings().rate_limits, settings().redis_url
    app.extensions["tiles.throttle"] = Throttle(parse_limits(changes), redis_url)


def throttle() -> Throttle:
    """Return the limits of the current app."""
    found: Throttle = current_app.extensions["tiles.throttle"]
    return found
