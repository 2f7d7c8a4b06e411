"""The privacy page shows every stored column, from the declarations alone."""

import html
import re
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from support import Service, any_database

from backend.database.declarations import Declaration
from backend.database.engine import Base

pytestmark = any_database


def rows(page: str, table: str) -> list[list[str]]:
    """Return the cells of a table of the page, as a person reads them."""
    (section,) = re.findall(rf'<section class="tile" aria-labelledby="table-{table}">(.*?)</section>', page, re.DOTALL)
    body = section.partition("<tbody")[2]
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    ]


def test_the_page_shows_every_column_of_every_table(service: Service) -> None:
    page = service.http.get("/privacy").text
    for name, table in Base.metadata.tables.items():
        declared = [(column.name, column.info["declaration"]) for column in table.columns]
        assert rows(page, name) == [[name, d.category.value, d.purpose, d.retention, d.erasure] for name, d in declared]
        assert html.escape(table.info["purpose"]) in page
    stored = {row["name"] for row in service.rows("sqlite_master") if row["type"] == "table"}
    assert set(re.findall(r'id="table-(\w+)"', page)) == stored - {"alembic_version"}


def test_a_changed_declaration_is_shown(http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    column = Base.metadata.tables["accounts"].columns["email"]
    told: Declaration = column.info["declaration"]
    changed = Declaration(told.category, "Something <new>", "for a day", "kept")
    monkeypatch.setitem(column.info, "declaration", changed)
    cells = next(row for row in rows(http.get("/privacy").text, "accounts") if row[0] == "email")
    assert cells[2:] == ["Something <new>", "for a day", "kept"]


def test_the_page_names_who_answers_for_the_data(make_service: Callable[..., Service]) -> None:
    assert "the data manager of the organisation" in make_service().http.get("/privacy").text
    named = make_service(data_manager_email="privacy@example.org")
    assert 'href="mailto:privacy@example.org"' in named.http.get("/privacy").text
