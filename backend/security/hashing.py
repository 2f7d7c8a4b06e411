"""Argon2id: hash passwords, and verify them in equal time, with a bounded backlog."""

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
SALT_BYTES, HASH_BYTES = 16, 32
BACKLOG = 32
WAIT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5
LOWEST_PRIORITY = 19
# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX (malloc.h). By default many threads share few arenas: a small
# allocation in the middle of a hash's freed memory would make the next hash take as much again.
MALLOPT = (-1, 2**30), (-3, 2**30), (-8, 256)
ONE_HASH = "from argon2 import PasswordHasher; PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('')"

T = TypeVar("T")


class Hasher:
    """Hashes in `argon2_threads` threads of its own, and refuses work that would wait over `WAIT_SECONDS`.

    The number of threads bounds the memory: the allocator keeps `argon2_memory_kib` for every thread that has hashed.
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
        threads = settings.argon2_threads or max(cores // served_processes(), 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hasher", initializer=_lower_priority)
        self._line = threading.BoundedSemaphore(BACKLOG)

    def refuse_if_full(self) -> None:
        """Refuse a request before any other work.

        Raises:
            Overloaded: the backlog is full.
        """
        self._enter()
        self._line.release()

    def _enter(self) -> None:
        if not self._line.acquire(blocking=False):
            meters().refused.inc()
            raise Overloaded(retry_after=RETRY_AFTER_SECONDS)

    def _run(self, work: Callable[..., T], *args: object) -> T:
        self._enter()
        meters().hashes.inc()
        try:
            job = self._pool.submit(work, *args)
            try:
                return job.result(WAIT_SECONDS)
            except TimeoutError:
                if not job.cancel():
                    return job.result()
        except (HashingError, VerificationError):  # no memory for it
            pass
        finally:
            meters().hashes.dec()
            self._line.release()
        raise Overloaded(retry_after=RETRY_AFTER_SECONDS)

    def hash(self, password: str) -> str:
        """Return the encoded hash of a password.

        Raises:
            Overloaded: the backlog is full.
        """
        return self._run(self._hasher.hash, normalize(password))

    def verify(self, encoded: str | None, password: str, costs: Iterable[str] = ()) -> bool:
        """Return whether a password has this hash. Without a hash, do the same work and return False.

        Verify against one more hash of each other cost in use: the time does not reveal the cost of this hash.

        Raises:
            Overloaded: the backlog is full.
        """
        hashed = encoded or _hash_of_nobody(self.cost)
        others = sorted({self.cost, *costs} - {cost_of(hashed)})
        return self._run(self._verify_each, [hashed, *map(_hash_of_nobody, others)], normalize(password))[0]

    def _verify_each(self, hashes: list[str], password: str) -> list[bool]:
        right = [False] * len(hashes)
        for number, hashed in enumerate(hashes):
            with suppress(VerifyMismatchError, InvalidHashError):
                right[number] = self._hasher.verify(hashed, password)
        return right


def cost_of(encoded: str) -> str:
    """Return the parameters of a hash as it names them: `m=19456,t=2,p=1`."""
    return encoded.split("$")[3]


def unusable_hash(cost: str) -> str:
    """Return a hash that no password matches; verifying it takes as long as any other of this cost."""
    salt, digest = (b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (SALT_BYTES, HASH_BYTES))
    return f"{HASH_PREFIX}{cost}${salt}${digest}"


# Making one for each request would add work.
_hash_of_nobody = cache(unusable_hash)


def check_argon2() -> None:
    """Make a hash in a child process, because an instruction that the processor lacks kills the process.

    Raises:
        Impossible: Argon2 was built for another processor.
    """
    child = subprocess.run([sys.executable, "-c", ONE_HASH], capture_output=True, check=False)  # noqa: S603 - a constant
    if child.returncode == -signal.SIGILL:
        raise Impossible(
            "Argon2 was built for another processor (SIGILL): remove .venv, and run `make .venv/.runtime` here"
        )


def keep_memory() -> None:
    """Make glibc keep a hash's memory for the next hash: allocating and clearing it again takes much of the time."""
    with suppress(OSError, AttributeError):
        for parameter, value in MALLOPT:
            ctypes.CDLL(None).mallopt(parameter, value)


def _lower_priority() -> None:
    """Prefer requests that need no hash: on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


def init_app(app: Flask) -> None:
    """Give the app its hasher."""
    with app.app_context():
        app.extensions["tiles.hasher"] = Hasher(settings())


def hasher() -> Hasher:
    """Return the hasher of the current app."""
    current: Hasher = current_app.extensions["tiles.hasher"]
    return current
