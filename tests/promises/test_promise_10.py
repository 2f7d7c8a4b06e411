"""Promise 10: every stored column is declared, and nothing else decides what is exported, erased and shown."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
from journeys import change_email, erase_due, hold
from sqlalchemy import Column, MetaData, Table, Uuid, inspect
from support import Person, Service, any_database, invoke, request_and_reply

from backend.database import engine
from backend.database.declarations import ABOUT_STAFF, DELETED, KEPT, UNTOUCHED, Category, Declaration
from backend.database.inventory import basis_of, declarations, inventory, tables_about_people
from backend.desk import disclosures, operations

MoveClock = Callable[[timedelta], None]
GRACE = timedelta(days=14, minutes=1)


@pytest.mark.parametrize("table", engine.Base.metadata.sorted_tables, ids=str)
def test_promise_10_every_column_declares_its_purpose_retention_and_erasure(table: Table) -> None:
    assert table.info["purpose"]
    declared = declarations(table).values()
    for declaration in declared:
        assert declaration.purpose
        assert declaration.retention
        assert declaration.basis or declaration.erasure in {DELETED, UNTOUCHED, ABOUT_STAFF}
        assert (declaration.category == Category.STAFF) == (declaration.erasure == ABOUT_STAFF)
        assert declaration.category != Category.PERSONAL or declaration.erasure == DELETED
    categories = {declaration.category for declaration in declared}
    if categories & {Category.PERSONAL, Category.PSEUDONYMOUS}:
        assert table.name == "accounts" or "account_id" in table.columns
    else:
        assert categories == {Category.STAFF} or not table.foreign_keys
    # All of a row is erased, or none of it.
    assert len({declaration.erasure for declaration in declared}) == 1


def shoes(declaration: Declaration | None) -> Table:
    """Return a table about people whose second column has this declaration."""
    owner = {"declaration": Declaration(Category.PSEUDONYMOUS, "For a test", "a day", DELETED)}
    columns = {"account_id": owner, "size": {"declaration": declaration} if declaration else {}}
    return Table("shoes", MetaData(), *(Column(name, Uuid, info=info) for name, info in columns.items()))


def test_promise_10_an_undeclared_column_or_a_table_that_is_kept_in_part_is_an_error() -> None:
    with pytest.raises(KeyError):
        declarations(shoes(None))
    kept = Declaration(Category.TECHNICAL, "For a test", "a day", f"{KEPT}a law")
    with pytest.raises(ValueError, match="shoes: some columns are kept and others are not"):
        basis_of(shoes(kept))


def test_promise_10_every_stored_column_is_declared(service: Service) -> None:
    with service.app.app_context():
        looked = inspect(engine.db.engine)
        stored = {f"{table}.{column['name']}" for table in looked.get_table_names()
                  for column in looked.get_columns(table)}  # fmt: skip
    declared = {f"{table.name}.{column.name}" for table in inventory() for column in table.columns}
    assert stored == declared | {"alembic_version.version_num"}


def test_promise_10_erasing_treats_every_table_as_declared(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=ada.headers)
    change_email(service, ada.headers, "countess@example.org")
    hold(service, "countess@example.org", datetime.now(UTC) + timedelta(days=1))
    service.run(disclosures.disclose, "countess@example.org", authority="A court", basis="Order 12")
    request_and_reply(service, "countess@example.org")
    service.http.post("/v1/password-resets", json={"email": "countess@example.org"})

    def filled() -> set[str]:
        return {table.name for table in tables_about_people() if service.rows(table.name)}

    assert filled() == {table.name for table in tables_about_people()}
    service.run(operations.erase, "countess@example.org")
    move_clock(GRACE)
    assert erase_due(service) == 1
    service.deliver()
    assert filled() == {table.name for table in tables_about_people() if basis_of(table)}


# The inventory command


@any_database
def test_a_script_gets_the_declarations_as_they_are(service: Service) -> None:
    printed = json.loads(invoke(service, "inventory", "--json").stdout)
    assert printed == json.loads(json.dumps([asdict(table) for table in inventory()]))
    assert {tuple(table) for table in printed} == {("name", "purpose", "columns")}
    columns = {tuple(column) for table in printed for column in table["columns"]}
    assert columns == {("name", "category", "purpose", "retention", "erasure")}


@any_database
def test_a_person_gets_the_same_as_tables(service: Service) -> None:
    blocks = invoke(service, "inventory").stdout.rstrip("\n").split("\n\n")
    for block, table in zip(blocks, inventory(), strict=True):
        title, header, *rows = block.splitlines()
        assert title == f"{table.name}: {table.purpose}"
        assert header.split() == ["name", "category", "purpose", "retention", "erasure"]
        starts = [header.index(name) for name in header.split()]
        cells = [[row[start:end].rstrip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
                 for row in rows]  # fmt: skip
        assert cells == [list(asdict(column).values()) for column in table.columns]
