"""Test each of many cases on one database, so that both databases see half of the cases."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest


def on_one_database_each(name: str, cases: Iterable[Any], ids: Iterable[object] | None = None) -> pytest.MarkDecorator:
    """Parametrize a test by its cases, each with one of the two databases in turn."""
    named = zip(cases, map(str, cases if ids is None else ids), cycle(("sqlite", "postgresql")), strict=False)
    pairs = [pytest.param(database, case, id=f"{case_id}-{database}") for case, case_id, database in named]
    return pytest.mark.parametrize(("database_url", name), pairs, indirect=["database_url"])
