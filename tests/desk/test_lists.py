"""The desk's lists stay quick however many people there are: an index serves each page."""

import re
from typing import Any

import pytest
from sqlalchemy import event
from support import Service

from backend import clock
from backend.database import engine
from backend.database.paging import Key
from backend.desk import feedback, requests

TABLES = "accounts|data_requests|feedback"
# Without the name of an index.
SCAN = re.compile(rf"Seq Scan on ({TABLES})|SCAN ({TABLES})(?! USING)")


def plans(service: Service, read: Any, *arguments: Any) -> list[str]:  # noqa: ANN401 - any list
    """Return how the database executes each SELECT of a list."""
    selects: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        selects.extend([(statement, parameters)] if statement.startswith("SELECT") else [])

    with service.app.app_context():
        database = engine.db.engine
        event.listen(database, "before_cursor_execute", note)
        read(*arguments)
        event.remove(database, "before_cursor_execute", note)
        with database.connect() as connection:
            explain = "EXPLAIN QUERY PLAN"
            if not engine.is_sqlite():
                # The tables of a test are so small that PostgreSQL would read and sort all of them.
                for way in ("seqscan", "bitmapscan", "sort"):
                    connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
                explain = "EXPLAIN"
            rows = [connection.exec_driver_sql(f"{explain} {statement}", values).all() for statement, values in selects]
    return ["\n".join(str(row[-1]) for row in plan) for plan in rows]


@pytest.mark.parametrize("is_first", [True, False])
def test_no_page_of_a_list_reads_a_whole_table(service: Service, *, is_first: bool) -> None:
    request_id = service.run(
        requests.record, None, kind="access", way="app", identity="x", received_on=clock.now().date()
    )
    after = None if is_first else Key(clock.now(), request_id)
    lists = [plans(service, requests.page, after), plans(service, requests.answered, after)]
    lists += [plans(service, feedback.page, feedback.Filter(state), after) for state in ("open", None)]  # type: ignore[arg-type]
    assert [len(plan) for plan in lists] == [4, 1, 1, 1]
    for plan in lists:
        assert not SCAN.search("\n".join(plan)), plan
    assert "accounts_asked" in lists[0][0]
    assert "data_requests_open" in lists[0][3]
    assert "data_requests_done" in lists[1][0]
    assert "feedback_open" in lists[2][0]
