"""The export of a person's data: every column of every table about people, readable, and no other person's data."""

import json
from datetime import timedelta
from typing import Any

from journeys import change_email, hold, request_email_change, signed_in
from support import Person, Service, any_database, assert_problem, request_and_reply

from backend import clock
from backend.database import engine
from backend.database.declarations import Category
from backend.desk import disclosures

ADA = "ada@example.org"
ABOUT_PEOPLE = {
    name: {column.name for column in table.columns}
    for name, table in engine.Base.metadata.tables.items()
    if {c.info["declaration"].category for c in table.columns} & {Category.PERSONAL, Category.PSEUDONYMOUS}
}
SECRETS = {"accounts": {"password_hash", "credentials_id"}, "sessions": {"token_sha256", "credentials_id"},
           "feedback": {"key_sha256"}, "mails": {"about"}}  # fmt: skip


def export(service: Service, person: Person) -> dict[str, Any]:
    response = service.http.get("/v1/account/export", headers=person.headers)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json
    return document


def tables(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {entry["table"]: entry["rows"] for entry in document["stored"]}


def fill(service: Service, person: Person, note: str) -> None:
    """Store something about a person in every table about people except previous addresses."""
    headers = {**person.headers, "Idempotency-Key": note}
    assert service.http.post("/v1/feedback", json={"message": f"{note} tiles"}, headers=headers).status_code == 201
    signed_in(service, person.email)
    hold(service, person.email, clock.now() + timedelta(days=9))
    service.run(disclosures.disclose, person.email, authority=f"Court of {note}", basis=f"Order {note}")
    request_and_reply(service, person.email)
    assert request_email_change(service, person.headers, f"{note}@example.org").status_code == 202


def test_an_export_has_every_column_about_the_person_and_nothing_about_others(service: Service, ada: Person) -> None:
    bob = service.register(name="Robert", email="bob@example.org")
    for person in (ada, bob):
        change_email(service, person.headers, f"now-{person.email}")
        person.email = f"now-{person.email}"
    fill(service, ada, "adas")
    fill(service, bob, "bobs")
    before = {table: service.rows(table) for table in ABOUT_PEOPLE}
    document = export(service, ada)
    assert {table: service.rows(table) for table in ABOUT_PEOPLE} == before
    assert set(ABOUT_PEOPLE) == {
        "accounts", "previous_addresses", "sessions", "feedback", "mails", "holds", "disclosures", "audit",
        "data_requests", "replies",
    }  # fmt: skip
    assert {entry["table"]: set(entry["columns"]) for entry in document["stored"]} == ABOUT_PEOPLE
    for entry in document["stored"]:
        assert entry["rows"], entry["table"]
        assert entry["purpose"]
        assert all(entry["columns"].values())
        assert all(set(row) == ABOUT_PEOPLE[entry["table"]] for row in entry["rows"])

    exported = tables(document)
    (account,) = exported["accounts"]
    assert (account["name"], account["email"], account["email_updates"]) == (ada.name, f"now-{ADA}", True)
    assert account["created_at"].endswith("Z")
    assert [row["message"] for row in exported["feedback"]] == ["adas tiles"]
    assert [row["email"] for row in exported["previous_addresses"]] == [ADA]
    assert [row["basis"] for row in exported["holds"]] == ["Court order 12 of 2026"]
    assert [row["authority"] for row in exported["disclosures"]] == ["Court of adas"]
    assert {row["act"] for row in exported["audit"]} == {"held", "disclosed", "request-recorded", "feedback-answered"}
    assert {row["email"] for row in exported["mails"]} == {"adas@example.org", None}
    assert len(exported["sessions"]) == 2

    text = json.dumps(document).lower()
    assert "bob" not in text
    assert "robert" not in text
    assert not [row for rows in tables(export(service, bob)).values() for row in rows if row["id"] in text]


@any_database
def test_secrets_in_an_export_are_replaced_by_the_reason(service: Service, ada: Person) -> None:
    fill(service, ada, "adas")
    document = export(service, ada)
    text = json.dumps(document).replace("-", "").lower()
    for table, names in SECRETS.items():
        # The email with a reply is about the reply's id, which is no secret.
        rows = [row for row in service.rows(table) if row.get("kind") != "feedback_reply"]
        assert rows
        for name in names:
            assert all(row[name].startswith("not shown: ") for row in tables(document)[table])
            for row in rows:
                value = row[name].hex() if isinstance(row[name], bytes) else str(row[name])
                assert value.replace("-", "").lower() not in text, (table, name)


@any_database
def test_feedback_sent_without_a_session_is_in_no_export(service: Service, ada: Person) -> None:
    assert_problem(service.http.get("/v1/account/export"), 401, "unauthenticated")
    service.http.post("/v1/feedback", json={"message": "From nobody."})
    assert tables(export(service, ada))["feedback"] == []


def test_queued_emails_to_the_address_are_in_the_export(service: Service, ada: Person) -> None:
    service.http.post("/v1/password-resets", json={"email": ADA.upper()})
    service.http.post("/v1/password-resets", json={"email": "bob@example.org"})
    mails = tables(export(service, ada))["mails"]
    assert [(mail["kind"], mail["email"]) for mail in mails] == [("password_reset", "ADA@example.org")]
