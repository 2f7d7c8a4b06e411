"""Sessions: opened with an address and a password, listed, ended, and ending by themselves."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from support import PASSWORD, Person, Service, any_database, assert_problem, bearer

from backend import clock
from backend.accounts import sessions
from backend.serving import worker

MoveClock = Callable[[timedelta], None]
A_MOMENT = timedelta(minutes=1)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def listed(service: Service, headers: dict[str, str]) -> list[dict[str, Any]]:
    response = service.http.get("/v1/sessions", headers=headers)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json["sessions"]
    return found


def assert_ended(service: Service, headers: dict[str, str]) -> None:
    assert_problem(service.account(headers), 401, "unauthenticated")


def test_signing_in_answers_with_the_account_and_a_session(service: Service, ada: Person) -> None:
    response = service.sign_in("ADA@Example.ORG")
    assert response.status_code == 201
    assert set(response.json) == {"account", "session"}
    assert set(response.json["session"]) == {"token", "id", "expires_at"}
    assert response.json["account"] == service.account(ada.headers).json
    assert service.account(bearer(response.json["session"]["token"])).status_code == 200


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("ada@example.org", PASSWORD + "!"),
        ("ada@example.org", PASSWORD.upper()),
        ("ada@example.org", PASSWORD[:-1]),
        ("bob@example.org", PASSWORD),
    ],
)
def test_wrong_credentials_are_refused_with_one_answer(service: Service, email: str, password: str) -> None:
    response = service.sign_in(email, password)
    assert_problem(response, 401, "wrong-credentials")
    assert response.data == service.sign_in("nobody@example.org", "nothing at all").data


def test_the_list_shows_each_session_the_newest_first(service: Service, ada: Person, move_clock: MoveClock) -> None:
    move_clock(timedelta(minutes=1))
    second = service.sign_in().json["session"]
    newest, oldest = listed(service, ada.headers)
    assert set(newest) == {"id", "created_at", "last_used_on", "expires_at", "current"}
    assert (newest["id"], newest["current"]) == (second["id"], False)
    assert (oldest["id"], oldest["current"]) == (ada.session["id"], True)
    assert newest["expires_at"] == second["expires_at"]
    assert moment(newest["created_at"]) - moment(oldest["created_at"]) > timedelta(minutes=1)


def test_the_list_shows_no_session_of_anybody_else(service: Service, ada: Person) -> None:
    service.register(name="Bob", email="bob@example.org")
    assert [entry["id"] for entry in listed(service, ada.headers)] == [ada.session["id"]]


@any_database
def test_moments_are_in_utc_and_say_so(service: Service, ada: Person) -> None:
    (entry,) = listed(service, ada.headers)
    account = service.account(ada.headers).json
    for text in (entry["created_at"], entry["expires_at"], ada.session["expires_at"], account["created_at"]):
        assert text.endswith("Z")


def test_signing_out_ends_this_session_only(service: Service, ada: Person) -> None:
    other = bearer(service.sign_in().json["session"]["token"])
    response = service.http.delete("/v1/sessions/current", headers=ada.headers)
    assert (response.status_code, response.data) == (204, b"")
    assert_ended(service, ada.headers)
    assert service.account(other).status_code == 200


def test_a_session_can_be_ended_from_another(service: Service, ada: Person) -> None:
    other = service.sign_in().json["session"]
    assert service.http.delete(f"/v1/sessions/{other['id']}", headers=ada.headers).status_code == 204
    assert_ended(service, bearer(other["token"]))
    assert [entry["id"] for entry in listed(service, ada.headers)] == [ada.session["id"]]


def test_all_sessions_of_the_account_can_be_ended_at_once(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    other = bearer(service.sign_in().json["session"]["token"])
    assert service.http.delete("/v1/sessions", headers=ada.headers).status_code == 204
    assert_ended(service, ada.headers)
    assert_ended(service, other)
    assert service.account(bob.headers).status_code == 200


def test_a_session_of_somebody_else_is_not_found_and_goes_on(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    response = service.http.delete(f"/v1/sessions/{bob.session['id']}", headers=ada.headers)
    assert_problem(response, 404, "not-found")
    made_up = service.http.delete(f"/v1/sessions/{uuid.uuid4()}", headers=ada.headers)
    assert response.data == made_up.data
    assert service.account(bob.headers).status_code == 200


def test_an_ended_session_cannot_be_ended_again(service: Service, ada: Person) -> None:
    other = service.sign_in().json["session"]
    end = lambda: service.http.delete(f"/v1/sessions/{other['id']}", headers=ada.headers)  # noqa: E731
    assert end().status_code == 204
    assert_problem(end(), 404, "not-found")


def test_a_session_in_use_ends_at_its_greatest_age(service: Service, ada: Person, move_clock: MoveClock) -> None:
    for _ in range(7):
        move_clock(timedelta(days=25))
        assert service.account(ada.headers).status_code == 200
    (entry,) = listed(service, ada.headers)
    expires_at = moment(entry["expires_at"])
    assert expires_at - moment(entry["created_at"]) == timedelta(days=180)
    move_clock(expires_at - clock.now() - A_MOMENT)
    assert service.account(ada.headers).status_code == 200
    move_clock(A_MOMENT)
    assert_ended(service, ada.headers)


@any_database
def test_an_idle_session_lives_until_the_moment_that_it_was_told(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    expires_at = moment(ada.session["expires_at"])
    assert timedelta(days=30) <= expires_at - clock.now() <= timedelta(days=31)
    move_clock(expires_at - clock.now() - A_MOMENT)
    assert service.account(ada.headers).status_code == 200


def test_an_idle_session_ends_at_the_moment_that_it_was_told(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    move_clock(moment(ada.session["expires_at"]) - clock.now())
    assert_ended(service, ada.headers)


@any_database
def test_a_session_that_was_used_is_not_idle(service: Service, ada: Person, move_clock: MoveClock) -> None:
    for _ in range(3):
        move_clock(timedelta(days=29))
        assert service.account(ada.headers).status_code == 200


@any_database
def test_how_long_a_session_lasts_is_a_setting(make_service: Callable[..., Service], move_clock: MoveClock) -> None:
    service = make_service(session_idle_days=2, session_max_days=3)
    ada = service.register()
    for _ in range(2):
        move_clock(timedelta(days=1, hours=11))
        assert service.account(ada.headers).status_code == 200
    move_clock(timedelta(hours=2, minutes=1))
    assert_ended(service, ada.headers)


def test_a_session_that_ended_by_itself_is_listed_no_more(service: Service, ada: Person, move_clock: MoveClock) -> None:
    move_clock(timedelta(days=20))
    fresh = service.sign_in().json["session"]
    move_clock(timedelta(days=20))
    assert [entry["id"] for entry in listed(service, bearer(fresh["token"]))] == [fresh["id"]]
    assert_ended(service, ada.headers)


@pytest.mark.usefixtures("ada")
def test_a_session_that_ended_by_itself_is_forgotten(service: Service, move_clock: MoveClock) -> None:
    move_clock(timedelta(days=20))
    fresh = service.sign_in().json["session"]
    move_clock(timedelta(days=20))
    with service.app.app_context():
        list(worker.tidy())
    assert len(service.rows("sessions")) == 1
    assert service.account(bearer(fresh["token"])).status_code == 200


@pytest.mark.usefixtures("ada")
def test_of_many_sessions_a_few_are_looked_at_at_a_time_and_all_that_ended_are_forgotten(
    service: Service, move_clock: MoveClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [service.sign_in().json["session"] for _ in range(4)]
    move_clock(timedelta(days=40))
    fresh = {service.sign_in().json["session"]["id"] for _ in range(3)}
    monkeypatch.setattr(sessions, "LOOKED_AT", 2)
    with service.app.app_context():
        left = [len(service.rows("sessions")) for _ in worker.tidy()]
    # One more was there with the account.
    assert len(left) == (1 + len(old) + len(fresh)) // 2
    assert left == sorted(left, reverse=True)
    assert {str(uuid.UUID(str(row["id"]))) for row in service.rows("sessions")} == fresh


def test_tidying_goes_on_after_each_step_begins_anew_after_a_failure_and_then_pauses(
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


def test_the_last_use_is_a_day_without_a_time(service: Service, ada: Person, move_clock: MoveClock) -> None:
    move_clock(timedelta(days=3))
    assert service.account(ada.headers).status_code == 200
    today = clock.now().date()
    (entry,) = listed(service, ada.headers)
    assert date.fromisoformat(entry["last_used_on"]) == today
    (row,) = service.rows("sessions")
    assert str(row["last_used_on"]) == today.isoformat()


def test_only_the_first_use_of_a_day_is_written_down(service: Service, ada: Person, move_clock: MoveClock) -> None:
    move_clock(timedelta(days=1))

    def writes() -> int:
        with service.statements() as seen:
            assert service.account(ada.headers).status_code == 200
        return sum(statement.startswith(("UPDATE", "INSERT", "DELETE")) for statement in seen)

    assert (writes(), writes()) == (1, 0)


def test_of_a_session_token_only_the_sha256_is_stored(service: Service, ada: Person) -> None:
    token = ada.session["token"]
    assert token.startswith("tiles_")
    assert len(token.removeprefix("tiles_")) == 43
    (row,) = service.rows("sessions")
    assert bytes(row["token_sha256"]) == hashlib.sha256(token.encode()).digest()
    assert token.removeprefix("tiles_") not in repr([service.rows(name) for name in ("accounts", "sessions", "mails")])


@any_database
def test_no_two_sessions_share_a_token_or_an_id(service: Service, ada: Person) -> None:
    opened = [ada.session, *(service.sign_in().json["session"] for _ in range(9))]
    assert len({session["token"] for session in opened}) == len({session["id"] for session in opened}) == 10


def test_signing_in_after_argon2_was_raised_renews_the_hash_and_ends_nothing(
    service: Service, ada: Person, make_service: Callable[..., Service]
) -> None:
    link = service.ask_for_reset()
    (before,) = service.rows("accounts")
    raised = make_service(argon2_memory_kib=16, argon2_time_cost=2)
    opened = raised.sign_in()
    (after,) = raised.rows("accounts")
    assert ",t=1," in before["password_hash"]
    assert "$m=16,t=2,p=1$" in after["password_hash"]
    assert after == before | {"password_hash": after["password_hash"]}
    for headers in (ada.headers, bearer(opened.json["session"]["token"])):
        assert raised.account(headers).status_code == 200
    assert raised.sign_in().status_code == 201
    assert raised.reset(link).status_code == 204


@any_database
def test_a_wrong_password_renews_no_hash(service: Service, ada: Person, make_service: Callable[..., Service]) -> None:
    before = service.rows("accounts")
    assert_problem(make_service(argon2_time_cost=2).sign_in(ada.email, "not that one"), 401, "wrong-credentials")
    assert service.rows("accounts") == before
