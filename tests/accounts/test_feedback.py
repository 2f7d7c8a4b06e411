"""Feedback: sent from the app, with a session or without, and stored once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import Person, Service, assert_problem, bearer, run_tiles
from werkzeug.test import TestResponse

from backend.database import engine


def send(service: Service, message: object = "More tiles, please.", **headers: str) -> TestResponse:
    return service.http.post("/v1/feedback", json={"message": message}, headers=headers)


def test_a_message_without_a_session_is_stored_about_nobody(service: Service) -> None:
    response = send(service, "  More tiles,\r\nplease.\t ")
    assert response.status_code == 201
    assert set(response.json) == {"id", "received_at"}
    (row,) = service.rows("feedback")
    assert (row["message"], row["account_id"]) == ("More tiles,\nplease.", None)


def test_a_message_with_a_session_belongs_to_the_account_and_goes_with_it(service: Service, ada: Person) -> None:
    assert send(service, **ada.headers).status_code == 201
    assert service.rows("feedback")[0]["account_id"] == service.rows("accounts")[0]["id"]
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("DELETE FROM accounts"))
    assert service.rows("feedback") == []


def test_a_session_that_is_none_is_refused_and_not_taken_for_nobody(service: Service) -> None:
    assert_problem(send(service, **bearer("tiles_made-up")), 401, "unauthenticated")
    assert service.rows("feedback") == []


def test_the_same_key_again_gives_the_same_answer_and_stores_once(service: Service, ada: Person) -> None:
    for headers in ({}, ada.headers):
        first, second = (send(service, **headers, **{"Idempotency-Key": "k-1"}) for _ in range(2))
        assert (second.status_code, second.json) == (first.status_code, first.json) == (201, first.json)
    assert len(service.rows("feedback")) == 2


def test_a_key_that_was_used_for_another_message_is_refused_and_nothing_is_lost(service: Service, ada: Person) -> None:
    send(service, "One.", **{"Idempotency-Key": "k-1"}, **ada.headers)
    assert_problem(send(service, "Two.", **{"Idempotency-Key": "k-1"}, **ada.headers), 422, "invalid-request")
    assert send(service, "Two.", **{"Idempotency-Key": "k-2"}, **ada.headers).status_code == 201


def test_a_stranger_who_guesses_another_strangers_key_learns_nothing(service: Service) -> None:
    one, again, other = (
        send(service, message, **{"Idempotency-Key": "1"}).json for message in ("One.", "One.", "Two.")
    )
    assert one == again
    assert one["id"] != other["id"]
    assert {row["message"] for row in service.rows("feedback")} == {"One.", "Two."}


def test_a_key_is_stored_as_a_digest_only(service: Service) -> None:
    send(service, **{"Idempotency-Key": "ada-lovelace"})
    assert b"ada" not in service.rows("feedback")[0]["key_sha256"]


@pytest.mark.parametrize(
    "key", ["", "k" * 256, "k\x7f", "schl\u00fcssel"], ids=["empty", "long", "control", "not ASCII"]
)
def test_a_key_that_is_none_is_refused(service: Service, key: str) -> None:
    assert_problem(send(service, **{"Idempotency-Key": key}), 422, "invalid-request")


def test_of_twenty_at_once_with_one_key_one_is_stored_and_all_are_answered_alike(service: Service) -> None:
    barrier = threading.Barrier(20)

    def once(_: int) -> TestResponse:
        barrier.wait()
        return send(service, **{"Idempotency-Key": "k-1"})

    with ThreadPoolExecutor(20) as pool:
        answers = [answer.json for answer in pool.map(once, range(20))]
    assert len(service.rows("feedback")) == 1
    assert answers == [answers[0]] * 20


@pytest.mark.parametrize("message", ["", " \n ", "x" * 4001, "a\x00b", "a\x1bb", None, 7, ["a"]])
def test_a_message_out_of_its_rule_is_refused(service: Service, message: object) -> None:
    assert_problem(send(service, message), 422, "invalid-request")
    assert service.rows("feedback") == []


def test_a_message_of_4000_characters_is_stored_whole(service: Service) -> None:
    assert send(service, "\N{SMILING FACE WITH SMILING EYES}" * 4000).status_code in {201, 413}
    assert send(service, "x" * 4000).status_code == 201


def test_a_client_sends_ten_an_hour(make_service: object) -> None:
    service = make_service(rate_limits="")  # type: ignore[operator]
    assert [send(service).status_code for _ in range(11)] == [201] * 10 + [429]


def test_the_data_manager_reads_and_exports(tmp_path: Path) -> None:
    run_tiles(tmp_path, "db", "upgrade")
    assert run_tiles(tmp_path, "feedback", "list").stdout == ""
    assert json.loads(run_tiles(tmp_path, "feedback", "list", "--json").stdout) == []
    assert json.loads(run_tiles(tmp_path, "feedback", "export").stdout) == {"feedback": []}
