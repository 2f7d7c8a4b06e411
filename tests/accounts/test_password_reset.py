"""Resetting a forgotten password: an address, a mailed link, a new password."""

from collections.abc import Callable
from datetime import timedelta

import pytest
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

MoveClock = Callable[[timedelta], None]
THIRD_PASSWORD = "copper violin under snow"


def test_a_forgotten_password_is_replaced_from_the_address_to_the_next_session(service: Service, ada: Person) -> None:
    response = service.http.post("/v1/password-resets", json={"email": ada.email})
    assert (response.status_code, response.json) == (202, {})
    message = service.mail()
    assert f"https://accounts.tiles.test/password-reset#{token_of(message)}" in text_of(message)
    response = service.reset(token_of(message))
    assert (response.status_code, response.data) == (204, b"")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert service.sign_in(password=OTHER_PASSWORD).json["account"]["name"] == ada.name


def test_every_session_ends(service: Service, ada: Person) -> None:
    other = bearer(service.sign_in().json["session"]["token"])
    assert service.reset(service.ask_for_reset()).status_code == 204
    for headers in (ada.headers, other):
        assert_problem(service.account(headers), 401, "unauthenticated")
    assert service.rows("sessions") == []


def test_nobody_else_is_signed_out(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    assert service.reset(service.ask_for_reset(ada.email)).status_code == 204
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in(bob.email).status_code == 201


@pytest.mark.usefixtures("ada")
def test_a_weak_password_leaves_the_link_good(service: Service) -> None:
    token = service.ask_for_reset()
    document = assert_problem(service.reset(token, "too short"), 422, "weak-password")
    assert {entry["pointer"] for entry in document["errors"]} == {"/password"}
    assert service.sign_in().status_code == 201
    assert service.reset(token).status_code == 204


@any_database
@pytest.mark.usefixtures("ada")
def test_a_password_built_from_the_name_or_the_address_is_refused(service: Service) -> None:
    token = service.ask_for_reset()
    for password in ("ada lovelace 1815", "ada@example.org 1815"):
        assert_problem(service.reset(token, password), 422, "weak-password")


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
def test_the_day_begins_when_the_mail_is_made(service: Service, move_clock: MoveClock) -> None:
    service.http.post("/v1/password-resets", json={"email": "ada@example.org"})
    move_clock(timedelta(hours=30))
    assert service.reset(token_of(service.mail())).status_code == 204


def test_a_reset_ends_every_other_link(service: Service, ada: Person) -> None:
    links = [service.ask_for_reset(), service.ask_to_register(email=ada.email), service.ask_for_reset()]
    used = links.pop(1)
    assert service.reset(used).status_code == 204
    for link in links:
        assert_problem(service.reset(link, THIRD_PASSWORD), 400, "invalid-token")


def test_a_changed_password_ends_every_link(service: Service, ada: Person) -> None:
    link = service.ask_for_reset()
    passwords = {"current_password": PASSWORD, "new_password": THIRD_PASSWORD}
    assert service.http.put("/v1/account/password", json=passwords, headers=ada.headers).status_code == 204
    assert_problem(service.reset(link), 400, "invalid-token")
    assert service.sign_in(password=THIRD_PASSWORD).status_code == 201


@pytest.mark.usefixtures("ada")
def test_a_link_dies_even_if_the_newer_password_is_the_old_one_again(service: Service) -> None:
    first, second = service.ask_for_reset(), service.ask_for_reset()
    assert service.reset(second, PASSWORD).status_code == 204
    assert_problem(service.reset(first), 400, "invalid-token")


@any_database
@pytest.mark.usefixtures("ada")
def test_a_link_asked_for_afterwards_works(service: Service) -> None:
    assert service.reset(service.ask_for_reset(), OTHER_PASSWORD).status_code == 204
    service.deliver()
    assert service.reset(service.ask_for_reset(), THIRD_PASSWORD).status_code == 204
    assert service.sign_in(password=THIRD_PASSWORD).status_code == 201


def test_a_notice_arrives_and_holds_no_token(service: Service, ada: Person) -> None:
    assert service.reset(service.ask_for_reset()).status_code == 204
    notice = service.mail()
    assert notice["To"] == ada.email
    assert "password was changed" in notice["Subject"]
    for part in (text_of(notice), html_of(notice)):
        assert "https://accounts.tiles.test/password-reset" in part
        assert "/password-reset#" not in part
        assert OTHER_PASSWORD not in part
    assert "#" not in text_of(notice)


@pytest.mark.usefixtures("ada")
def test_a_refused_reset_sends_no_notice(service: Service) -> None:
    token = service.ask_for_reset()
    service.reset(token, "too short")
    service.reset("made-up")
    assert service.deliver() == []


@pytest.mark.usefixtures("ada")
def test_an_unknown_address_gets_no_mail_at_all(service: Service) -> None:
    response = service.http.post("/v1/password-resets", json={"email": "bob@example.org"})
    assert (response.status_code, response.json) == (202, {})
    assert service.deliver() == []
    assert service.rows("mails") == []


@pytest.mark.usefixtures("ada")
@any_database
def test_an_address_that_only_looks_alike_gets_no_mail(service: Service) -> None:
    for address in ("\u0430da@example.org", "ada@ex\u0430mple.org", "ada@example.org.example.com", "ada+1@example.org"):
        service.http.post("/v1/password-resets", json={"email": address})
    assert service.deliver() == []


def test_the_mail_goes_to_the_address_as_registered(service: Service) -> None:
    service.register(email="Ada.L@example.org")
    service.http.post("/v1/password-resets", json={"email": "ADA.l@EXAMPLE.org"})
    assert service.mail()["To"] == "Ada.L@example.org"
    assert service.mail_server.envelopes[-1].rcpt_tos == ["Ada.L@example.org"]


def test_a_locked_sign_in_is_opened_by_a_reset(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits="sign-in/address+client=3/5 minutes")
    service.register()
    for _ in range(3):
        assert_problem(service.sign_in(password="not that one"), 401, "wrong-credentials")
    assert_problem(service.sign_in(), 429, "too-many-requests")
    assert service.reset(service.ask_for_reset("ADA@example.org")).status_code == 204
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201


def test_a_reset_opens_no_session(service: Service, ada: Person) -> None:
    response = service.reset(service.ask_for_reset(ada.email))
    assert "Set-Cookie" not in response.headers
    assert service.rows("sessions") == []
