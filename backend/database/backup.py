"""Backups of SQLite: a complete copy, taken while others write, and restored in place of the database.

`VACUUM INTO` copies rows and not pages, so that the copy has no byte of a deleted row. The online backup would.
"""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from backend.database.engine import SQLITE_BUSY_SECONDS, db
from backend.database.schema import versions
from backend.errors import Impossible
from backend.files import sync

# The bytes that each connection in WAL mode locks (SQLite's os.h: SHARED_SIZE, SHARED_FIRST).
IN_USE = (510, 0x40000002)


class Copied(NamedTuple):
    """The version of a copy's schema, and its size."""

    schema: str
    bytes: int


def database() -> Path:
    """Return the path of SQLite's file."""
    return Path(str(db.engine.url.database))


def make(file: Path) -> Copied:
    """Copy the database into a new file, which appears when it is complete, checked and on the disk.

    Raises:
        Impossible: the file exists or cannot be written, or the database is missing or damaged.
    """
    with _draft(file) as draft:
        if file.exists():
            raise FileExistsError
        copied = _copy(database(), draft, "rw")
        # Unlike a rename, a link never replaces a file that somebody else made meanwhile.
        os.link(draft, file)
        sync(file.parent)
    return copied


def restore(file: Path) -> Copied:
    """Replace the database by a backup.

    Raises:
        Impossible: the file is no backup that this release can read, or the database is in use; nothing changed.
    """
    place = database()
    with _draft(place) as draft:
        copied = _copy(file, draft, "ro")
        if copied.schema not in versions():
            raise Impossible(f"{file} is of a newer release ({copied.schema}): install that one")
        if os.geteuid() == 0:
            # Root may restore for the service's own user.
            owner = (place if place.exists() else place.parent).stat()
            os.chown(draft, owner.st_uid, owner.st_gid)
        with _exclusive(place):
            # SQLite would mix the old database's log with the new database.
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{place}{suffix}").unlink(missing_ok=True)
            sync(place.parent)
            draft.replace(place)
            sync(place.parent)
    return copied


@contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """Make an empty file beside the one to be written, and delete it at the end."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield draft
    except FileExistsError:
        raise Impossible(f"{file} exists: name a new file") from None
    except OSError as error:
        raise Impossible(f"{file} cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _copy(source: Path, draft: Path, mode: str) -> Copied:
    try:
        if not source.is_file():
            raise Impossible(f"{source}: there is no such database")
    except OSError as error:
        raise Impossible(f"{source} cannot be read ({error.strerror})") from None
    try:
        with closing(_open(source, mode)) as connection:
            connection.execute("VACUUM INTO ?", (str(draft),))
        schema = _check(draft)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        if code in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}:
            raise Impossible(f"{source} is no database, or a damaged one ({code})") from None
        raise Impossible(f"{source} cannot be copied: is it locked, or is the disk full? ({code})") from None
    sync(draft)
    return Copied(schema, draft.stat().st_size)


def _open(file: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(file.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=SQLITE_BUSY_SECONDS)


def _check(copy: Path) -> str:
    """Return the version of the schema of a copy that SQLite finds intact."""
    with closing(_open(copy, "ro")) as connection:
        if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise Impossible("the database is damaged: restore a backup, with `tiles restore`")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            raise Impossible("this is no database of TILES accounts; a new one is made with `tiles db upgrade`")
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@contextmanager
def _exclusive(file: Path) -> Iterator[None]:
    """Hold a lock that keeps every process out of the database, even a damaged one."""
    if not file.exists():
        yield
        return
    with file.open("r+b") as locked:
        try:
            fcntl.lockf(locked, fcntl.LOCK_EX | fcntl.LOCK_NB, *IN_USE)
        except (BlockingIOError, PermissionError):
            raise Impossible("the database is in use: stop every `tiles serve` and `tiles mail work` first") from None
        yield
