"""Argon2id: hash, verify with equal work, and a bounded line before both."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError
from flask import Flask, current_app

from backend.config import Settings, served_processes, settings
from backend.errors import Impossible, Overloaded
from backend.metrics import meters
from backend.security.password_rules import normalize

HASH_PREFIX = "$argon2id$v=19$"
SALT_BYTES = 16
HASH_BYTES = 32
LINE = 32
WAIT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5
LOWEST_PRIORITY = 19
# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (malloc.h).
MALLOPT = (-1, 2**30), (-3, 2**30)

ONE_HASH = "from argon2 import PasswordHasher; PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('')"

T = TypeVar("T")


class Hasher:
    """Hashes passwords, as many at a time as this process has cores, and refuses work that would wait too long.

    The wait is bounded by `WAIT_SECONDS`, memory by cores x `argon2_memory_kib`: as many threads do the work, and
    each uses its memory again. In the threads that answer requests, the allocator would keep that much for each.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the parameters from the settings (OWASP Password Storage, ASVS 5.0 appendix C)."""
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
        )
        self.cost = f"m={settings.argon2_memory_kib},t={settings.argon2_time_cost},p={settings.argon2_parallelism}"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # More than the cores only take each other's cache.
        threads = max(cores // served_processes(), 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hasher", initializer=_give_way)
        self._line = threading.BoundedSemaphore(LINE)

    def refuse_if_full(self) -> None:
        """Refuse before any other work what would be refused after it.

        Raises:
            Overloaded: the line is full.
        """
        self._enter()
        self._line.release()

    def _enter(self) -> None:
        if not self._line.acquire(blocking=False):
            meters().refused.inc()
            raise Overloaded(retry_after=RETRY_AFTER_SECONDS)

    def _in_turn(self, work: Callable[..., T], *given: object) -> T:
        self._enter()
        meters().hashes.inc()
        try:
            turn = self._pool.submit(work, *given)
            try:
                return turn.result(WAIT_SECONDS)
            except TimeoutError:
                if turn.cancel():
                    raise Overloaded(retry_after=RETRY_AFTER_SECONDS) from None
            return turn.result()
        finally:
            meters().hashes.dec()
            self._line.release()

    def hash(self, password: str) -> str:
        """Return the encoded hash of a password.

        Raises:
            Overloaded: the line is full.
        """
        try:
            return self._in_turn(self._hasher.hash, normalize(password))
        except HashingError:  # no memory for it
            raise Overloaded(retry_after=RETRY_AFTER_SECONDS) from None

    def verify(self, encoded: str | None, password: str, costs: Iterable[str] = ()) -> bool:
        """Tell whether a password has this hash; without a hash, do the same work and say no.

        The same work also where accounts have hashes of other costs: each cost's is done, whichever the hash has.

        Raises:
            Overloaded: the line is full.
        """
        own = cost_of(encoded) if encoded else self.cost
        hashes = {cost: _hash_of_nobody(cost) for cost in (*costs, self.cost)} | {own: encoded or _hash_of_nobody(own)}
        try:
            right = self._in_turn(self._verify_each, hashes, normalize(password))
        except VerificationError:  # no memory for it
            raise Overloaded(retry_after=RETRY_AFTER_SECONDS) from None
        return right[own] and encoded is not None

    def _verify_each(self, hashes: dict[str, str], password: str) -> dict[str, bool]:
        return {cost: self._verify(encoded, password) for cost, encoded in sorted(hashes.items())}

    def _verify(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerifyMismatchError, InvalidHashError):
            return False


def try_argon2() -> None:
    """Make a hash in a child process: an instruction that this processor lacks ends the process that meets it.

    Raises:
        Impossible: Argon2 was built for another processor.
    """
    child = subprocess.run([sys.executable, "-c", ONE_HASH], capture_output=True, check=False)  # noqa: S603 - fixed words
    if child.returncode == -signal.SIGILL:
        raise Impossible(
            "Argon2 was built for another processor (SIGILL): remove .venv, and run `make` on this machine"
        )


def keep_memory() -> None:
    """Keep a hash's memory for the next one, where the C library is GNU's: to clear it anew is much of the work."""
    with suppress(OSError, AttributeError):
        for parameter, value in MALLOPT:
            ctypes.CDLL(None).mallopt(parameter, value)


def _give_way() -> None:
    """Let whoever needs no hash have the processor first: on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


def cost_of(encoded: str) -> str:
    """Return the parameters with which a hash was made, as it names them: `m=19456,t=2,p=1`."""
    return encoded.split("$")[3]


def unusable_hash(cost: str) -> str:
    """Return a hash that no password matches; to verify a password against it is the same work as any other."""
    salt, digest = (b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (SALT_BYTES, HASH_BYTES))
    return f"{HASH_PREFIX}{cost}${salt}${digest}"


# What an unknown address is verified against: making one for each request would add work.
_hash_of_nobody = cache(unusable_hash)


def init_app(app: Flask) -> None:
    """Give the app its hasher."""
    with app.app_context():
        app.extensions["tiles.hasher"] = Hasher(settings())


def hasher() -> Hasher:
    """Return the hasher of the current app."""
    found: Hasher = current_app.extensions["tiles.hasher"]
    return found
