"""The busiest requests' statements: executed alone, or by the event loop, which commits many at a time."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from flask import Flask, current_app
from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util.concurrency import await_, in_greenlet

from backend.db import SQLITE_BUSY_SECONDS, AnyRow, db, sqlite_writer
from backend.driver import Statement, Use, alone, driver_error, is_busy, translated
from backend.errors import Overloaded

# SQLite itself sleeps up to a tenth of a second between two looks whether the other writer is done. Most are within
# a few milliseconds, and are looked for in each round of the event loop; with those who are not, it has pauses.
BUSY_ROUNDS_SECONDS = 0.1
BUSY_PAUSES = 0.001, 0.003
RETRY_AFTER_SECONDS = 5

# What is to be written, what is done when it is, and until when it may wait for another writer.
_Waiting = tuple[Use, asyncio.Future[None], float]


def fetch(statement: Statement, **values: object) -> list[AnyRow]:
    """Return the rows of a statement that only reads.

    Raises:
        DBAPIError: it cannot be executed; as an OperationalError, the database is away.
    """
    engine, loop = _database()
    use = _use(statement, values, engine)
    if loop and in_greenlet():
        loop.read(use)
    else:
        alone(engine, use)
    return use.statement.rows(use.rows)


def write(statement: Statement, **values: object) -> tuple[list[AnyRow], int]:
    """Execute a statement in a transaction of its own; return its rows and how many it changed, durably.

    On SQLite those whom the event loop answers at the same moment share a transaction, and so one wait for the disk. A
    statement that fails leaves the others alone.

    Raises:
        DBAPIError: it cannot be executed; as an OperationalError, the database is away.
    """
    engine, loop = _database()
    use = _use(statement, values, engine)
    if loop and in_greenlet():
        await_(loop.write(use))
    else:
        alone(engine, use, writes=True)
    return use.statement.rows(use.rows), use.changed


def _database() -> tuple[Engine, "_Loop | None"]:
    """Return the app's engine, and on SQLite what its event loop executes by."""
    found: tuple[Engine, _Loop | None] = current_app.extensions["tiles.statements"]
    return found


def _use(statement: Statement, values: Mapping[str, object], engine: Engine) -> Use:
    # Here, and not where it is executed, as a value that does not fit is nobody else's concern.
    compiled = statement.compiled(engine.dialect)
    return Use(compiled, compiled.parameters(values))


class _Loop:
    """What the event loop executes on SQLite, by a connection of its own.

    All that was asked to be written in one of its rounds is one transaction. The loop writes it itself: to hand it to a
    thread and back takes longer than the disk does. It waits for no other writer, but looks again a little later.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: PoolProxiedConnection | None = None
        self._waiting: list[_Waiting] = []
        self._busy_since: float | None = None

    def read(self, use: Use) -> None:
        """Execute what only reads."""
        self._execute(use.execute)

    def _execute(self, work: Callable[[DBAPICursor], None]) -> None:
        """Do something by the loop's connection.

        Raises:
            DBAPIError: what the driver raises, as SQLAlchemy raises it; whatever transaction there was is taken back.
        """
        try:
            # Kept, as to take one from the pool and give it back costs more than to look something up.
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            cursor = self._connection.cursor()
            work(cursor)
            cursor.close()
        except driver_error(self._engine) as error:
            # Whatever is left of a transaction ends with it. Nothing is where another is writing.
            if self._connection and not is_busy(error):
                self._connection.close()
                self._connection = None
            raise translated(error, self._engine) from None

    def write(self, use: Use) -> asyncio.Future[None]:
        """Return what is done when it is written, durably."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if not self._waiting:
            # After all that the loop has to do now, which may write too.
            loop.call_soon(self._commit)
        self._waiting.append((use, done, time.monotonic() + SQLITE_BUSY_SECONDS))
        return done

    def _commit(self) -> None:
        """Write what waits, if nobody else is writing."""
        failures = dict[int, Exception]()
        if not sqlite_writer.acquire(blocking=False):
            self._later(None)
            return
        try:
            self._execute(partial(self._write_all, failures))
        except Exception as error:  # noqa: BLE001 - each of them raises it
            self._later(error)
            return
        finally:
            sqlite_writer.release()
        written, self._waiting, self._busy_since = self._waiting, [], None
        self._tell(written, failures)

    def _write_all(self, failures: dict[int, Exception], cursor: DBAPICursor) -> None:
        """Write what waits in one transaction, and note what failed of it."""
        failure_of_one = driver_error(self._engine)
        begin_now(cursor)
        for use, *_ in self._waiting:
            try:
                use.execute(cursor)
            except failure_of_one as error:
                # Of some failures, such as a full disk, SQLite takes the whole transaction back.
                if not cursor.connection.in_transaction:
                    raise
                failures[id(use)] = translated(error, self._engine)
        cursor.execute("COMMIT")

    def _later(self, error: Exception | None) -> None:
        """Try again soon where somebody else is writing, for as long as SQLite itself would."""
        busy = error is None or is_busy(getattr(error, "orig", None))
        now = time.monotonic()
        over = [entry for entry in self._waiting if not busy or entry[2] <= now]
        self._waiting = [entry for entry in self._waiting if busy and entry[2] > now]
        failure = error or Overloaded(retry_after=RETRY_AFTER_SECONDS)
        self._tell(over, {id(use): failure for use, *_ in over})
        self._busy_since = (self._busy_since or now) if self._waiting else None
        if self._busy_since:
            rounds = now - self._busy_since < BUSY_ROUNDS_SECONDS
            pause = 0.0 if rounds else random.uniform(*BUSY_PAUSES)  # noqa: S311 - no secret
            asyncio.get_running_loop().call_later(pause, self._commit)

    def _tell(self, waiting: Sequence[_Waiting], failures: Mapping[int, Exception]) -> None:
        """Tell who waits what became of it."""
        for use, done, _ in waiting:
            # Nobody waits any more for what was cancelled.
            if done.done():
                continue
            if failure := failures.get(id(use)):
                done.set_exception(failure)
            else:
                done.set_result(None)


def begin_now(cursor: DBAPICursor) -> None:
    """Become the only writer at once, or not at all."""
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        cursor.execute("BEGIN IMMEDIATE")
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000}")


def init_app(app: Flask) -> None:
    """Let the app's writes share transactions where the database has one writer at a time."""
    with app.app_context():
        loop = _Loop(db.engine) if db.engine.dialect.name == "sqlite" else None
        app.extensions["tiles.statements"] = db.engine, loop
