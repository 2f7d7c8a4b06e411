"""Statements as a database's driver takes them: compiled once, executed by it alone.

The expression language makes a statement anew for each use, and a session keeps books about it: together twenty times
the work of the database itself. What is here costs a session nothing, and is for single statements only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import BindParameter, Dialect, Engine, Select, UpdateBase
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows

from backend.db import POSTGRESQL_WAIT, AnyRow, sqlite_writer

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
class Use:
    """One use of a statement, and what the driver returned for it."""

    statement: _Compiled
    parameters: Mapping[str, object] | Sequence[object]
    rows: Sequence[Sequence[object]] = ()
    changed: int = 0

    def execute(self, cursor: DBAPICursor) -> None:
        """Execute it in whatever transaction there is."""
        self.send(cursor)
        self.collect(cursor)

    def send(self, cursor: DBAPICursor) -> None:
        """Have the driver execute it; in a pipeline, at its end."""
        send(cursor, self.statement.sql, self.parameters)

    def collect(self, cursor: DBAPICursor) -> None:
        """Take what the driver returned."""
        self.rows = cursor.fetchall() if self.statement.row else ()
        self.changed = len(self.rows) or cursor.rowcount


def send(cursor: DBAPICursor, sql: str, parameters: Mapping[str, object] | Sequence[object]) -> None:
    """Have the driver execute a statement: the one place where that is done past SQLAlchemy."""
    cursor.execute(sql, parameters)


def alone(engine: Engine, use: Use, *, writes: bool = False) -> None:
    """Execute one statement in a transaction of its own."""
    if engine.dialect.name == "postgresql":
        # A pipeline is a transaction, and is sent at its end: one round trip, where BEGIN and COMMIT make it three.
        with cursor_of(engine) as cursor:
            with cursor.connection.pipeline():
                cursor.connection.execute(POSTGRESQL_WAIT)
                use.send(cursor)
            use.collect(cursor)
    else:
        # SQLite needs no word for a transaction of one statement.
        with sqlite_writer if writes else nullcontext(), cursor_of(engine) as cursor:
            use.execute(cursor)


@contextmanager
def cursor_of(engine: Engine) -> Iterator[DBAPICursor]:
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
    except driver_error(engine) as error:
        if connection and engine.dialect.is_disconnect(error, connection.driver_connection, None):  # type: ignore[arg-type]
            connection.invalidate(error)
        raise translated(error, engine) from None
    finally:
        if connection:
            connection.close()


def driver_error(engine: Engine) -> type[Exception]:
    """Return what the driver raises."""
    return cast(type[Exception], engine.dialect.loaded_dbapi.Error)


def is_busy(error: BaseException | None) -> bool:
    """Tell whether all that is wrong is that another connection is writing to SQLite."""
    return getattr(error, "sqlite_errorname", None) == "SQLITE_BUSY"


def translated(error: Exception, engine: Engine) -> DBAPIError:
    """Return an error of the driver's as SQLAlchemy raises it, without what was to be stored."""
    dialect = engine.dialect
    found = DBAPIError.instance(None, None, error, driver_error(engine), hide_parameters=True, dialect=dialect)
    assert isinstance(found, DBAPIError)
    return found
