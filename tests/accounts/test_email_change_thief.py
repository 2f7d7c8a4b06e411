"""A thief who knew the password and changed the email keeps neither the account nor any access to it."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from journeys import (
    CHANGED,
    CLOSED,
    RESET,
    TAKEN_BACK,
    MakeService,
    MoveClock,
    cancel,
    change_email,
    change_password,
    close,
    recover,
    the_mail,
    to_and_subject,
    turning_away,
    undo,
    undo_link,
)
from migrations import migrate
from peers import MailServer, token_of
from sqlalchemy import text
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem, comparable, empty_database

from backend.database.engine import transaction
from backend.desk import operations as desk
from backend.web.api import operations

OLD = "ada@example.org"
NEW = "countess@example.org"
THIRD = "lovelace@example.org"
THIRD_PASSWORD = "copper violin under snow"
MISSING = "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11"


def test_a_thief_cannot_keep_the_account(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    change_password(service, ada.headers, THIRD_PASSWORD)
    service.deliver()
    change_email(service, ada.headers, THIRD, THIRD_PASSWORD)
    assert close(service, ada.headers, erase=True, password=THIRD_PASSWORD).status_code == 200
    mails = service.deliver()
    assert to_and_subject(mails) == {(OLD, CHANGED), (NEW, CHANGED), (THIRD, CLOSED)}
    links = [token_of(message) for message in mails if message["To"] != OLD]
    headers = recover(service, token_of(the_mail(mails, OLD, CHANGED)), OLD)
    for link in links:
        assert_problem(undo(service, link), 400, "invalid-token")
        assert_problem(cancel(service, link), 400, "invalid-token")
    assert service.account(headers).json["email"] == OLD


@any_database
def test_a_notice_delivered_late_gives_no_access_to_a_recovered_account(
    service: Service, ada: Person, mail_server: MailServer, move_clock: MoveClock
) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    with turning_away(mail_server, NEW):
        mails = change_email(service, ada.headers, THIRD)
        headers = recover(service, token_of(the_mail(mails, OLD, CHANGED)), OLD)
        service.deliver()
    move_clock(timedelta(hours=2))
    assert NEW not in {message["To"] for message in service.deliver()}
    assert service.account(headers).json["email"] == OLD


@pytest.fixture
def links(service: Service, ada: Person) -> list[str]:
    """The links that were emailed to the thief's address and to the old one; the last one has been used."""
    undoing = undo_link(service, ada.headers, OLD, NEW)
    reset = service.ask_for_reset(NEW)
    service.http.post("/v1/erasure-requests", json={"email": NEW})
    erasure = token_of(service.mail())
    assert undo(service, undoing).status_code == 204
    return [reset, erasure, undoing]


def test_no_operation_accepts_the_password_session_or_links_from_before_the_undo(
    service: Service, ada: Person, links: list[str]
) -> None:
    # The values that a person who knew the password would send, for each field of any operation.
    fields: dict[str, Any] = {
        "name": "Thief", "email": OLD, "password": PASSWORD, "current_password": PASSWORD,
        "new_password": OTHER_PASSWORD, "message": "Hello", "email_updates": False, "erase": True,
        "accepted_policy": None,
    }  # fmt: skip
    before = {table: service.rows(table) for table in ("accounts", "sessions", "previous_addresses", "feedback")}
    for operation in operations.declared:
        path = operation.path.replace("<uuid:id>", ada.session["id"])
        names = operation.body.model_fields if operation.body else {}
        for link in links if "token" in names else [MISSING]:
            body = {name: fields.get(name, link) for name in names} if names else None
            headers = ada.headers if operation.session != "none" else {}
            response = service.http.open(path, method=operation.method, json=body, headers=headers)
            if operation.session != "none":
                assert_problem(response, 401, "unauthenticated")
            elif "token" in names:
                assert_problem(response, 400, "invalid-token")
            elif path == "/v1/sessions":
                assert_problem(response, 401, "wrong-credentials")
            assert {table: service.rows(table) for table in before} == before, operation.path
    assert {message["To"] for message in service.deliver() if message["Subject"] != TAKEN_BACK} == {OLD}


@pytest.mark.usefixtures("links")
def test_sign_in_does_not_reveal_that_an_account_was_recovered(service: Service, hash_work: Counter[str]) -> None:
    service.deliver()
    service.register(name="Bob", email="bob@example.org", password=OTHER_PASSWORD)
    responses = []
    for email in (OLD, "bob@example.org", "nobody@example.org"):
        hash_work.clear()
        with service.statements() as executed:
            response = service.sign_in(email, PASSWORD)
        assert_problem(response, 401, "wrong-credentials")
        responses.append((comparable(response), dict(hash_work), list(executed)))
    assert responses == [responses[0]] * 3


@any_database
@pytest.mark.usefixtures("links")
def test_the_old_password_is_unusable_at_any_hash_cost_and_hidden_from_the_data_manager(
    service: Service, make_service: MakeService
) -> None:
    with service.app.app_context():
        stored = desk.export(OLD).stored
    (account,) = [row for table in stored if table.table == "accounts" for row in table.rows]
    assert account["password_hash"].startswith("not shown")
    raised = make_service(argon2_memory_kib=16)
    assert_problem(raised.sign_in(OLD, PASSWORD), 401, "wrong-credentials")
    assert raised.reset(token_of(the_mail(service.deliver(), OLD, RESET)), OTHER_PASSWORD).status_code == 204
    assert raised.sign_in(OLD, OTHER_PASSWORD).status_code == 201
    with service.app.app_context():
        assert desk.erase(OLD).erase_after


@empty_database
def test_an_upgrade_ends_the_password_and_the_sessions_of_recovered_accounts(
    make_service: MakeService,
) -> None:
    service = make_service()
    migrate(service.app, command.upgrade, "head")
    ada, bob = (service.register(email=email) for email in (OLD, "bob@example.org"))
    migrate(service.app, command.downgrade, "0005")
    with service.app.app_context(), transaction() as session:
        session.execute(
            text("UPDATE accounts SET taken_back_at = CURRENT_TIMESTAMP WHERE email = :email"), {"email": OLD}
        )
    migrate(service.app, command.upgrade, "head")
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.sign_in(OLD), 401, "wrong-credentials")
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in("bob@example.org").status_code == 201
    assert service.reset(service.ask_for_reset(OLD)).status_code == 204
