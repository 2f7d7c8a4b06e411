"""A pytest plugin: the amount of generated input, and the count of sent requests.

Every run generates the same, bounded input. `pytest --hypothesis-profile=bench` generates much more, different
each time, and prints each failure so that it can be repeated.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings

BENCH = 25

settings.register_profile(
    "share",
    derandomize=True,
    deadline=None,
    database=None,
    # A database for each example would take longer than the example: each test says how it begins anew.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("bench", settings.get_profile("share"), derandomize=False, print_blob=True)
settings.load_profile("share")


def is_bench() -> bool:
    """Return whether this run generates the large amount."""
    return settings.get_current_profile_name() == "bench"


def amount(share: int) -> int:
    """Return how many examples this run generates."""
    return share * BENCH if is_bench() else share


Count = Callable[[Flask], None]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Iterator[Count]:
    """Count the requests that an app gets in this test."""
    sent: Counter[str] = Counter()

    def watch(app: Flask) -> None:
        inner = app.wsgi_app

        def counted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            sent["requests"] += 1
            return inner(environ, start_response)

        app.wsgi_app = counted  # type: ignore[method-assign]

    yield watch
    record_property("requests sent", sent["requests"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many generated requests each test sent, and the sum."""
    sent: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", None) == "teardown":
            sent[report.nodeid.partition("[")[0]] += dict(report.user_properties).get("requests sent", 0)
    if sent.total():
        terminalreporter.section("generated requests")
        for test, number in sorted(sent.items()):
            if number:
                terminalreporter.line(f"{number:>9,}  {test}")
        terminalreporter.line(f"{sent.total():>9,}  in all")
