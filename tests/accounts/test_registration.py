"""Registering: a name and an address, a mailed link, a password."""

from collections.abc import Callable
from datetime import timedelta

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


def test_a_person_registers_from_the_form_to_the_first_session(service: Service) -> None:
    response = service.http.post("/v1/registrations", json={"name": " Ada Lovelace ", "email": "Ada@Example.org"})
    assert (response.status_code, response.json) == (202, {})
    message = service.mail()
    assert message["To"] == "Ada@example.org"
    response = service.confirm(token_of(message))
    assert response.status_code == 201
    account, session = response.json["account"], response.json["session"]
    assert account.items() >= {"name": "Ada Lovelace", "email": "Ada@example.org", "email_updates": True}.items()
    assert account["policy"] == {"accepted": None, "current": None}
    assert session["token"].startswith("tiles_")
    assert service.account(bearer(session["token"])).json == account


def test_no_row_tells_of_a_registration_once_its_mail_is_handed_over(service: Service) -> None:
    service.ask_to_register()
    assert service.rows("accounts") == service.rows("mails") == []


def test_the_mail_to_an_unproven_address_does_not_repeat_the_name(service: Service) -> None:
    service.http.post("/v1/registrations", json={"name": "Buy at spam.example", "email": "ada@example.org"})
    message = service.mail()
    assert "spam" not in text_of(message) + html_of(message) + str(message["Subject"]) + str(message["To"])


@any_database
def test_both_parts_of_the_mail_show_the_link_and_the_code(service: Service) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    message = service.mail()
    token = token_of(message)
    for part in (text_of(message), html_of(message)):
        assert f"https://accounts.tiles.test/registration#{token}" in part
        assert part.replace(f"#{token}", "").count(token) == 1


def test_a_used_link_is_refused(service: Service, ada: Person) -> None:
    assert_problem(service.confirm(ada.token), 400, "invalid-token")


def test_a_link_works_for_24_hours(service: Service, move_clock: Callable[[timedelta], None]) -> None:
    token = service.ask_to_register()
    move_clock(timedelta(hours=23, minutes=59))
    assert service.confirm(token).status_code == 201


def test_an_expired_link_is_refused(service: Service, move_clock: Callable[[timedelta], None]) -> None:
    token = service.ask_to_register()
    move_clock(timedelta(hours=24, seconds=2))
    assert_problem(service.confirm(token), 400, "invalid-token")
    assert service.rows("accounts") == []


def test_a_link_outlives_a_new_key_until_the_old_one_is_taken_out(make_service: Callable[..., Service]) -> None:
    old, new = "the key that signed the mail so far", "the key that signs from now on and on"
    token = make_service(secret_keys=old).ask_to_register()
    assert_problem(make_service(secret_keys=new).confirm(token), 400, "invalid-token")
    assert make_service(secret_keys=f"{new},{old}").confirm(token).status_code == 201


def test_a_second_link_for_a_registered_address_says_that_it_is_in_use(service: Service) -> None:
    first, second = service.ask_to_register(), service.ask_to_register(email="ADA@EXAMPLE.org")
    assert service.confirm(first).status_code == 201
    assert_problem(service.confirm(second), 409, "email-in-use")


def test_a_weak_password_leaves_the_link_good(service: Service) -> None:
    token = service.ask_to_register()
    document = assert_problem(service.confirm(token, "ada lovelace 1815"), 422, "weak-password")
    assert {entry["pointer"] for entry in document["errors"]} == {"/password"}
    assert service.confirm(token, PASSWORD).status_code == 201


def test_whoever_has_an_account_is_mailed_a_way_back_in(service: Service, ada: Person) -> None:
    response = service.http.post("/v1/registrations", json={"name": "Eve", "email": "ADA@example.org"})
    assert (response.status_code, response.json) == (202, {})
    message = service.mail()
    assert message["To"] == ada.email
    assert "https://accounts.tiles.test/password-reset#" in text_of(message)
    assert service.reset(token_of(message)).status_code == 204
    assert service.sign_in(password=OTHER_PASSWORD).json["account"]["name"] == ada.name


def test_an_international_domain_is_mailed_to_and_signed_in_with(service: Service) -> None:
    token = service.ask_to_register(email="ada@BÜCHER.example")
    assert service.mail_server.envelopes[-1].rcpt_tos == ["ada@xn--bcher-kva.example"]
    assert service.confirm(token).json["account"]["email"] == "ada@bücher.example"
    assert service.sign_in("ada@xn--bcher-kva.example").status_code == 201
