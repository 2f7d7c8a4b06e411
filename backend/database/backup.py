"""Backups of SQLite's database: a whole and compact copy, taken while others write, and put back in its place.

`VACUUM INTO` reads one moment of the database and holds up no writer. It copies rows, not pages, so that no byte of
what was deleted comes along, as it would with SQLite's other way, the online backup.
"""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from backend.database.engine import SQLITE_BUSY_SECONDS, db
from backend.database.schema import versions
from backend.errors import Impossible

# How many bytes, and where, each connection in WAL mode keeps locked (SQLite's os.h: SHARED_SIZE, SHARED_FIRST).
IN_USE = (510, 0x40000002)


@dataclass(frozen=True, slots=True)
class Copied:
    """The size of a copy, and at which version the schema in it is."""

    schema: str
    bytes: int


def is_possible() -> bool:
    """Tell whether the database is one file: PostgreSQL's own tools know better how to copy theirs."""
    return db.engine.dialect.name == "sqlite"


def database() -> Path:
    """Return where SQLite's database is, or is to be."""
    return Path(str(db.engine.url.database))


def make(file: Path) -> Copied:
    """Copy the database into a new file, which is on the disk, whole and checked, when it appears.

    Raises:
        Impossible: the file is there already or cannot be written, or there is no database, or a damaged one.
    """
    if file.exists():
        raise Impossible(f"{file} is there already: name a new file")
    with _draft(file) as draft:
        copied = _copy(database(), draft, "rw")
        # Unlike renaming, this never replaces what somebody else made meanwhile.
        os.link(draft, file)
        _sync(file.parent)
    return copied


def restore(file: Path) -> Copied:
    """Put a backup in the place of the database, of which nothing is left.

    Raises:
        Impossible: the file is no whole backup that this release can read, or the database is in use; nothing changed.
    """
    place = database()
    with _draft(place) as draft:
        copied = _copy(file, draft, "ro")
        if copied.schema not in versions():
            raise Impossible(f"{file} is of a newer release ({copied.schema}): install that one")
        _hand_over(draft, place if place.exists() else place.parent)
        with _out_of_use(place):
            # Beside another database the old one's log would still be read, and mixed with it. So it goes first.
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{place}{suffix}").unlink(missing_ok=True)
            _sync(place.parent)
            draft.replace(place)
            _sync(place.parent)
    return copied


@contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """Give an empty file beside the one that is to be; afterwards it is gone."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield draft
    except FileExistsError:
        raise Impossible(f"{file} is there already: name a new file") from None
    except OSError as error:
        raise Impossible(f"{file} cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _copy(source: Path, draft: Path, mode: str) -> Copied:
    """Write what is in a database into an empty file, check it, and have it on the disk."""
    if not source.is_file():
        raise Impossible(f"{source}: there is no such database")
    try:
        with closing(_open(source, mode)) as connection:
            connection.execute("VACUUM INTO ?", (str(draft),))
        schema = _checked(draft)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        if code in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}:
            raise Impossible(f"{source} is no database, or a damaged one ({code})") from None
        raise Impossible(f"{source} cannot be copied: is it locked, or is the disk full? ({code})") from None
    _sync(draft)
    return Copied(schema, draft.stat().st_size)


def _open(file: Path, mode: str) -> sqlite3.Connection:
    # As a URI, so that a file which is not there is not made.
    return sqlite3.connect(
        f"file:{quote(str(file.absolute()))}?mode={mode}", uri=True, isolation_level=None, timeout=SQLITE_BUSY_SECONDS
    )


def _checked(copy: Path) -> str:
    """Return the schema's version of a copy that SQLite finds whole."""
    with closing(_open(copy, "ro")) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise Impossible("the database is damaged: restore a backup, with `tiles restore`")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            raise Impossible("this is no database of TILES accounts; a new one is made with `tiles db upgrade`")
        (schema,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(schema)


def _hand_over(draft: Path, like: Path) -> None:
    """Give a file to whoever has the other one: root may restore for the service's own user."""
    if os.geteuid() == 0:
        known = like.stat()
        os.chown(draft, known.st_uid, known.st_gid)


@contextmanager
def _out_of_use(file: Path) -> Iterator[None]:
    """Keep every process from the database; a damaged one, too, has these locks."""
    if not file.exists():
        yield
        return
    descriptor = os.open(file, os.O_RDWR)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *IN_USE)
        except (BlockingIOError, PermissionError):
            raise Impossible("the database is in use: stop every `tiles serve` and `tiles mail work` first") from None
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
