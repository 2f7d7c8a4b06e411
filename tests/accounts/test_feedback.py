"""Feedback: sent from the app, signed in or not, and stored once."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from journeys import MakeService, at_once
from server_process import ServerProcess
from support import Person, Service, any_database, assert_problem, bearer
from werkzeug.test import TestResponse

from backend.database import engine


def send(service: Service, message: object = "More tiles, please.", **headers: str) -> TestResponse:
    return service.http.post("/v1/feedback", json={"message": message}, headers=headers)


def keyed(service: Service, message: str, key: str, **headers: str) -> TestResponse:
    return send(service, message, **headers, **{"Idempotency-Key": key})


def test_a_message_without_a_session_is_stored_without_an_account(service: Service) -> None:
    response = send(service, "  More tiles,\r\nplease.\t ")
    assert response.status_code == 201
    assert set(response.json) == {"id", "received_at"}
    (row,) = service.rows("feedback")
    assert (row["message"], row["account_id"]) == ("More tiles,\nplease.", None)


def test_a_message_with_a_session_belongs_to_the_account_and_is_erased_with_it(service: Service, ada: Person) -> None:
    assert_problem(send(service, **bearer("tiles_made-up")), 401, "unauthenticated")
    assert send(service, **ada.headers).status_code == 201
    (row,) = service.rows("feedback")
    assert row["account_id"] == service.rows("accounts")[0]["id"]
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("DELETE FROM accounts"))
    assert service.rows("feedback") == []


def test_another_scheme_than_bearer_is_no_session(service: Service, ada: Person) -> None:
    for value in ("Basic YWRhOmFkYQ==", "Digest x", f"basic {ada.session['token']}"):
        assert send(service, Authorization=value).status_code == 201
        assert_problem(service.account({"Authorization": value}), 401, "unauthenticated")
    for value in ("Bearer", "bearer tiles_x", ""):
        assert_problem(send(service, Authorization=value), 401, "unauthenticated")
    assert {row["account_id"] for row in service.rows("feedback")} == {None}


def test_a_repeated_key_of_one_sender_gets_the_same_response_and_stores_once(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    for headers in ({}, ada.headers, bob.headers):
        first, second = (keyed(service, "One.", "ada-lovelace", **headers) for _ in range(2))
        assert (second.status_code, second.json) == (first.status_code, first.json) == (201, first.json)
    assert_problem(keyed(service, "Two.", "ada-lovelace", **ada.headers), 422, "invalid-request")
    assert keyed(service, "Two.", "k-2", **ada.headers).status_code == 201
    assert sorted(row["message"] for row in service.rows("feedback")) == ["One.", "One.", "One.", "Two."]
    assert not any(b"ada" in row["key_sha256"] for row in service.rows("feedback"))


def test_a_stranger_who_guesses_another_strangers_key_learns_nothing(service: Service) -> None:
    original, retried, guessed = (keyed(service, message, "1").json for message in ("One.", "One.", "Two."))
    assert original == retried
    assert original["id"] != guessed["id"]
    assert {row["message"] for row in service.rows("feedback")} == {"One.", "Two."}


@any_database
@pytest.mark.parametrize(
    "key", ["", "k" * 256, "k\x7f", "schl\u00fcssel"], ids=["empty", "long", "control", "no ASCII"]
)
def test_an_invalid_key_is_refused(service: Service, key: str) -> None:
    assert_problem(keyed(service, "One.", key), 422, "invalid-request")


def test_twenty_concurrent_requests_with_one_key_store_one_message(service: Service) -> None:
    responses = [response.json for response in at_once(*[lambda: keyed(service, "One.", "k-1")] * 20)]
    assert len(service.rows("feedback")) == 1
    assert responses == [responses[0]] * 20


def test_an_invalid_message_is_refused(service: Service) -> None:
    for message in ("", " \n ", "x" * 4001, "a\x00b", "a\x1bb", None, 7, ["a"]):
        assert_problem(send(service, message), 422, "invalid-request")
    assert service.rows("feedback") == []
    assert send(service, "\N{SMILING FACE WITH SMILING EYES}" * 4000).status_code == 201


@any_database
def test_a_client_and_an_account_send_ten_messages_an_hour(make_service: MakeService) -> None:
    service = make_service(rate_limits="")
    assert [send(service).status_code for _ in range(11)] == [201] * 10 + [429]
    ada = service.register()
    body: dict[str, Any] = {"json": {"message": "More tiles."}, "headers": ada.headers}
    clients = [{"REMOTE_ADDR": f"192.0.2.{number}"} for number in range(11)]
    statuses = [service.http.post("/v1/feedback", **body, environ_overrides=c).status_code for c in clients]
    assert statuses == [201] * 10 + [429]


def test_a_repeated_message_is_charged_once_although_a_thread_answers_it(tmp_path: Path) -> None:
    """The event loop leaves a request to a thread when its key is taken."""
    with ServerProcess(tmp_path) as server, httpx2.Client(base_url=server.url) as http:
        key = {"Idempotency-Key": "one"}
        responses = [http.post("/v1/feedback", json={"message": "Tiles."}, headers=key) for _ in range(11)]
    assert [response.status_code for response in responses] == [201] * 10 + [429]
    assert len({response.json()["id"] for response in responses[:10]}) == 1
