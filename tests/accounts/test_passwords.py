"""Passwords: a forgotten one is reset by an emailed link, a known one is changed in the app."""

import pytest
from journeys import MakeService, post, signed_in
from links import CHOOSE_A_PASSWORD, LINKS, NEW, token_in
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend.security.tokens import Purpose

WEAK = "too short", "ada lovelace 1815", "ada@example.org 1815"


def change(service: Service, person: Person, current: str = PASSWORD, new: str = OTHER_PASSWORD) -> TestResponse:
    body = {"current_password": current, "new_password": new}
    return service.http.put("/v1/account/password", json=body, headers=person.headers)


def test_a_forgotten_password_is_replaced_from_the_address_to_the_next_session(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    response = post(service, "password-resets", email=ada.email)
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 86400})
    message = service.mail()
    assert f"https://accounts.tiles.test/password-reset#{token_of(message)}" in text_of(message)
    response = service.reset(token_of(message))
    assert (response.status_code, response.data) == (204, b"")
    # A reset starts no session.
    assert "Set-Cookie" not in response.headers
    assert len(service.rows("sessions")) == 1
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert service.sign_in(password=OTHER_PASSWORD).json["account"]["name"] == ada.name
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in(bob.email).status_code == 201


def test_a_known_password_is_changed_and_this_session_stays(service: Service, ada: Person) -> None:
    bob, other = service.register(name="Bob", email="bob@example.org"), signed_in(service, ada.email)
    response = change(service, ada)
    assert (response.status_code, response.data) == (204, b"")
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert_problem(service.account(other), 401, "unauthenticated")
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in(bob.email).status_code == 201
    assert change(service, ada, current=OTHER_PASSWORD, new=PASSWORD).status_code == 204
    (entry,) = service.http.get("/v1/sessions", headers=ada.headers).json["sessions"]
    assert (entry["id"], entry["current"]) == (ada.session["id"], True)


@pytest.mark.parametrize("purpose", CHOOSE_A_PASSWORD)
def test_a_weak_password_keeps_the_link_valid_and_sends_no_notice(
    service: Service, ada: Person, purpose: Purpose
) -> None:
    link, name, email = LINKS[purpose], "Grace", NEW
    if purpose is Purpose.PASSWORD_RESET:
        name, email = ada.name, ada.email
    token = token_in(link.request(service, ada))
    for password in ("too short", f"{name.lower()} hopper 1815", f"{email} 1815"):
        document = assert_problem(link.use(service, token, password), 422, "weak-password")
        assert {entry["pointer"] for entry in document["errors"]} == {"/password"}
    assert service.deliver() == []
    assert service.sign_in().status_code == 201
    assert link.use(service, token).status_code < 300


def test_a_refused_change_keeps_the_password_the_sessions_and_the_links(service: Service, ada: Person) -> None:
    other, link = signed_in(service, ada.email), service.ask_for_reset()
    for new in (OTHER_PASSWORD, *WEAK):
        assert_problem(change(service, ada, current="not that one", new=new), 403, "wrong-password")
    for new in WEAK:
        document = assert_problem(change(service, ada, new=new), 422, "weak-password")
        assert {entry["pointer"] for entry in document["errors"]} == {"/new_password"}
    assert service.deliver() == []
    assert service.account(other).status_code == 200
    assert service.sign_in().status_code == 201
    assert service.reset(link).status_code == 204


@pytest.mark.parametrize("by", ["reset", "change"])
def test_a_notice_of_a_new_password_arrives_and_contains_no_token(service: Service, ada: Person, by: str) -> None:
    done = change(service, ada) if by == "change" else service.reset(service.ask_for_reset())
    assert done.status_code == 204
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
    assert len(service.rows("mails")) >= 3
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
