"""Promises 1 to 3: the required data, when an account begins to exist, and how a password is stored."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from journeys import everything_stored
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem, bearer

from backend import clock
from backend.privacy import policy

EXAMPLES: dict[str, Any] = {
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "password": PASSWORD,
    "current_password": "not that one",
    "new_password": OTHER_PASSWORD,
    "token": "made-up",
    "email_updates": False,
    "accepted_policy": "2026-01",
    "message": "More tiles, please.",
    "erase": False,
    "receipt": "made-up",
}


def bodies(service: Service) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield every documented operation with a body, and a valid body."""
    document = service.http.get("/openapi.json").json
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if "requestBody" in operation:
                (content,) = operation["requestBody"]["content"].values()
                schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                yield method.upper(), path, {name: EXAMPLES[name] for name in schema["properties"]}


@any_database
def test_promise_1_only_a_name_and_an_email_are_required(service: Service) -> None:
    fields = {path: set(body) for _method, path, body in bodies(service)}
    assert fields["/v1/registrations"] == {"name", "email"}


@any_database
def test_promise_1_a_field_that_the_contract_does_not_name_is_refused_everywhere(service: Service, ada: Person) -> None:
    service.run(
        policy.publish, version=EXAMPLES["accepted_policy"], effective_on=clock.now().date(), text="We store little."
    )
    # The operation that ends the session comes last.
    operations = sorted(bodies(service), key=lambda operation: operation[1].endswith("/close"))
    assert len(operations) >= 6
    for method, path, body in operations:
        for value in ("marker-value", None, {"marker-inner": 1}, [], 0):
            response = service.http.open(path, method=method, json=body | {"marker/name": value}, headers=ada.headers)
            assert_problem(response, 422, "invalid-request")
            assert "marker" not in response.text + str(response.headers)
        response = service.http.open(path, method=method, json=body, headers=ada.headers)
        assert response.status_code != 422, (path, response.text)


def test_promise_2_there_is_no_account_until_the_mailed_link_is_used(service: Service) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada Lovelace", "email": "ada@example.org"})
    assert service.rows("accounts") == []
    token = token_of(service.mail())
    # The email was counted.
    assert {table for table, rows in everything_stored(service).items() if rows} == {"totals"}
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    service.http.post("/v1/password-resets", json={"email": "ada@example.org"})
    assert service.deliver() == []
    assert service.confirm(token).status_code == 201


@any_database
def test_promise_2_nobody_can_squat_an_address(service: Service) -> None:
    thief = "the thief knows this one"
    for name in ("Eve", "Mallory"):
        service.ask_to_register(name=name)
        assert_problem(service.sign_in(password=thief), 401, "wrong-credentials")
    assert service.rows("accounts") == []
    ada = service.register()
    assert service.account(ada.headers).json["name"] == "Ada Lovelace"
    assert_problem(service.sign_in(password=thief), 401, "wrong-credentials")


@any_database
def test_promise_3_a_password_is_kept_as_argon2id_and_nowhere_else(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    responses = [service.confirm(service.ask_to_register())]
    headers = bearer(responses[0].json["session"]["token"])
    responses.append(service.sign_in())
    change = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
    responses.append(service.http.put("/v1/account/password", json=change, headers=headers))
    responses.append(service.sign_in(password=PASSWORD))
    responses.append(service.account(headers))
    assert [response.status_code for response in responses] == [201, 201, 204, 401, 200]
    service.deliver()
    (account,) = service.rows("accounts")
    assert account["password_hash"].startswith("$argon2id$v=19$")
    texts = [response.text + str(response.headers) for response in responses]
    mailed = [text_of(message) + html_of(message) + str(message) for message in service.mail_server.messages]
    everything = "\n".join([*texts, *mailed, repr(everything_stored(service)), caplog.text])
    for secret in (PASSWORD, OTHER_PASSWORD):
        assert secret not in everything
    assert account["password_hash"] not in "\n".join([*texts, *mailed, caplog.text])
