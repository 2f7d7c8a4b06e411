"""Statements of the busiest requests: compiled once, executed by the driver alone, and written many at a time.

The expression language makes a statement anew for each use, and a session keeps books about it: together twenty times
the work of the database itself. What is here costs a session nothing, and is for single statements only.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from flask import Flask, current_app
from sqlalchemy import BindParameter, Dialect, Engine, Select, UpdateBase
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.util.concurrency import await_, in_greenlet

from backend.db import POSTGRESQL_BEGIN, SQLITE_BUSY_SECONDS, AnyRow, db, sqlite_writer
from backend.errors import Overloaded

# SQLite itself sleeps up to a tenth of a second between two looks whether the other writer is done. Most are within
# a few milliseconds, and are looked for in each round of the event loop; with those who are not, it has pauses.
BUSY_ROUNDS_SECONDS = 0.1
BUSY_PAUSES = 0.001, 0.003
RETRY_AFTER_SECONDS = 5

_Convert = Callable[[Any], Any] | None


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement as one dialect's driver takes it, and how values go in and come out."""

    sql: str
    given: Mapping[str, _Convert]
    fixed: Mapping[str, object]
    order: Sequence[str] | None
    row: Callable[[Iterable[object]], AnyRow] | None
    converts: Sequence[tuple[int, Callable[[Any], Any]]]

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, object] | Sequence[object]:
        """Return what the driver is given besides the statement."""
        found = {name: convert(values[name]) if convert else values[name] for name, convert in self.given.items()}
        if self.order is None:
            return {**self.fixed, **found}
        return [found[name] if name in found else self.fixed[name] for name in self.order]

    def rows(self, found: Sequence[Sequence[object]]) -> list[AnyRow]:
        """Return what the driver returned, in the statement's own types."""
        return [self._row(each) for each in found]

    def _row(self, found: Sequence[object]) -> AnyRow:
        assert self.row
        row = list(found)
        for place, convert in self.converts:
            row[place] = convert(row[place])
        return self.row(row)


class Statement:
    """A statement whose values are given by name (`bindparam`) at each use."""

    def __init__(self, make: Callable[[], UpdateBase | Select[Any]]) -> None:
        """Take what makes it, once for each kind of database, when it is first needed."""
        self._make = make
        self._compiled: dict[str, _Compiled] = {}

    def compiled(self, dialect: Dialect) -> _Compiled:
        """Return it as a dialect's driver takes it."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = _compile(self._make(), dialect)
        return found


def _compile(statement: UpdateBase | Select[Any], dialect: Dialect) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)

    def convert(bound: BindParameter[Any]) -> _Convert:
        return bound.type.dialect_impl(dialect).bind_processor(dialect)

    fixed = {}
    for name, bound in compiled.binds.items():
        if not bound.required:
            to_driver = convert(bound)
            fixed[name] = to_driver(bound.effective_value) if to_driver else bound.effective_value
    columns = list(statement.exported_columns) if isinstance(statement, ReturnsRows) else []
    return _Compiled(
        sql=str(compiled),
        given={name: convert(bound) for name, bound in compiled.binds.items() if bound.required},
        fixed=fixed,
        order=compiled.positiontup if compiled.positional else None,
        row=result_tuple([str(column.key) for column in columns]) if columns else None,
        converts=[
            (place, to_python)
            for place, column in enumerate(columns)
            if (to_python := column.type.dialect_impl(dialect).result_processor(dialect, None))
        ],
    )


@dataclass(slots=True)
class _Use:
    """One use of a statement, and what the driver returned for it."""

    statement: _Compiled
    parameters: Mapping[str, object] | Sequence[object]
    rows: Sequence[Sequence[object]] = ()
    changed: int = 0

    def execute(self, cursor: DBAPICursor) -> None:
        """Execute it in whatever transaction there is."""
        send(cursor, self.statement.sql, self.parameters)
        self.rows = cursor.fetchall() if self.statement.row else ()
        self.changed = len(self.rows) or cursor.rowcount


# What is to be written, what is done when it is, and until when it may wait for another writer.
_Waiting = tuple[_Use, asyncio.Future[None], float]


def send(cursor: DBAPICursor, sql: str, parameters: Mapping[str, object] | Sequence[object]) -> None:
    """Have the driver execute a statement: the one place where that is done past SQLAlchemy."""
    cursor.execute(sql, parameters)


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
        _alone(engine, use)
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
        _alone(engine, use, writes=True)
    return use.statement.rows(use.rows), use.changed


def _database() -> tuple[Engine, "_Loop | None"]:
    """Return the app's engine, and on SQLite what its event loop executes by."""
    found: tuple[Engine, _Loop | None] = current_app.extensions["tiles.statements"]
    return found


def _use(statement: Statement, values: Mapping[str, object], engine: Engine) -> _Use:
    # Here, and not where it is executed, as a value that does not fit is nobody else's concern.
    compiled = statement.compiled(engine.dialect)
    return _Use(compiled, compiled.parameters(values))


def _alone(engine: Engine, use: _Use, *, writes: bool = False) -> None:
    """Execute one statement in a transaction of its own."""
    if engine.dialect.name == "postgresql":
        with _cursor(engine) as cursor:
            cursor.execute(POSTGRESQL_BEGIN)
            use.execute(cursor)
            cursor.execute("COMMIT")
    else:
        # SQLite needs no word for a transaction of one statement.
        with sqlite_writer if writes else nullcontext(), _cursor(engine) as cursor:
            use.execute(cursor)


@contextmanager
def _cursor(engine: Engine) -> Iterator[DBAPICursor]:
    """Give a cursor of the driver's, and take it back with its connection, whose transaction ends.

    Raises:
        DBAPIError: what the driver raises, as SQLAlchemy raises it; a connection that died is let go.
    """
    connection = None
    try:
        connection = engine.raw_connection()
        cursor = connection.cursor()
        yield cursor
        cursor.close()
    except _driver_error(engine) as error:
        if connection and engine.dialect.is_disconnect(error, connection.driver_connection, None):  # type: ignore[arg-type]
            connection.invalidate(error)
        raise _translated(error, engine) from None
    finally:
        if connection:
            connection.close()


def _driver_error(engine: Engine) -> type[Exception]:
    return cast(type[Exception], engine.dialect.loaded_dbapi.Error)


def _is_busy(error: BaseException | None) -> bool:
    """Tell whether all that is wrong is that another connection is writing to SQLite."""
    return getattr(error, "sqlite_errorname", None) == "SQLITE_BUSY"


def _translated(error: Exception, engine: Engine) -> DBAPIError:
    dialect = engine.dialect
    found = DBAPIError.instance(None, None, error, _driver_error(engine), hide_parameters=True, dialect=dialect)
    assert isinstance(found, DBAPIError)
    return found


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

    def read(self, use: _Use) -> None:
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
        except _driver_error(self._engine) as error:
            # Whatever is left of a transaction ends with it. Nothing is where another is writing.
            if self._connection and not _is_busy(error):
                self._connection.close()
                self._connection = None
            raise _translated(error, self._engine) from None

    def write(self, use: _Use) -> asyncio.Future[None]:
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
        driver_error = _driver_error(self._engine)
        begin_now(cursor)
        for use, *_ in self._waiting:
            try:
                use.execute(cursor)
            except driver_error as error:
                # Of some failures, such as a full disk, SQLite takes the whole transaction back.
                if not cursor.connection.in_transaction:
                    raise
                failures[id(use)] = _translated(error, self._engine)
        cursor.execute("COMMIT")

    def _later(self, error: Exception | None) -> None:
        """Try again soon where somebody else is writing, for as long as SQLite itself would."""
        busy = error is None or _is_busy(getattr(error, "orig", None))
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
