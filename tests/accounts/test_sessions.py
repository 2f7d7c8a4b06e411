"""Sessions: started with an email and a password, listed, ended, and expiring."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from journeys import (
    MakeService,
    MoveClock,
    ask_for_erasure,
    at_once,
    close,
    confirm_erasure,
    moment,
    signed_in,
    undo,
    undo_link,
)
from pairwise import on_one_database_each
from support import PASSWORD, Person, Service, any_database, assert_problem, bearer, comparable

from backend import clock
from backend.accounts import sessions
from backend.desk import operations as desk
from backend.serving import worker

A_MOMENT = timedelta(minutes=1)


def listed(service: Service, headers: dict[str, str]) -> list[dict[str, Any]]:
    response = service.http.get("/v1/sessions", headers=headers)
    assert response.status_code == 200, response.text
    entries: list[dict[str, Any]] = response.json["sessions"]
    return entries


def assert_ended(service: Service, headers: dict[str, str]) -> None:
    assert_problem(service.account(headers), 401, "unauthenticated")


# Starting


def test_signing_in_returns_the_account_and_a_session(service: Service, ada: Person) -> None:
    response = service.sign_in("ADA@Example.ORG")
    assert response.status_code == 201
    assert set(response.json) == {"account", "session"}
    assert set(response.json["session"]) == {"token", "id", "expires_at"}
    assert response.json["account"] == service.account(ada.headers).json
    assert service.account(bearer(response.json["session"]["token"])).status_code == 200


@pytest.mark.usefixtures("ada")
def test_wrong_credentials_have_one_response(service: Service) -> None:
    responses = [
        service.sign_in("ada@example.org", wrong) for wrong in (f"{PASSWORD}!", PASSWORD.upper(), PASSWORD[:-1])
    ]
    responses += [service.sign_in("bob@example.org"), service.sign_in("nobody@example.org", "nothing at all")]
    for response in responses:
        assert_problem(response, 401, "wrong-credentials")
        assert comparable(response) == comparable(responses[0])


def test_only_the_sha256_of_a_session_token_is_stored(service: Service, ada: Person) -> None:
    token = ada.session["token"]
    assert token.startswith("tiles_")
    assert len(token.removeprefix("tiles_")) == 43
    (row,) = service.rows("sessions")
    assert bytes(row["token_sha256"]) == hashlib.sha256(token.encode()).digest()
    assert token.removeprefix("tiles_") not in repr([service.rows(name) for name in ("accounts", "sessions", "mails")])


@any_database
def test_a_session_token_is_random_in_each_character(service: Service, ada: Person) -> None:
    tokens = [service.sign_in(ada.email).json["session"]["token"] for _ in range(12)]
    assert {(token[:6], len(token)) for token in tokens} == {("tiles_", 6 + 43)}, "256 bits"
    assert all(len(set(characters)) > 3 for characters in zip(*(token[6:] for token in tokens), strict=True))


def test_session_fixation_is_impossible(service: Service, ada: Person) -> None:
    mine = "tiles_" + "A" * 43
    headers = bearer(mine) | {"Cookie": f"session={mine}; tiles={mine}; token={mine}"}
    body = {"email": ada.email, "password": PASSWORD}
    first, second = (
        service.http.post(f"/v1/sessions?token={mine}", json=body, headers=headers).json["session"] for _ in range(2)
    )
    assert len({first["token"], second["token"], mine, ada.session["token"]}) == 4
    assert len({session["id"] for session in (first, second, ada.session)}) == 3
    assert_ended(service, bearer(mine))


def test_signing_in_after_argon2_was_raised_renews_the_hash_and_ends_no_session(
    service: Service, ada: Person, make_service: MakeService
) -> None:
    link = service.ask_for_reset()
    (before,) = service.rows("accounts")
    raised = make_service(argon2_memory_kib=16, argon2_time_cost=2)
    assert_problem(raised.sign_in(ada.email, "not that one"), 401, "wrong-credentials")
    assert service.rows("accounts") == [before]
    opened = raised.sign_in()
    (after,) = raised.rows("accounts")
    assert ",t=1," in before["password_hash"]
    assert "$m=16,t=2,p=1$" in after["password_hash"]
    assert after == before | {"password_hash": after["password_hash"]}
    for headers in (ada.headers, bearer(opened.json["session"]["token"])):
        assert raised.account(headers).status_code == 200
    assert raised.sign_in().status_code == 201
    assert raised.reset(link).status_code == 204


# Listing


def test_the_list_shows_each_session_the_newest_first(service: Service, ada: Person, move_clock: MoveClock) -> None:
    service.register(name="Bob", email="bob@example.org")
    move_clock(A_MOMENT)
    second = service.sign_in().json["session"]
    newest, oldest = listed(service, ada.headers)
    assert set(newest) == {"id", "created_at", "last_used_on", "expires_at", "current"}
    assert (newest["id"], newest["current"]) == (second["id"], False)
    assert (oldest["id"], oldest["current"]) == (ada.session["id"], True)
    assert newest["expires_at"] == second["expires_at"]
    assert moment(newest["created_at"]) - moment(oldest["created_at"]) >= A_MOMENT
    moment(service.account(ada.headers).json["created_at"])


def test_only_the_day_of_the_last_use_is_stored_and_once_a_day(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    move_clock(timedelta(days=3))

    def writes() -> int:
        with service.statements() as statements:
            assert service.account(ada.headers).status_code == 200
        return sum(statement.startswith(("UPDATE", "INSERT", "DELETE")) for statement in statements)

    assert (writes(), writes()) == (1, 0)
    today = clock.now().date()
    (entry,) = listed(service, ada.headers)
    assert date.fromisoformat(entry["last_used_on"]) == today
    (row,) = service.rows("sessions")
    assert str(row["last_used_on"]) == today.isoformat()


# Ending


def test_signing_out_ends_this_session_only(service: Service, ada: Person) -> None:
    other = signed_in(service, ada.email)
    response = service.http.delete("/v1/sessions/current", headers=ada.headers)
    assert (response.status_code, response.data) == (204, b"")
    assert_ended(service, ada.headers)
    assert service.account(other).status_code == 200


def test_signing_out_twice_at_once_succeeds_twice_or_finds_no_session(service: Service) -> None:
    for _ in range(5):
        headers = signed_in(service, service.register(email=f"{uuid.uuid4()}@example.org").email)
        responses = at_once(*[lambda: service.http.delete("/v1/sessions/current", headers=headers)] * 2)  # noqa: B023
        assert {response.status_code for response in responses} <= {204, 401}


def test_a_session_can_be_ended_from_another(service: Service, ada: Person) -> None:
    other = service.sign_in().json["session"]
    path = f"/v1/sessions/{other['id']}"
    assert service.http.delete(path, headers=ada.headers).status_code == 204
    assert_ended(service, bearer(other["token"]))
    assert [entry["id"] for entry in listed(service, ada.headers)] == [ada.session["id"]]
    assert_problem(service.http.delete(path, headers=ada.headers), 404, "not-found")


def manager_closes(service: Service, ada: Person) -> None:
    service.run(desk.close, ada.email)


# Actions that end every session of an account
ENDS: dict[str, Callable[[Service, Person], object]] = {
    "reset": lambda service, ada: service.reset(service.ask_for_reset(ada.email)),
    "closing": lambda service, ada: close(service, ada.headers),
    "erasure by mail": lambda service, ada: confirm_erasure(service, ask_for_erasure(service, ada.email)),
    "undone": lambda service, ada: undo(service, undo_link(service, ada.headers, ada.email, "countess@example.org")),
    "closing by the data manager": manager_closes,
    "signing out everywhere": lambda service, ada: service.http.delete("/v1/sessions", headers=ada.headers),
}


@on_one_database_each("end", ENDS.values(), ENDS)
def test_an_action_that_ends_sessions_ends_a_stolen_one(
    service: Service, ada: Person, end: Callable[[Service, Person], object]
) -> None:
    stolen = [ada.headers, *(signed_in(service, ada.email) for _ in range(2))]
    bob = service.register(name="Bob", email="bob@example.org")
    end(service, ada)
    for headers in stolen:
        assert_ended(service, headers)
    assert service.account(bob.headers).status_code == 200
    assert len(service.rows("sessions")) == 1


# Expiring


def test_a_session_in_use_ends_at_its_maximum_age(service: Service, ada: Person, move_clock: MoveClock) -> None:
    for _ in range(7):
        move_clock(timedelta(days=25))
        assert service.account(ada.headers).status_code == 200
    (entry,) = listed(service, ada.headers)
    expires_at = moment(entry["expires_at"])
    assert expires_at - moment(entry["created_at"]) == timedelta(days=180)
    move_clock(expires_at - clock.now() - A_MOMENT)
    assert service.account(ada.headers).status_code == 200
    # The response has whole seconds.
    move_clock(A_MOMENT + timedelta(seconds=1))
    assert_ended(service, ada.headers)


@pytest.mark.parametrize("before", [A_MOMENT, timedelta()], ids=["works before", "is refused after"])
def test_an_idle_session_ends_at_its_expires_at(
    service: Service, ada: Person, move_clock: MoveClock, before: timedelta
) -> None:
    expires_at = moment(ada.session["expires_at"])
    assert timedelta(days=30) <= expires_at - clock.now() <= timedelta(days=31)
    move_clock(expires_at - clock.now() - before)
    assert service.account(ada.headers).status_code == (200 if before else 401)


@any_database
def test_session_lifetimes_are_settings(make_service: MakeService, move_clock: MoveClock) -> None:
    service = make_service(session_idle_days=2, session_max_days=3)
    ada = service.register()
    for _ in range(2):
        move_clock(timedelta(days=1, hours=11))
        assert service.account(ada.headers).status_code == 200
    move_clock(timedelta(hours=2, minutes=1))
    assert_ended(service, ada.headers)


@pytest.mark.parametrize("batch", [sessions.BATCH, 2])
def test_ended_sessions_are_not_listed_and_are_deleted_in_batches(
    service: Service, ada: Person, move_clock: MoveClock, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    for _ in range(4):
        service.sign_in()
    move_clock(timedelta(days=40))
    fresh = [service.sign_in().json["session"] for _ in range(3)]
    ids = {session["id"] for session in fresh}
    assert {entry["id"] for entry in listed(service, bearer(fresh[0]["token"]))} == ids
    assert_ended(service, ada.headers)
    monkeypatch.setattr(sessions, "BATCH", batch)
    with service.app.app_context():
        counts = [len(service.rows("sessions")) for _ in sessions.forget_ended()]
    assert len(counts) == (5 + 3) // batch
    assert counts == sorted(counts, reverse=True)
    assert {str(uuid.UUID(str(row["id"]))) for row in service.rows("sessions")} == ids
    assert service.account(bearer(fresh[0]["token"])).status_code == 200


def test_tidying_continues_step_by_step_restarts_after_a_failure_and_then_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = []

    def steps() -> Iterator[None]:
        done.append("first")
        if done == ["first"]:
            raise LookupError("the database is away")
        yield
        done.append("second")

    monkeypatch.setattr(worker, "tidy", steps)
    tidying = worker.Tidying()
    with pytest.raises(LookupError):
        tidying.step()
    for _ in range(5):
        tidying.step()
    assert done == ["first", "first", "second"]
    monkeypatch.setattr(worker, "TIDY_SECONDS", 0)
    tidying = worker.Tidying()
    for _ in range(4):
        tidying.step()
    assert done[3:] == ["first", "second", "first", "second"]
