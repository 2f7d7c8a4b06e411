"""The privacy page shows every stored column, from the declarations alone."""

import html
import re
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from support import Service, any_database

from backend import clock
from backend.database.declarations import Declaration
from backend.database.engine import Base
from backend.privacy import policy

pytestmark = any_database


def rows(page: str, table: str) -> list[list[str]]:
    """Return the cells of a table of the page, as a person reads them."""
    (section,) = re.findall(rf'<section aria-labelledby="table-{table}">(.*?)</section>', page, re.DOTALL)
    body = section.partition("<tbody")[2]
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    ]


def test_the_page_shows_every_column_of_every_table(service: Service) -> None:
    page = service.http.get("/privacy").text
    for name, table in Base.metadata.tables.items():
        declared = [column.info["declaration"] for column in table.columns]
        assert rows(page, name) == [[d.purpose, d.category.value, d.retention, d.erasure] for d in declared]
        assert html.escape(table.info["purpose"]) in page
    stored = {row["name"] for row in service.rows("sqlite_master") if row["type"] == "table"}
    assert set(re.findall(r'id="table-(\w+)"', page)) == stored - {"alembic_version"}


def test_a_changed_declaration_is_shown(http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    column = Base.metadata.tables["accounts"].columns["email"]
    declared: Declaration = column.info["declaration"]
    changed = Declaration(declared.category, "Something <new>", "for a day", "kept")
    monkeypatch.setitem(column.info, "declaration", changed)
    cells = next(row for row in rows(http.get("/privacy").text, "accounts") if row[0] == "Something <new>")
    assert cells[2:] == ["for a day", "kept"]


def test_the_page_names_the_data_manager(make_service: Callable[..., Service]) -> None:
    assert "the data manager of the organisation" in make_service().http.get("/privacy").text
    named = make_service(data_manager_email="privacy@example.org")
    assert 'href="mailto:privacy@example.org"' in named.http.get("/privacy").text


POLICY = """# Our policy

We keep **two** things. <script>alert(1)</script>

## What

- a name
- an [address](mailto:privacy@example.org)

| what | why |
|---|---|
| name | to call you |

### How long

![a pixel](https://evil.example/pixel.png) [evil](javascript:alert(1)) [site](https://tiles.example/)
"""


def publish(service: Service, version: str, text: str, days: int = 0) -> None:
    service.run(policy.publish, version=version, effective_on=clock.now().date() + timedelta(days=days), text=text)


def test_the_page_leads_with_the_policy_then_the_service_then_what_is_stored(service: Service) -> None:
    publish(service, "2026-01", POLICY)
    page = service.http.get("/privacy").text
    order = [page.index(text) for text in ("Our policy", "What this service does", "What is stored, and", "<details")]
    assert order == sorted(order)
    assert "this service alone" in page
    # Folded, and without the names of columns.
    assert "<details open" not in page
    columns = {column.name for table in Base.metadata.tables.values() for column in table.columns if "_" in column.name}
    words = set(re.findall(r"\w+", re.sub(r"<[^>]+>", " ", page)))
    assert columns.isdisjoint(words)


def test_a_policy_is_markdown_with_headings_and_contents_and_loads_nothing(service: Service) -> None:
    publish(service, "2026-01", POLICY)
    for path, levels in (("/privacy", (3, 4, 5)), ("/privacy/2026-01", (2, 3, 4))):
        page = service.http.get(path).text
        for number, (level, text) in enumerate(zip(levels, ("Our policy", "What", "How long"), strict=True), 1):
            assert f'<h{level} id="policy-{number}">{text}</h{level}>' in page
        assert '<a href="#policy-2">What</a>' in page
        assert "<strong>two</strong>" in page
        assert "<td>to call you</td>" in page
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        assert "pixel.png" not in page
        assert "a pixel" in page
        assert 'href="javascript:' not in page
        assert '<a href="https://tiles.example/">site</a>' in page


def test_every_version_stays_readable(service: Service, move_clock: Callable[[timedelta], None]) -> None:
    publish(service, "2026-01", "The first.")
    publish(service, "2026-02", "The second.", days=2)
    publish(service, "2026-03", "The third.", days=2)
    service.run(policy.withdraw, "2026-03")
    move_clock(timedelta(days=3))
    states = {"2026-01": "until a newer version", "2026-02": "In force since", "2026-03": "was never in force"}
    for version, words in states.items():
        page = service.http.get(f"/privacy/{version}").text
        assert words in page
        assert {"2026-01": "The first.", "2026-02": "The second.", "2026-03": "The third."}[version] in page
    page = service.http.get("/privacy").text
    assert "The second." in page
    assert 'href="/privacy/2026-01"' in page
    assert "2026-03" not in page
    for path in ("/privacy/2026-04", "/privacy/%00", "/privacy/" + "a" * 300):
        assert service.http.get(path).status_code == 404


def test_a_policy_is_rendered_for_the_first_of_many_readers_only(service: Service) -> None:
    publish(service, "2026-01", f"## The first to be read here\n\n{uuid.uuid4()}")
    rendered = service.app.jinja_env.filters["markdown"].cache_info
    before = rendered().misses
    for _ in range(3):
        assert "The first to be read here" in service.http.get("/privacy").text
    assert rendered().misses == before + 1


def test_reading_one_version_of_the_policy_reads_no_other_text(service: Service) -> None:
    publish(service, "2026-01", "The first.")
    publish(service, "2026-02", "The second.")
    with service.statements() as statements:
        assert service.http.get("/v1/policy").json["version"] == "2026-02"
    assert not any("policies.text" in statement for statement in statements)
    with service.statements() as statements:
        assert "The first." in service.http.get("/privacy/2026-01").text
    assert sum("policies.text" in statement for statement in statements) == 1
