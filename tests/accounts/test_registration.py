"""Registering: a name and an email, a mailed link, a password."""

import re

import pytest
from journeys import at_once, post
from links import LINKS, NEW, token_in
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem, bearer

from backend.security.tokens import Purpose


def test_a_person_registers_from_the_form_to_the_first_session(service: Service) -> None:
    response = post(service, "registrations", name=" Ada Lovelace ", email="Ada@Example.org")
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 86400})
    message = service.mail()
    assert message["To"] == "Ada@example.org"
    assert service.rows("accounts") == service.rows("mails") == []
    response = service.confirm(token_of(message))
    assert response.status_code == 201
    account, session = response.json["account"], response.json["session"]
    assert account.items() >= {"name": "Ada Lovelace", "email": "Ada@example.org", "email_updates": True}.items()
    assert account["policy"] == {"accepted": None, "current": None}
    assert session["token"].startswith("tiles_")
    assert service.account(bearer(session["token"])).json == account


@any_database
def test_both_parts_of_the_email_show_the_link_and_the_code_and_not_the_name(service: Service) -> None:
    post(service, "registrations", name="Buy at spam.example", email="ada@example.org")
    message = service.mail()
    token = token_of(message)
    for part in (text_of(message), html_of(message)):
        assert f"https://accounts.tiles.test/registration#{token}" in part
        assert part.replace(f"#{token}", "").count(token) == 1
        assert "spam" not in part
    assert "spam" not in str(message["Subject"]) + str(message["To"])


def test_a_second_link_for_a_registered_address_says_that_it_is_in_use(service: Service) -> None:
    first, second = service.ask_to_register(), service.ask_to_register(email="ADA@EXAMPLE.org")
    assert service.confirm(first).status_code == 201
    assert_problem(service.confirm(second), 409, "email-in-use")


def test_an_address_with_an_account_is_mailed_a_reset_link(service: Service, ada: Person) -> None:
    response = post(service, "registrations", name="Eve", email="ADA@example.org")
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 86400})
    message = service.mail()
    assert message["To"] == ada.email
    assert "https://accounts.tiles.test/password-reset#" in text_of(message)
    assert service.reset(token_of(message)).status_code == 204
    assert service.sign_in(password=OTHER_PASSWORD).json["account"]["name"] == ada.name


@pytest.mark.parametrize("purpose", [Purpose.ERASURE_CANCEL, Purpose.EMAIL_CHANGE, Purpose.EMAIL_CHANGE_UNDO])
def test_of_a_registration_and_another_link_used_at_once_one_takes_the_address(
    service: Service, ada: Person, purpose: Purpose
) -> None:
    link, email = LINKS[purpose], NEW if purpose is Purpose.EMAIL_CHANGE else ada.email
    token = token_in(link.request(service, ada))
    registration = service.ask_to_register(name="Bob", email=email)
    responses = at_once(lambda: link.use(service, token), lambda: service.confirm(registration, OTHER_PASSWORD))
    assert sorted(response.status_code for response in responses) in ([204, 409], [201, 409])
    assert [row["email"] for row in service.rows("accounts") if row["closed_at"] is None].count(email) == 1


# Attacks before the owner registers (Sudhodanan and Paverd, USENIX Security 2022); two more are in test_email_change.py


@any_database
def test_pre_hijacking_by_an_identity_provider_has_no_entry_point(service: Service) -> None:
    document = service.http.get("/openapi.json").json
    assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http"}
    paths = " ".join(rule.rule for rule in service.app.url_map.iter_rules())
    assert re.findall(r"\b(oauth|oidc|saml|callback|sso|authorize|jwks)\b", paths) == []
