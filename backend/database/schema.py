"""The schema's versions: which one the database has, and how it comes to this release's."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, String, column, inspect, select, table, text
from sqlalchemy.exc import OperationalError

from backend.config import settings
from backend.database.engine import db, is_locked_out, writing
from backend.errors import Impossible

MIGRATIONS = Path(__file__).parent / "migrations"
# Where Alembic notes the schema's version.
VERSION = table("alembic_version", column("version_num", String))
POSTGRESQL_MIGRATION_LOCK = 0x54494C4553
# Whoever comes after one that waits for a table waits too. Autovacuum gives way after deadlock_timeout, one second.
MIGRATION_LOCK_TIMEOUT = "2s"
MIGRATION_PAUSES = (1, 2, 4, 8, 15, 30)

log = logging.getLogger(__name__)


def versions() -> list[str]:
    """Return the versions that the schema has had, the newest last."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _version(connection: Connection) -> str | None:
    """Return the version of the schema; None where there is none yet."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.scalar(select(VERSION.c.version_num))


def upgrade(engine: Engine | None = None) -> tuple[str | None, str | None]:
    """Bring the schema to this release's version, once, however many processes try at the same time.

    It is the schema of the app's database, where no other is given. That of a later release is left as it is. On
    PostgreSQL nothing that is used by others is waited for longer than they can wait: it is tried again.

    Returns:
        The version before and the version after.

    Raises:
        Impossible: a table could not be had for a minute, or SQLite's file cannot be made.
    """
    engine = engine or db.engine
    if engine is db.engine:
        _make_file()
    for pause in (0, *MIGRATION_PAUSES):
        time.sleep(pause)
        try:
            return _upgrade(engine)
        except OperationalError as error:
            if not is_locked_out(error):
                raise
            log.warning("the schema cannot be changed now: a table is in use")
    raise Impossible(
        "the schema could not be changed, as a transaction has been open for long (see pg_stat_activity): end it, or "
        "try again when it is over; nothing was changed"
    )


def _make_file() -> None:
    if db.engine.dialect.name != "sqlite":
        return
    file = Path(str(db.engine.url.database))
    try:
        file.touch(0o600)
    except OSError as error:
        place = settings().database_place
        raise Impossible(f"{place}: the database cannot be made or written ({error.strerror})") from None


def _upgrade(engine: Engine) -> tuple[str | None, str | None]:
    with _migration_connection(engine) as connection:
        before = _version(connection)
        if _is_at_least(before, versions()[-1]):
            return before, before
        _migrate(connection)
        return before, _version(connection)


def _migrate(connection: Connection) -> None:
    # Most starts find nothing to do: what does it takes memory and a tenth of a second.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _is_at_least(version: str | None, wanted: str) -> bool:
    """Tell whether a schema version is another one or comes after it: each is a number of four digits."""
    return version is not None and version >= wanted


@contextmanager
def _migration_connection(engine: Engine) -> Iterator[Connection]:
    """Hold a lock for as long as migrations run: the database's own on PostgreSQL, the write lock on SQLite."""
    token = writing.set(True)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_MIGRATION_LOCK})
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'")
            yield connection
    finally:
        writing.reset(token)


def is_current() -> bool:
    """Tell whether the schema is this release's or a later one's, which only adds to what this release uses."""
    with db.engine.connect() as connection:
        found = _version(connection)
    return _is_at_least(found, versions()[-1])
