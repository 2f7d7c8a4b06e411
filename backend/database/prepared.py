"""The one read that is prepared by hand: who a request in the event loop belongs to."""

import sqlite3
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.sql.compiler import SQLCompiler

from backend.database.engine import AnyRow, reading
from backend.database.outbox import collected
from backend.errors import Overloaded


class _Compiled(NamedTuple):
    sql: str
    values: list[tuple[str, object, Callable[[Any], Any] | None]]
    columns: list[Callable[[Any], Any] | None]
    row: Callable[[Iterable[object]], AnyRow]


class PreparedRead:
    """A SELECT whose values have names. In the event loop it is compiled once, and the driver alone executes it.

    SQLAlchemy takes four times as long over it as SQLite. Everywhere else SQLAlchemy executes it.
    """

    def __init__(self, statement: Select[Any]) -> None:
        """Compile nothing before the first use."""
        self._statement = statement

    def first(self, **values: object) -> AnyRow | None:
        """Return the first row, or None if there is none.

        Raises:
            Overloaded: the event loop would have to wait; the request is answered again in a thread.
        """
        request = collected()
        if request is None or request.outbox is None:
            with reading() as session:
                return session.execute(self._statement, values).first()
        try:
            return self._first(request.outbox.connection.cursor(), values)
        except sqlite3.Error:
            request.failed = True
            raise Overloaded from None

    def _first(self, cursor: Any, values: dict[str, object]) -> AnyRow | None:  # noqa: ANN401 - the driver's
        sql, parameters, columns, row = self._compiled
        given = [values.get(name, fixed) for name, fixed, _ in parameters]
        cursor.execute(sql, [to(value) if to else value for value, (*_, to) in zip(given, parameters, strict=True)])
        found = cursor.fetchone()
        cursor.close()
        return found and row([to(value) if to else value for value, to in zip(found, columns, strict=True)])

    @cached_property
    def _compiled(self) -> _Compiled:
        dialect = sqlite.dialect()
        compiled = self._statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        bound = [compiled.binds[name] for name in compiled.positiontup or ()]
        columns = list(self._statement.exported_columns)
        return _Compiled(
            str(compiled),
            [(b.key, b.effective_value, b.type.dialect_impl(dialect).bind_processor(dialect)) for b in bound],
            [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns],
            result_tuple([str(column.key) for column in columns]),
        )
