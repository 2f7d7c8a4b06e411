"""Closing an account in the app, and opening it again with the link of the closing email."""

from datetime import timedelta

import pytest
from journeys import (
    CLOSED,
    MakeService,
    MoveClock,
    at_once,
    before_the_ledger,
    cancel,
    close,
    closed_by,
    erase_due,
    finish_erasing,
    moment,
    post,
    signed_in,
    to_and_subject,
)
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend import clock

ADA = "ada@example.org"


def acts(service: Service) -> list[tuple[str, str]]:
    """Return the audit's acts and actors."""
    return sorted((row["act"], row["actor"]) for row in service.rows("audit"))


@pytest.mark.parametrize(("erase", "days"), [(False, 365), (True, 14)])
def test_promise_8_closing_ends_every_session_and_says_when_the_account_is_erased(
    service: Service, ada: Person, *, erase: bool, days: int
) -> None:
    link, other = service.ask_for_reset(), signed_in(service, ADA)
    response = close(service, ada.headers, erase=erase)
    assert response.status_code == 200
    assert set(response.json) == {"closed_at", "erase_after"}
    closed_at, erase_after = (moment(response.json[name]) for name in ("closed_at", "erase_after"))
    assert abs(closed_at - clock.now()) < timedelta(minutes=1)
    assert erase_after - closed_at == timedelta(days=days)
    for headers in (ada.headers, other):
        assert_problem(service.account(headers), 401, "unauthenticated")
    before = service.rows("accounts")
    assert_problem(close(service, ada.headers, erase=True), 401, "unauthenticated")
    assert service.rows("accounts") == before
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert_problem(service.reset(link), 400, "invalid-token")
    assert service.rows("sessions") == []
    assert acts(service) == [("closed", "person")] + [("erasure-requested", "person")] * erase
    message = service.mail()
    assert to_and_subject([message]) == {(ADA, CLOSED)}
    for part in (text_of(message), html_of(message)):
        assert f"https://accounts.tiles.test/erasure-cancel#{token_of(message)}" in part
        assert f"{erase_after.day} {erase_after:%B %Y}" in part
        assert ("requested" in part) == erase
    post(service, "password-resets", email=ADA)
    assert service.deliver() == []


@any_database
def test_a_wrong_password_is_refused_and_changes_nothing(service: Service, ada: Person) -> None:
    assert_problem(close(service, ada.headers, erase=True, password="not that one"), 403, "wrong-password")
    assert service.account(ada.headers).status_code == 200
    assert service.deliver() == service.rows("audit") == []


def test_of_concurrent_closings_one_succeeds_and_one_email_is_sent(service: Service, ada: Person) -> None:
    others = [signed_in(service, ADA) for _ in range(3)]
    responses = at_once(*[lambda headers=headers: close(service, headers) for headers in (ada.headers, *others)])
    assert sorted(response.status_code for response in responses) == [200, 401, 401, 401]
    assert acts(service) == [("closed", "person")]
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}


@pytest.mark.parametrize("erase", [False, True])
def test_the_link_reopens_the_account_unchanged(
    service: Service, ada: Person, move_clock: MoveClock, *, erase: bool
) -> None:
    service.http.patch("/v1/account", json={"email_updates": False}, headers=ada.headers)
    before, reset = service.account(ada.headers).json, service.ask_for_reset()
    token = closed_by(service, ada.headers, ADA, erase=erase)
    response = cancel(service, token)
    assert (response.status_code, response.data) == (204, b"")
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.reset(reset), 400, "invalid-token")
    assert_problem(cancel(service, token), 400, "invalid-token")
    assert service.account(signed_in(service, ADA)).json == before
    (row,) = service.rows("accounts")
    assert [row[name] for name in ("closed_at", "erasure_requested_at", "erase_after")] == [None] * 3
    assert ("reopened", "person") in acts(service)
    move_clock(timedelta(days=400))
    assert erase_due(service) == 0


def test_an_old_link_is_refused_after_opening_and_closing_again(service: Service, ada: Person) -> None:
    first = closed_by(service, ada.headers, ADA, erase=True)
    assert cancel(service, first).status_code == 204
    second = closed_by(service, signed_in(service, ADA), ADA, erase=True)
    assert_problem(cancel(service, first), 400, "invalid-token")
    assert cancel(service, second).status_code == 204


@any_database
def test_the_link_works_until_the_erasure(service: Service, ada: Person, move_clock: MoveClock) -> None:
    token = closed_by(service, ada.headers, ADA)
    move_clock(timedelta(days=366))
    assert cancel(service, token).status_code == 204


def test_promise_8_cancelling_after_erasure_is_refused(
    service: Service, ada: Person, move_clock: MoveClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = closed_by(service, ada.headers, ADA, erase=True)
    move_clock(timedelta(days=14, minutes=1))
    responses: list[TestResponse] = []
    before_the_ledger(monkeypatch, lambda: responses.extend(at_once(lambda: cancel(service, token))))
    assert erase_due(service) == 1
    for response in (*responses, cancel(service, token)):
        assert_problem(response, 400, "invalid-token")
    assert len(responses) == 1
    assert service.rows("accounts") == []


def test_of_concurrent_cancelling_and_erasing_exactly_one_succeeds(make_service: MakeService) -> None:
    service = make_service(erasure_grace_days=0)
    for number in range(4):
        person = service.register(email=f"ada{number}@example.org")
        token = closed_by(service, person.headers, person.email, erase=True)
        response, erased = at_once(lambda token=token: cancel(service, token), lambda: erase_due(service))
        # A worker that found the row locked erases it in a later round.
        erased = erased or erase_due(service)
        assert (response.status_code, erased) in {(204, 0), (400, 1)}
        assert service.sign_in(person.email).status_code == (201 if response.status_code == 204 else 401)
        service.deliver()


def test_promise_8_a_closed_account_whose_address_has_a_new_account_stays_closed_and_is_erased(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    post(service, "feedback", ada.headers, message="Mine.")
    token = closed_by(service, ada.headers, ADA, erase=True)
    again = service.register(name="Ada Byron", password=OTHER_PASSWORD)
    export = service.http.get("/v1/account/export", headers=again.headers).text
    assert "Mine." not in export
    assert "Lovelace" not in export
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert_problem(cancel(service, token), 409, "email-in-use")
    move_clock(timedelta(days=14, minutes=1))
    assert finish_erasing(service) == 1
    assert_problem(cancel(service, token), 400, "invalid-token")
    (row,) = service.rows("accounts")
    assert (row["name"], row["closed_at"]) == ("Ada Byron", None)
    assert service.account(again.headers).status_code == 200


@pytest.mark.parametrize(
    ("erase", "settings", "days"),
    [(False, {}, 365), (False, {"closed_retention_days": 0}, None), (True, {"erasure_grace_days": 0}, 0)],
)
def test_a_closed_account_is_erased_on_its_day(
    make_service: MakeService, move_clock: MoveClock, *, erase: bool, settings: dict[str, int], days: int | None
) -> None:
    service = make_service(**settings)
    response = close(service, service.register().headers, erase=erase)
    if days is None:
        assert response.json["erase_after"] is None
        assert "It is kept until you ask to have it erased." in text_of(service.mail())
        move_clock(timedelta(days=4000))
        assert erase_due(service) == 0
        return
    if days:
        move_clock(timedelta(days=days, minutes=-1))
        assert erase_due(service) == 0
        move_clock(timedelta(minutes=2))
    assert days or response.json["erase_after"] == response.json["closed_at"]
    assert erase_due(service) == 1
    assert service.rows("accounts") == []
