"""Test each of many cases on one database at first, and on the other under `make test-all`."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest

DATABASES = "sqlite", "postgresql"


def on_one_database_each(name: str, cases: Iterable[Any], ids: Iterable[object] | None = None) -> pytest.MarkDecorator:
    """Parametrize a test by its cases, each with one of the two databases in turn; the other one is a long test."""
    named = zip(cases, map(str, cases if ids is None else ids), cycle(DATABASES), strict=False)
    pairs = [
        pytest.param(database, case, id=f"{case_id}-{database}", marks=[] if database == first else pytest.mark.long)
        for case, case_id, first in named
        for database in DATABASES
    ]
    return pytest.mark.parametrize(("database_url", name), pairs, indirect=["database_url"])
