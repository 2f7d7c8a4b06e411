"""The one read of the event loop: the account and the session of a request."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.sql.compiler import SQLCompiler

from backend.database.engine import AnyRow, reading
from backend.database.outbox import collected
from backend.errors import Overloaded

DIALECT = sqlite.dialect()
Convert = Callable[[Any], Any]


class PreparedRead:
    """A SELECT that is compiled once, because SQLAlchemy takes four times as long to execute it as SQLite."""

    def __init__(self, statement: Select[Any]) -> None:
        """Keep the statement; compile it at its first use."""
        self._statement = statement

    def first(self, **values: object) -> AnyRow | None:
        """Return the first row, or None if there is none.

        Raises:
            Overloaded: the event loop would have to wait; a thread answers the request again.
        """
        request = collected.get()
        if request is None or request.outbox is None:
            with reading() as session:
                return session.execute(self._statement, values).first()
        sql, parameters, converters, make_row = self._compiled
        bound = [convert(values.get(name, default)) for name, default, convert in parameters]
        try:
            rows = request.outbox.connection.cursor().execute(sql, bound).fetchall()
        except sqlite3.Error:
            request.failed = True
            raise Overloaded from None
        return make_row(convert(value) for convert, value in zip(converters, rows[0], strict=True)) if rows else None

    @cached_property
    def _compiled(
        self,
    ) -> tuple[str, Sequence[tuple[str, object, Convert]], Sequence[Convert], Callable[[Iterable[Any]], AnyRow]]:
        compiled = self._statement.compile(dialect=DIALECT)
        assert isinstance(compiled, SQLCompiler)
        binds = [compiled.binds[name] for name in compiled.positiontup or ()]
        parameters = [(bind.key, bind.effective_value, bind.type.dialect_impl(DIALECT).bind_processor(DIALECT) or _same)
                      for bind in binds]  # fmt: skip
        columns = list(self._statement.exported_columns)
        converters = [c.type.dialect_impl(DIALECT).result_processor(DIALECT, None) or _same for c in columns]
        return str(compiled), parameters, converters, result_tuple([str(column.key) for column in columns])


def _same(value: object) -> object:
    return value
