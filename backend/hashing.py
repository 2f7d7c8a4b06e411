"""Argon2id: hash, verify with equal work, and a bounded line before both."""

import os
import secrets
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError
from flask import Flask, current_app

from backend.config import Settings, settings
from backend.errors import Overloaded
from backend.strength import normalize

SALT_BYTES = 16
HASH_BYTES = 32
# Half of the threads that `tiles serve` gives a process by default: the others answer whoever needs no hash.
LINE = 32
WAIT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5


class Hasher:
    """Hashes passwords, as many at a time as there are cores, and refuses work that would wait too long.

    Memory is bounded by cores x `argon2_memory_kib`, the wait by `WAIT_SECONDS`.
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
        self._nobody = self._hash_of_nobody(settings)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._places = threading.BoundedSemaphore(cores)
        self._line = threading.BoundedSemaphore(LINE)

    @staticmethod
    def _hash_of_nobody(settings: Settings) -> str:
        """Write down a hash that no password has, so that an unknown address costs the same work."""
        salt, digest = (b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (SALT_BYTES, HASH_BYTES))
        cost = f"m={settings.argon2_memory_kib},t={settings.argon2_time_cost},p={settings.argon2_parallelism}"
        return f"$argon2id$v=19${cost}${salt}${digest}"

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._line.acquire(blocking=False):
            raise Overloaded(retry_after=RETRY_AFTER_SECONDS)
        try:
            if not self._places.acquire(timeout=WAIT_SECONDS):
                raise Overloaded(retry_after=RETRY_AFTER_SECONDS)
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._line.release()

    def hash(self, password: str) -> str:
        """Return the encoded hash of a password.

        Raises:
            Overloaded: the line is full.
        """
        with self._turn():
            try:
                return self._hasher.hash(normalize(password))
            except HashingError:  # no memory for it
                raise Overloaded(retry_after=RETRY_AFTER_SECONDS) from None

    def verify(self, encoded: str | None, password: str) -> bool:
        """Tell whether a password has this hash; without a hash, do the same work and say no.

        Raises:
            Overloaded: the line is full.
        """
        with self._turn():
            try:
                right = self._hasher.verify(encoded or self._nobody, normalize(password))
            except (VerifyMismatchError, InvalidHashError):
                return False
            except VerificationError:  # no memory for it
                raise Overloaded(retry_after=RETRY_AFTER_SECONDS) from None
        return right and encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Tell whether a hash was made with other parameters than the settings name now."""
        return self._hasher.check_needs_rehash(encoded)


def init_app(app: Flask) -> None:
    """Give the app its hasher."""
    with app.app_context():
        app.extensions["tiles.hasher"] = Hasher(settings())


def hasher() -> Hasher:
    """Return the hasher of the current app."""
    found: Hasher = current_app.extensions["tiles.hasher"]
    return found
