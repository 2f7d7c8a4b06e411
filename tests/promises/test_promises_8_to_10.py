"""The promises about the end of an account and about what is stored: closing and erasing, declared columns.

Of promise 9 the canary shows the most, of promise 8 the restored backup shows what is not here.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.cli import ScriptInfo
from journeys import (
    CLOSED,
    ERASE,
    ERASED,
    cancel,
    change_email,
    close,
    closed_by,
    erase_due,
    hold,
    moment,
    receipt_of,
    the_mail,
)
from sqlalchemy import Column, ForeignKey, MetaData, Table, Uuid, inspect
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem, request_and_reply, text_of, token_of

from backend.commands.serve import tiles
from backend.database import engine, scrub
from backend.database.declarations import ABOUT_STAFF, DELETED, KEPT, UNTOUCHED, Category, Declaration
from backend.database.inventory import basis_of, declarations, inventory, tables_about_people
from backend.desk import operations

MoveClock = Callable[[timedelta], None]
GRACE = timedelta(days=14, minutes=1)
# "Without undue delay and in any event within one month" (GDPR Art. 12(3)).
DEADLINE = timedelta(days=28)


# 8. Closing is yours, erasing is final


def test_promise_8_closing_needs_a_password_and_nobody(service: Service, ada: Person) -> None:
    assert close(service, ada.headers).status_code == 200
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert the_mail(service.deliver(), ada.email, CLOSED)


def test_promise_8_erasure_needs_a_mailbox_and_nobody_and_is_confirmed_before_the_deadline(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    assert service.http.post("/erasure", data={"email": ada.email}).status_code < 400
    link = token_of(the_mail(service.deliver(), ada.email, ERASE))
    assert service.http.post("/erasure/confirm", data={"token": link}).status_code == 200
    service.deliver()
    move_clock(GRACE)
    assert erase_due(service) == 1
    assert "lovelace" not in str([service.rows(table) for table in engine.Base.metadata.tables]).lower()
    receipt = receipt_of(the_mail(service.deliver(), ada.email, ERASED))
    said = service.http.post("/v1/erasure-receipts/verify", json={"receipt": receipt}).json
    assert moment(said["erased_at"]) - moment(said["requested_at"]) < DEADLINE
    assert {entry["store"]: entry["rows"] for entry in said["removed"]}["accounts"] == 1
    assert ada.email not in json.dumps(said)


def test_promise_8_what_is_erased_cannot_be_taken_back(service: Service, ada: Person, move_clock: MoveClock) -> None:
    link = closed_by(service, ada.headers, ada.email, erase=True)
    move_clock(GRACE)
    assert erase_due(service) == 1
    service.deliver()
    assert_problem(cancel(service, link), 400, "invalid-token")
    assert_problem(service.confirm(ada.token), 400, "invalid-token")
    assert service.rows("accounts") == []


def test_promise_8_a_legal_hold_delays_it_says_so_and_ends_by_itself(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=40)
    hold(service, ada.email, until)
    assert moment(close(service, ada.headers, erase=True).json["erase_after"]) == until
    told = text_of(the_mail(service.deliver(), ada.email, CLOSED))
    assert f"{until.day} {until:%B} {until.year}" in told
    assert "legal" in told
    move_clock(GRACE)
    assert erase_due(service) == 0
    move_clock(timedelta(days=40) - GRACE)
    assert erase_due(service) == 1
    assert service.rows("accounts") == service.rows("holds") == []


def test_promise_8_whoever_registers_anew_gets_a_new_account_and_keeps_it(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    service.http.post("/v1/feedback", json={"message": "Of before."}, headers=ada.headers)
    closed_by(service, ada.headers, ada.email, erase=True)
    again = service.register(name="Ada King", password=OTHER_PASSWORD)
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    export = service.http.get("/v1/account/export", headers=again.headers)
    assert "Ada King" in export.text
    assert "Lovelace" not in export.text
    assert "Of before." not in export.text
    move_clock(GRACE)
    assert erase_due(service) == 1
    assert [row["name"] for row in service.rows("accounts")] == ["Ada King"]
    assert service.account(again.headers).status_code == 200


# 9. Erased means gone


@any_database
def test_promise_9_no_byte_is_left_in_a_file_also_of_what_an_account_was_called_before(
    service: Service, ada: Person, tmp_path: Path
) -> None:
    words = [b"lovelace", b"ada@example.org", b"countess@example.org", b"enchantress", b"analytical"]

    def found() -> set[bytes]:
        kept = b"".join(path.read_bytes().lower() for path in tmp_path.rglob("*") if path.is_file())
        return {word for word in words if word in kept}

    service.http.patch("/v1/account", json={"name": "Enchantress of Numbers"}, headers=ada.headers)
    service.http.post("/v1/feedback", json={"message": "An analytical engine!"}, headers=ada.headers)
    change_email(service, ada.headers, "countess@example.org")
    assert found() == set(words)
    with service.app.app_context():
        operations.erase("countess@example.org", at_once=True)
        assert erase_due(service) == 1
        service.deliver()
        assert scrub.has_remains()
        assert list(scrub.rewrite(())) == ["database"]
    assert found() == set()


# 10. Every stored column is declared


def column_faults(column: Column[Any]) -> list[str]:
    """Return what is wrong with what is declared of a column."""
    declared = column.info.get("declaration")
    if declared is None:
        return ["not declared"]
    wrong = {
        "no purpose, no retention or no erasure": not (declared.purpose and declared.retention and declared.erasure),
        "neither deleted nor kept on a basis": declared.erasure not in {DELETED, UNTOUCHED, ABOUT_STAFF}
        and not declared.basis,
        "about staff and others": (declared.category == Category.STAFF) != (declared.erasure == ABOUT_STAFF),
        "outlives the person": declared.category == Category.PERSONAL and declared.erasure != DELETED,
    }
    return [fault for fault, holds in wrong.items() if holds]


def faults(table: Table) -> list[str]:
    """Return what is wrong with what is declared of a table."""
    found = [f"{column.name}: {fault}" for column in table.columns for fault in column_faults(column)]
    if found:
        return found
    erasures = {declared.erasure for declared in declarations(table).values()}
    categories = {declared.category for declared in declarations(table).values()}
    about_people = bool(categories & {Category.PERSONAL, Category.PSEUDONYMOUS})
    wrong = {
        "some of it is deleted, and some is not": len(erasures) > 1,
        "refers to people, and is about nobody": not about_people
        and categories != {Category.STAFF}
        and bool(table.foreign_keys),
        "does not say whom it is about": about_people
        and table.name != "accounts"
        and "account_id" not in table.columns,
    }
    return [fault for fault, holds in wrong.items() if holds]


@pytest.mark.parametrize("name", engine.Base.metadata.tables)
def test_promise_10_every_column_says_what_it_is_what_for_for_how_long_and_what_erasing_does(name: str) -> None:
    table = engine.Base.metadata.tables[name]
    assert table.info["purpose"]
    assert faults(table) == []


def test_promise_10_nothing_is_stored_but_what_is_declared(service: Service) -> None:
    with service.app.app_context():
        looked = inspect(engine.db.engine)
        stored = {f"{table}.{column['name']}" for table in looked.get_table_names()
                  for column in looked.get_columns(table)}  # fmt: skip
    declared = {f"{table.name}.{column.name}" for table in inventory() for column in table.columns}
    assert stored == declared | {"alembic_version.version_num"}


def shoes(*columns: tuple[Any, ...]) -> Table:
    """Return a table of columns, each a name, a category, what erasing does, and what else there is to it."""
    made = []
    for name, category, erasure, *others in columns:
        purpose, retention, reference = [*others, *("For a test", "a day", None)[len(others) :]]
        given = [ForeignKey("accounts.id")] if reference else []
        info = {"declaration": Declaration(category, purpose, retention, erasure)} if category else {}
        made.append(Column(name, Uuid, *given, info=info))
    return Table("shoes", MetaData(), *made)


BY_LAW = KEPT + "a law"
OWNER = ("account_id", Category.PSEUDONYMOUS, DELETED)
BAD = {
    "undeclared": shoes(("size", None, "")),
    "without purpose": shoes(OWNER, ("size", Category.PERSONAL, DELETED, "")),
    "without retention": shoes(OWNER, ("size", Category.PERSONAL, DELETED, "For a test", "")),
    "without erasure": shoes(OWNER, ("size", Category.PERSONAL, "")),
    "kept on no basis": shoes(("account_id", Category.PSEUDONYMOUS, KEPT)),
    "personal and kept": shoes(("account_id", Category.PSEUDONYMOUS, BY_LAW), ("size", Category.PERSONAL, BY_LAW)),
    "about nobody knows whom": shoes(("size", Category.PERSONAL, DELETED)),
    "kept in part": shoes(OWNER, ("at", Category.TECHNICAL, BY_LAW)),
    "untouched in part": shoes(OWNER, ("at", Category.TECHNICAL, UNTOUCHED)),
    "about somebody, as it does not say": shoes(("owner", Category.TECHNICAL, UNTOUCHED, "For a test", "a day", True)),
}


@pytest.mark.parametrize("table", BAD.values(), ids=BAD)
def test_promise_10_a_table_that_is_declared_otherwise_fails(table: Table) -> None:
    assert faults(table) != []


def test_promise_10_a_table_of_which_some_is_kept_is_not_erased_by_guess() -> None:
    with pytest.raises(ValueError, match="shoes: some columns are kept and others are not"):
        basis_of(BAD["kept in part"])


def test_promise_10_an_undeclared_column_is_in_no_inventory() -> None:
    with pytest.raises(KeyError):
        declarations(BAD["undeclared"])


def test_promise_10_erasing_does_to_every_table_what_is_declared(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=ada.headers)
    change_email(service, ada.headers, "countess@example.org")
    hold(service, "countess@example.org", datetime.now(UTC) + timedelta(days=1))
    with service.app.app_context():
        operations.disclose("countess@example.org", authority="A court", basis="Order 12")
    request_and_reply(service, "countess@example.org")
    service.http.post("/v1/password-resets", json={"email": "countess@example.org"})

    def filled() -> set[str]:
        return {table.name for table in tables_about_people() if service.rows(table.name)}

    assert filled() == {table.name for table in tables_about_people()}
    with service.app.app_context():
        operations.erase("countess@example.org")
    move_clock(GRACE)
    assert erase_due(service) == 1
    service.deliver()
    assert filled() == {table.name for table in tables_about_people() if basis_of(table)}


@any_database
def test_promise_10_copy_page_and_command_tell_of_each_column(service: Service, ada: Person) -> None:
    columns = {table.name: [column.name for column in table.columns] for table in inventory()}
    done = CliRunner().invoke(tiles, ["inventory", "--json"], obj=ScriptInfo(create_app=lambda: service.app))
    assert {
        table["name"]: [column["name"] for column in table["columns"]] for table in json.loads(done.stdout)
    } == columns
    page = service.http.get("/privacy").text
    assert all(f'id="table-{name}"' in page for name in columns)
    copy = service.http.get("/v1/account/export", headers=ada.headers).json
    about_people = {table.name for table in tables_about_people()}
    assert {table["table"]: list(table["columns"]) for table in copy["stored"]} == {
        name: names for name, names in columns.items() if name in about_people
    }
