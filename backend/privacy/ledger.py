"""The erasure ledger: a file outside the database with the random ids of the erased accounts.

It is newer than any backup of the database: after a restore, its accounts are erased again.
"""

import fcntl
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from backend import clock
from backend.config import settings
from backend.errors import Impossible
from backend.files import sync

NAME = "erasures.jsonl"
BASIS = "keeping a restored backup from bringing the account back, GDPR Art. 5(1)(f) and 17(1)"
# Each line is a JSON object in exactly this form. Earlier releases wrote no check.
ENTRY = re.compile(
    r'\{"account": "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})", '
    r'"erased_at": "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"(?:, "check": "([0-9a-f]{8})")?\}'
)
LONGER_THAN_A_LINE = 4096
# A crash may leave zeros: the file had grown, and its bytes were not written yet.
BLANK = "\0 \r\n"


def path() -> Path:
    """Return the path of this instance's ledger."""
    return settings().instance_path / NAME


@contextmanager
def opened() -> Iterator[Callable[[Mapping[uuid.UUID, datetime]], None]]:
    """Open the ledger; yield the function that appends accounts to it durably, before they are erased.

    Both raise OSError. Appending writes every line, or raises and leaves the file as it was.
    """
    file = os.open(path(), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        sync(path().parent)
        yield lambda erased: _append(file, erased)
    finally:
        os.close(file)


def _append(file: int, erased: Mapping[uuid.UUID, datetime]) -> None:
    # Locked, so that no process truncates another's line.
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        end = _end_of_last_line(file)
        os.ftruncate(file, end)
        try:
            rest = "".join(_line(account_id, at) for account_id, at in erased.items()).encode()
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, end)
            raise
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _end_of_last_line(file: int) -> int:
    """Return where the next line begins. A partial line that a crash left is to be overwritten."""
    size, length, start, line_break = os.fstat(file).st_size, LONGER_THAN_A_LINE, 1, b""
    # A crash may leave more zeros than a line is long.
    while start and not line_break:
        start = max(0, size - length)
        lines, line_break, rest = os.pread(file, length, start).rpartition(b"\n")
        length *= 2
    if ENTRY.fullmatch(rest.decode("ascii", "replace").strip(BLANK)):
        os.write(file, b"\n")
        return size + 1
    return start + len(lines) + len(line_break) if line_break or not start else size


def _line(account: uuid.UUID, erased_at: datetime) -> str:
    at = clock.rfc3339(erased_at)
    return f'{{"account": "{account}", "erased_at": "{at}", "check": "{_check(str(account), at)}"}}\n'


def _check(account: str, erased_at: str) -> str:
    return f"{zlib.crc32(f'{account} {erased_at}'.encode()):08x}"


def read(ledger: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield every erased account and when it was erased, from this instance's ledger or another.

    An account is 32 hexadecimal digits, as 200,000 `uuid.UUID` would take a second. A partial last line is skipped: a
    crash left it, and its account was not erased.

    Raises:
        Impossible: the file cannot be read, is no ledger, or a line was altered.
    """
    file = ledger or path()
    lines = _lines(file, may_be_missing=ledger is None)
    for number, line in enumerate(lines, 1):
        entry = line.strip(BLANK)
        match = ENTRY.fullmatch(entry)
        if match and _is_intact(*match.groups()):
            yield match[1].replace("-", ""), match[2]
        elif number == len(lines) and entry.startswith("{"):
            return
        elif entry:
            raise Impossible(
                f"{file}: line {number} is no entry of a ledger, as it was altered or cut off: put the newest copy of "
                "the file in its place. Without a copy take the line out, and see what `tiles check` says of the ledger"
            )


def _lines(file: Path, *, may_be_missing: bool) -> list[str]:
    try:
        return file.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        if may_be_missing:
            return []
        raise Impossible(f"{file}: there is no such file") from None
    except (OSError, UnicodeDecodeError):
        raise Impossible(f"{file}: cannot be read as a ledger") from None


def _is_intact(account: str, erased_at: str, check: str | None) -> bool:
    if check:
        return check == _check(account, erased_at)
    with suppress(ValueError):
        return bool(datetime.fromisoformat(erased_at))
    return False
