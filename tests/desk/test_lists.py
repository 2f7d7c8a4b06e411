"""The desk's lists stay quick however many people there are: an index serves each page."""

import re
from typing import Any

import pytest
from query_plans import plans
from support import Service

from backend import clock
from backend.database.paging import Key
from backend.desk import feedback, requests

TABLES = "accounts|data_requests|feedback"
# Without the name of an index.
SCAN = re.compile(rf"Seq Scan on ({TABLES})|SCAN ({TABLES})(?! USING)")


def plans_of(service: Service, read: Any, *arguments: Any) -> list[str]:  # noqa: ANN401 - any list
    """Return how the database executes each query of a list."""
    with plans(service) as executed:
        service.run(read, *arguments)
    return executed


@pytest.mark.parametrize("is_first", [True, False])
def test_no_page_of_a_list_reads_a_whole_table(service: Service, *, is_first: bool) -> None:
    request_id = service.run(
        requests.record, None, kind="access", way="app", identity="x", received_on=clock.now().date()
    )
    after = None if is_first else Key(clock.now(), request_id)
    lists = [plans_of(service, requests.page, after), plans_of(service, requests.answered, after)]
    lists += [plans_of(service, feedback.page, feedback.Filter(state), after) for state in ("open", None)]  # type: ignore[arg-type]
    assert [len(plan) for plan in lists] == [4, 1, 1, 1]
    for plan in lists:
        assert not SCAN.search("\n".join(plan)), plan
    assert "accounts_asked" in lists[0][0]
    assert "data_requests_open" in lists[0][3]
    assert "data_requests_done" in lists[1][0]
    assert "feedback_open" in lists[2][0]
