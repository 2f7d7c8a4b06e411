"""The erasure ledger: a file outside the database that says which accounts were erased, by their random ids alone.

It is older than no backup of the database: what a restore brings back is erased again from here.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from backend import clock
from backend.config import settings
from backend.errors import Impossible

NAME = "erasures.jsonl"
BASIS = "keeping a restored backup from bringing the account back, GDPR Art. 5(1)(f) and 17(1)"


def path() -> Path:
    """Return where the ledger of this instance is."""
    return settings().instance_path / NAME


@contextmanager
def opened() -> Iterator[Callable[[Mapping[uuid.UUID, datetime]], None]]:
    """Give what writes accounts down, durably, before they are erased; a line that a crash cuts off does no harm.

    Raises:
        OSError: the file cannot be opened, or does not take all of it: nothing may be erased.
    """
    file = os.open(path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(erased: Mapping[uuid.UUID, datetime]) -> None:
        lines = "".join(
            json.dumps({"account": str(id_), "erased_at": clock.rfc3339(at)}) + "\n" for id_, at in erased.items()
        )
        # The line break first: what was cut off before stays a line of its own.
        rest = b"\n" + lines.encode()
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)

    try:
        _sync_folder()
        yield append
    finally:
        os.close(file)


def _sync_folder() -> None:
    folder = os.open(path().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(ledger: Path | None = None) -> Iterator[tuple[uuid.UUID, datetime]]:
    """Return every erased account and when, from this instance's ledger or another; nothing where there is none.

    Raises:
        Impossible: the file that was named is not there, or is no ledger.
    """
    found = ledger or path()
    try:
        lines = found.read_text("utf-8").splitlines()
    except FileNotFoundError:
        if ledger is None:
            return
        raise Impossible(f"{found}: there is no such file") from None
    except (OSError, UnicodeDecodeError):
        raise Impossible(f"{found}: cannot be read as a ledger") from None
    for number, line in enumerate(lines, 1):
        try:
            if entry := _entry(line.strip("\0 ")):
                yield entry
        except (ValueError, KeyError, TypeError):
            raise Impossible(f"{found}: line {number} is none of a ledger") from None


def _entry(line: str) -> tuple[uuid.UUID, datetime] | None:
    """Return what a line says; None where a crash cut it off, for then nothing was erased, or left zeros."""
    try:
        entry = json.loads(line)
    except ValueError:
        if line and (not line.startswith("{") or line.endswith("}")):
            raise
        return None
    account, erased_at = uuid.UUID(entry["account"]), datetime.fromisoformat(entry["erased_at"])
    if erased_at.tzinfo is None:
        raise ValueError
    return account, erased_at
