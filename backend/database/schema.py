"""The schema's version in the database, and the upgrade to this release's."""

import logging
import time
from pathlib import Path

from sqlalchemy import Connection, Engine, String, column, inspect, select, table, text
from sqlalchemy.exc import OperationalError

from backend.config import settings
from backend.database.engine import db, is_lock_timeout, is_sqlite
from backend.errors import Impossible

MIGRATIONS = Path(__file__).parent / "migrations"
# Alembic's own table.
VERSION = table("alembic_version", column("version_num", String))
POSTGRESQL_MIGRATION_LOCK = 0x54494C4553
# Longer than deadlock_timeout (1 s), after which autovacuum cancels itself. Every later query waits behind ours.
MIGRATION_LOCK_TIMEOUT = "2s"
MIGRATION_PAUSES = (1, 2, 4, 8, 15, 30)

log = logging.getLogger(__name__)


def versions() -> list[str]:
    """Return every version of the schema, the newest last. Each is a number of four digits."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def is_current() -> bool:
    """Return whether the schema is this release's or a later one, which only adds to it."""
    with db.engine.connect() as connection:
        return _is_at_least(_version(connection), versions()[-1])


def upgrade(engine: Engine | None = None) -> tuple[str | None, str | None]:
    """Upgrade the schema to this release's version, once, even if several processes try at the same time.

    A later version stays as it is. On PostgreSQL, wait for locks only briefly and retry, so that no query waits long.

    Returns:
        The version before and the version after.

    Raises:
        Impossible: a table stayed locked for a minute, or SQLite's file cannot be made.
    """
    if engine is None and is_sqlite():
        _make_file()
    for pause in (0, *MIGRATION_PAUSES):
        time.sleep(pause)
        try:
            return _upgrade(engine or db.engine)
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
            log.warning("the schema cannot be changed now: a table is in use")
    raise Impossible(
        "the schema could not be changed, because a transaction has been open for long (see pg_stat_activity): end it, "
        "or try again later; nothing was changed"
    )


def _make_file() -> None:
    try:
        Path(str(db.engine.url.database)).touch(0o600)
    except OSError as error:
        place = settings().database_place
        raise Impossible(f"{place}: the database cannot be made or written ({error.strerror})") from None


def _upgrade(engine: Engine) -> tuple[str | None, str | None]:
    with engine.execution_options(writing=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_MIGRATION_LOCK})
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'")
        before = _version(connection)
        if not _is_at_least(before, versions()[-1]):
            _migrate(connection)
        return before, _version(connection)


def _version(connection: Connection) -> str | None:
    """Return the version of the schema, or None if there is none yet."""
    return connection.scalar(select(VERSION.c.version_num)) if inspect(connection).has_table(VERSION.name) else None


def _is_at_least(version: str | None, wanted: str) -> bool:
    return version is not None and version >= wanted


def _migrate(connection: Connection) -> None:
    # Importing Alembic takes memory and a tenth of a second, and most starts do not need it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
