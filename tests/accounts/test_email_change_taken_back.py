"""After an old address took the account back, the password and the sessions from before open nothing, anywhere."""

from collections import Counter
from typing import Any

import pytest
from alembic import command
from journeys import RESET, TAKEN_BACK, MakeService, change_password, signed_in, the_mail, undo, undo_link
from sqlalchemy import text
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem, empty_database, token_of
from test_house import migrate

from backend.database.engine import transaction
from backend.desk import operations as desk
from backend.web.api import operations

OLD = "ada@example.org"
NEW = "countess@example.org"
MISSING = "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11"
# What whoever knew the password sends in each field that any operation takes.
FIELDS: dict[str, Any] = {
    "name": "Thief", "email": OLD, "password": PASSWORD, "current_password": PASSWORD, "new_password": OTHER_PASSWORD,
    "message": "Hello", "email_updates": False, "erase": True, "accepted_policy": None,
}  # fmt: skip


@pytest.fixture
def links(service: Service, ada: Person) -> list[str]:
    """The links that were mailed to the thief's address and to the old one; the last one has been used."""
    undoing = undo_link(service, ada.headers, OLD, NEW)
    mine = service.ask_for_reset(NEW)
    service.http.post("/v1/erasure-requests", json={"email": NEW})
    his = token_of(service.mail())
    assert undo(service, undoing).status_code == 204
    return [mine, his, undoing]


def test_no_operation_does_anything_for_the_password_the_session_or_a_link_from_before(
    service: Service, ada: Person, links: list[str]
) -> None:
    before = {table: service.rows(table) for table in ("accounts", "sessions", "previous_addresses", "feedback")}
    for operation in operations.declared:
        path = operation.path.replace("<uuid:id>", ada.session["id"])
        wanted = operation.body.model_fields if operation.body else {}
        bodies = [{name: FIELDS.get(name, link) for name in wanted} for link in links] if "token" in wanted else [
            {name: FIELDS.get(name, MISSING) for name in wanted}
        ]  # fmt: skip
        for body in bodies:
            headers = ada.headers if operation.session != "none" else {}
            answer = service.http.open(path, method=operation.method, json=body if wanted else None, headers=headers)
            if operation.session != "none":
                assert_problem(answer, 401, "unauthenticated")
            elif "token" in wanted:
                assert_problem(answer, 400, "invalid-token")
            elif path == "/v1/sessions":
                assert_problem(answer, 401, "wrong-credentials")
            assert {table: service.rows(table) for table in before} == before, operation.path
    assert {message["To"] for message in service.deliver() if message["Subject"] != TAKEN_BACK} == {OLD}


@pytest.mark.usefixtures("links")
def test_at_sign_in_it_cannot_be_told_from_an_account_with_another_password(
    service: Service, hash_work: Counter[str]
) -> None:
    service.deliver()
    service.register(name="Bob", email="bob@example.org", password=OTHER_PASSWORD)
    answers, works, statements = [], [], []
    for email in (OLD, "bob@example.org", "nobody@example.org"):
        hash_work.clear()
        with service.statements() as executed:
            answer = service.sign_in(email, PASSWORD)
        assert_problem(answer, 401, "wrong-credentials")
        answers.append(answer.data)
        works.append(dict(hash_work))
        statements.append(list(executed))
    for alike in (answers, works, statements):
        assert alike == [alike[0]] * 3


@pytest.mark.usefixtures("links")
def test_the_owner_chooses_a_password_by_mail_and_everything_works_again(service: Service) -> None:
    assert service.reset(token_of(the_mail(service.deliver(), OLD, RESET)), OTHER_PASSWORD).status_code == 204
    service.deliver()
    mine = signed_in(service, OLD, OTHER_PASSWORD)
    change_password(service, mine, "copper violin under snow", current=OTHER_PASSWORD)


@pytest.mark.usefixtures("links")
def test_the_data_manager_can_export_and_erase_it_meanwhile(service: Service) -> None:
    with service.app.app_context():
        stored = desk.export(OLD).stored
        assert desk.erase(OLD).erase_after
    (account,) = [row for table in stored if table.table == "accounts" for row in table.rows]
    assert account["password_hash"].startswith("not shown")


@any_database
@pytest.mark.usefixtures("links")
def test_the_password_is_gone_at_any_cost_of_hashes(service: Service, make_service: MakeService) -> None:
    raised = make_service(argon2_memory_kib=16)
    assert_problem(raised.sign_in(OLD, PASSWORD), 401, "wrong-credentials")
    assert raised.reset(token_of(the_mail(service.deliver(), OLD, RESET)), OTHER_PASSWORD).status_code == 204
    assert raised.sign_in(OLD, OTHER_PASSWORD).status_code == 201


@empty_database
def test_an_upgrade_ends_the_password_and_the_sessions_of_accounts_that_were_taken_back(
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
