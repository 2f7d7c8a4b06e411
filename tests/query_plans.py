"""How the database executes what the service asks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from support import Service

from backend.database import engine


@contextmanager
def plans(service: Service) -> Iterator[list[str]]:
    """Yield a list that is filled, at the end of the block, with the plan of each statement that it executed."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, values: object, *_: object) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            # Of a statement that is executed for several rows, the first is enough.
            executed.append((statement, values[0] if isinstance(values, list) else values))

    with service.app.app_context():
        event.listen(engine.db.engine, "before_cursor_execute", note)
    yield (lines := [])
    with service.app.app_context(), engine.db.engine.connect() as connection:
        event.remove(engine.db.engine, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN"
        if not engine.is_sqlite():
            # The tables of a test are so small that PostgreSQL would read and sort all of them.
            for way in ("seqscan", "bitmapscan", "sort"):
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
            explain = "EXPLAIN"
        for statement, values in executed:
            plan = connection.exec_driver_sql(f"{explain} {statement}", values)
            lines.append("\n".join([statement, *(str(row[-1]) for row in plan)]))
