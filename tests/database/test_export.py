"""The copy of one's data: every column of every table about people, readable, and nothing of anybody else."""

import json
from datetime import timedelta
from typing import Any

import pytest
from journeys import change_email, hold, request_email_change, signed_in
from support import Person, Service, any_database, assert_problem

from backend import clock
from backend.database import engine
from backend.database.declarations import Category
from backend.desk import operations

ADA = "ada@example.org"
TABLES = {"accounts", "previous_addresses", "sessions", "feedback", "mails", "holds", "disclosures", "audit"}
SECRETS = {
    "accounts": {"password_hash", "credentials_id"},
    "sessions": {"token_sha256", "credentials_id"},
    "feedback": {"key_sha256"},
    "mails": {"about"},
}


def export(service: Service, headers: dict[str, str]) -> dict[str, Any]:
    response = service.http.get("/v1/account/export", headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json
    return found


def tables(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {entry["table"]: entry["rows"] for entry in document["stored"]}


def fill(service: Service, person: Person, note: str) -> None:
    """Have something about a person in every other table."""
    headers = {**person.headers, "Idempotency-Key": note}
    assert service.http.post("/v1/feedback", json={"message": f"{note} tiles"}, headers=headers).status_code == 201
    signed_in(service, person.email)
    hold(service, person.email, clock.now() + timedelta(days=9))
    with service.app.app_context():
        operations.disclose(person.email, authority=f"Court of {note}", basis=f"Order {note}")
    assert request_email_change(service, person.headers, f"{note}@example.org").status_code == 202


@pytest.fixture
def bob(service: Service, ada: Person) -> Person:
    """Somebody else, about whom something is in every table as about Ada."""
    bob = service.register(name="Robert", email="bob@example.org")
    for person in (ada, bob):
        change_email(service, person.headers, f"now-{person.email}")
        person.email = f"now-{person.email}"
    fill(service, ada, "adas")
    fill(service, bob, "bobs")
    return bob


@any_database
def test_a_copy_needs_a_session(service: Service) -> None:
    assert_problem(service.http.get("/v1/account/export"), 401, "unauthenticated")


@pytest.mark.usefixtures("bob")
def test_every_column_of_every_table_about_people_is_there(service: Service, ada: Person) -> None:
    document = export(service, ada.headers)
    about_people = {
        name: {column.name for column in table.columns}
        for name, table in engine.Base.metadata.tables.items()
        if any(column.info["declaration"].category in {Category.PERSONAL, Category.PSEUDONYMOUS}
               for column in table.columns)
    }  # fmt: skip
    assert set(about_people) == TABLES
    assert {entry["table"]: set(entry["columns"]) for entry in document["stored"]} == about_people
    for entry in document["stored"]:
        assert entry["rows"], entry["table"]
        assert entry["purpose"]
        assert all(entry["columns"].values())
        for row in entry["rows"]:
            assert set(row) == about_people[entry["table"]]


@pytest.mark.usefixtures("bob")
def test_the_values_are_those_that_are_stored_and_readable(service: Service, ada: Person) -> None:
    found = tables(export(service, ada.headers))
    (account,) = found["accounts"]
    assert (account["name"], account["email"], account["email_updates"]) == (ada.name, f"now-{ADA}", True)
    assert account["created_at"].endswith("Z")
    assert [row["message"] for row in found["feedback"]] == ["adas tiles"]
    assert [row["email"] for row in found["previous_addresses"]] == [ADA]
    assert [row["basis"] for row in found["holds"]] == ["Court order 12 of 2026"]
    assert [row["authority"] for row in found["disclosures"]] == ["Court of adas"]
    assert {row["act"] for row in found["audit"]} == {"held", "disclosed"}
    assert [row["email"] for row in found["mails"]] == ["adas@example.org"]
    assert len(found["sessions"]) == 2


@any_database
@pytest.mark.usefixtures("bob")
def test_what_nobody_should_carry_about_is_replaced_by_the_reason(service: Service, ada: Person) -> None:
    found = tables(export(service, ada.headers))
    for table, names in SECRETS.items():
        for row in found[table]:
            for name in names:
                assert row[name].startswith("not shown: ")


@pytest.mark.usefixtures("bob")
def test_no_secret_of_one_column_is_shown_in_another(service: Service, ada: Person) -> None:
    text = json.dumps(export(service, ada.headers)).replace("-", "").lower()
    for table, names in SECRETS.items():
        for row in service.rows(table):
            for name in names:
                value = row[name].hex() if isinstance(row[name], bytes) else str(row[name])
                assert value.replace("-", "").lower() not in text, (table, name)


def test_nothing_of_anybody_else_is_there(service: Service, ada: Person, bob: Person) -> None:
    text = service.http.get("/v1/account/export", headers=ada.headers).text
    theirs = tables(export(service, bob.headers))
    for word in ("bob", "robert"):
        assert word not in text.lower()
    for rows in theirs.values():
        for row in rows:
            assert row["id"] not in text


@any_database
def test_feedback_that_was_sent_without_a_session_is_in_no_copy(service: Service, ada: Person) -> None:
    service.http.post("/v1/feedback", json={"message": "From nobody."})
    assert tables(export(service, ada.headers))["feedback"] == []


def test_mails_that_wait_for_the_address_are_in_the_copy(service: Service, ada: Person) -> None:
    service.http.post("/v1/password-resets", json={"email": ADA.upper()})
    service.http.post("/v1/password-resets", json={"email": "bob@example.org"})
    mails = tables(export(service, ada.headers))["mails"]
    assert [(mail["kind"], mail["email"]) for mail in mails] == [("password_reset", "ADA@example.org")]


@any_database
def test_looking_changes_nothing(service: Service, ada: Person) -> None:
    before = {table: service.rows(table) for table in TABLES}
    export(service, ada.headers)
    assert {table: service.rows(table) for table in TABLES} == before


def test_the_data_managers_copy_is_the_same_and_leaves_a_trace(service: Service, ada: Person) -> None:
    mine = tables(export(service, ada.headers))
    with service.app.app_context():
        theirs = {entry.table: entry.rows for entry in operations.export(ADA).stored}
    assert [row["act"] for row in theirs.pop("audit")] == ["exported"]
    assert mine.pop("audit") == []
    assert theirs == mine
