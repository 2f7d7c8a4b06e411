"""Resetting a forgotten password: an email, a mailed link, a new password."""

from datetime import timedelta

import pytest
from journeys import MakeService, MoveClock, post
from support import (
    OTHER_PASSWORD,
    PASSWORD,
    Person,
    Service,
    any_database,
    assert_problem,
    bearer,
    html_of,
    text_of,
    token_of,
)

THIRD_PASSWORD = "copper violin under snow"


def test_a_forgotten_password_is_replaced_from_the_address_to_the_next_session(service: Service, ada: Person) -> None:
    response = post(service, "password-resets", email=ada.email)
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 86400})
    message = service.mail()
    assert f"https://accounts.tiles.test/password-reset#{token_of(message)}" in text_of(message)
    response = service.reset(token_of(message))
    assert (response.status_code, response.data) == (204, b"")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert service.sign_in(password=OTHER_PASSWORD).json["account"]["name"] == ada.name


def test_a_reset_starts_no_session(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    other = bearer(service.sign_in().json["session"]["token"])
    response = service.reset(service.ask_for_reset())
    assert response.status_code == 204
    assert "Set-Cookie" not in response.headers
    for headers in (ada.headers, other):
        assert_problem(service.account(headers), 401, "unauthenticated")
    assert len(service.rows("sessions")) == 1
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in(bob.email).status_code == 201


@pytest.mark.usefixtures("ada")
def test_a_weak_password_keeps_the_link_valid_and_sends_no_notice(service: Service) -> None:
    token = service.ask_for_reset()
    for password in ("too short", "ada lovelace 1815", "ada@example.org 1815"):
        document = assert_problem(service.reset(token, password), 422, "weak-password")
        assert {entry["pointer"] for entry in document["errors"]} == {"/password"}
    assert_problem(service.reset("made-up"), 400, "invalid-token")
    assert service.deliver() == []
    assert service.sign_in().status_code == 201
    assert service.reset(token).status_code == 204


@pytest.mark.usefixtures("ada")
def test_a_used_link_is_refused(service: Service) -> None:
    token = service.ask_for_reset()
    assert service.reset(token).status_code == 204
    assert_problem(service.reset(token, THIRD_PASSWORD), 400, "invalid-token")
    assert_problem(service.reset(token, OTHER_PASSWORD), 400, "invalid-token")
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201


@any_database
@pytest.mark.usefixtures("ada")
def test_a_link_works_for_a_day(service: Service, move_clock: MoveClock) -> None:
    token = service.ask_for_reset()
    move_clock(timedelta(hours=23, minutes=59, seconds=50))
    assert service.reset(token).status_code == 204


@pytest.mark.usefixtures("ada")
def test_an_expired_link_is_refused(service: Service, move_clock: MoveClock) -> None:
    token = service.ask_for_reset()
    move_clock(timedelta(hours=24, seconds=2))
    assert_problem(service.reset(token), 400, "invalid-token")
    assert service.sign_in().status_code == 201


@any_database
@pytest.mark.usefixtures("ada")
def test_the_day_begins_when_the_email_is_made(service: Service, move_clock: MoveClock) -> None:
    post(service, "password-resets", email="ada@example.org")
    move_clock(timedelta(hours=30))
    assert service.reset(token_of(service.mail())).status_code == 204


def test_a_reset_ends_every_other_link_and_a_later_one_works(service: Service, ada: Person) -> None:
    links = [service.ask_for_reset(), service.ask_to_register(email=ada.email), service.ask_for_reset()]
    # Setting the same password again counts as a new password.
    assert service.reset(links.pop(1), PASSWORD).status_code == 204
    for link in links:
        assert_problem(service.reset(link, THIRD_PASSWORD), 400, "invalid-token")
    service.deliver()
    assert service.reset(service.ask_for_reset(), THIRD_PASSWORD).status_code == 204
    assert service.sign_in(password=THIRD_PASSWORD).status_code == 201


def test_a_changed_password_ends_every_link(service: Service, ada: Person) -> None:
    link = service.ask_for_reset()
    passwords = {"current_password": PASSWORD, "new_password": THIRD_PASSWORD}
    assert service.http.put("/v1/account/password", json=passwords, headers=ada.headers).status_code == 204
    assert_problem(service.reset(link), 400, "invalid-token")
    assert service.sign_in(password=THIRD_PASSWORD).status_code == 201


def test_a_notice_arrives_and_contains_no_token(service: Service, ada: Person) -> None:
    assert service.reset(service.ask_for_reset()).status_code == 204
    notice = service.mail()
    assert notice["To"] == ada.email
    assert "password was changed" in notice["Subject"]
    for part in (text_of(notice), html_of(notice)):
        assert "https://accounts.tiles.test/password-reset" in part
        assert "/password-reset#" not in part
        assert OTHER_PASSWORD not in part
    assert "#" not in text_of(notice)


@any_database
@pytest.mark.usefixtures("ada")
def test_an_address_without_an_account_or_one_that_looks_alike_gets_no_email(service: Service) -> None:
    for address in (
        "bob@example.org", "\u0430da@example.org", "ada@ex\u0430mple.org", "ada@example.org.example.com",
        "ada+1@example.org",
    ):  # fmt: skip
        # Anything but ASCII before the @ is refused.
        assert post(service, "password-resets", email=address).status_code in {202, 422}
    assert service.deliver() == []
    assert service.rows("mails") == []


def test_the_email_goes_to_the_address_as_registered(service: Service) -> None:
    service.register(email="Ada.L@example.org")
    post(service, "password-resets", email="ADA.l@EXAMPLE.org")
    assert service.mail()["To"] == "Ada.L@example.org"
    assert service.mail_server.envelopes[-1].rcpt_tos == ["Ada.L@example.org"]


@any_database
def test_a_reset_ends_a_sign_in_lock(make_service: MakeService) -> None:
    service = make_service(rate_limits="sign-in/address+client=3/5 minutes")
    service.register()
    for _ in range(3):
        assert_problem(service.sign_in(password="not that one"), 401, "wrong-credentials")
    assert_problem(service.sign_in(), 429, "too-many-requests")
    assert service.reset(service.ask_for_reset("ADA@example.org")).status_code == 204
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201
