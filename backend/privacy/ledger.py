"""The erasure ledger: a file outside the database that says which accounts were erased, by their random ids alone.

It is older than no backup of the database: what a restore brings back is erased again from here.
"""

import fcntl
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from backend import clock
from backend.config import settings
from backend.errors import Impossible

NAME = "erasures.jsonl"
BASIS = "keeping a restored backup from bringing the account back, GDPR Art. 5(1)(f) and 17(1)"
# Each line is a JSON object, always spelled like this. Earlier releases wrote no check.
ENTRY = re.compile(
    r'\{"account": "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})", '
    r'"erased_at": "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"(?:, "check": "([0-9a-f]{8})")?\}'
)
LONGER_THAN_A_LINE = 4096
# What a crash may leave: a file that became longer before its bytes were written has zeros there.
BLANK = "\0 \r\n"


def path() -> Path:
    """Return where the ledger of this instance is."""
    return settings().instance_path / NAME


@contextmanager
def opened() -> Iterator[Callable[[Mapping[uuid.UUID, datetime]], None]]:
    """Open the ledger; return what appends accounts to it, durably, before they are erased.

    Appending writes every line or raises OSError and leaves the file as it was.

    Raises:
        OSError: the file cannot be opened: nothing may be erased.
    """
    file = os.open(path(), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _sync_folder()
        yield lambda erased: _append(file, erased)
    finally:
        os.close(file)


def _append(file: int, erased: Mapping[uuid.UUID, datetime]) -> None:
    # Of several processes none may cut off what another wrote.
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        end = _whole_end(file)
        os.ftruncate(file, end)
        try:
            rest = "".join(_line(id_, at) for id_, at in erased.items()).encode()
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, end)
            raise
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _whole_end(file: int) -> int:
    """Return where the next line begins: after the last whole one, without what a crash left of another."""
    size = os.fstat(file).st_size
    begin = max(0, size - LONGER_THAN_A_LINE)
    end = os.pread(file, LONGER_THAN_A_LINE, begin)
    whole, line_break, rest = end.rpartition(b"\n")
    if ENTRY.fullmatch(rest.decode("ascii", "replace").strip(BLANK)):
        os.write(file, b"\n")
        return size + 1
    return begin + len(whole) + len(line_break) if line_break or not begin else size


def _line(account: uuid.UUID, erased_at: datetime) -> str:
    at = clock.rfc3339(erased_at)
    return f'{{"account": "{account}", "erased_at": "{at}", "check": "{_check(str(account), at)}"}}\n'


def _check(account: str, erased_at: str) -> str:
    return f"{zlib.crc32(f'{account} {erased_at}'.encode()):08x}"


def _sync_folder() -> None:
    folder = os.open(path().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(ledger: Path | None = None) -> Iterator[tuple[str, str]]:
    """Return every erased account and when, from this instance's ledger or another; nothing where there is none.

    An account is 32 hexadecimal digits, a time RFC 3339: 200,000 `uuid.UUID` would take a second. A line without its
    line break at the very end is what a crash left: its account was not erased.

    Raises:
        Impossible: the file that was named is not there, or is no ledger, or a line was altered.
    """
    file = ledger or path()
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        if ledger is None:
            return
        raise Impossible(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError):
        raise Impossible(f"{file}: cannot be read as a ledger") from None
    for number, line in enumerate(lines, 1):
        try:
            if entry := _entry(line):
                yield entry
        except ValueError:
            if number == len(lines) and line.strip(BLANK).startswith("{"):
                return
            raise Impossible(
                f"{file}: line {number} is no entry of a ledger, as it was altered or cut off: put the newest copy of "
                "the file in its place. Without a copy take the line out, and see what `tiles check` says of the ledger"
            ) from None


def _entry(line: str) -> tuple[str, str] | None:
    match = ENTRY.fullmatch(line) or ENTRY.fullmatch(line := line.strip(BLANK))
    if not match:
        if line:
            raise ValueError
        return None
    account, erased_at, check = match.groups()
    if check and check != _check(account, erased_at):
        raise ValueError
    datetime.fromisoformat(erased_at)
    return account.replace("-", ""), erased_at
