"""Registering: a name and an address, a mailed link, a password."""

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


@any_database
@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-5],
        lambda token: token[5:],
        lambda token: token.partition(".")[0],
        lambda token: ("A" if token[9] != "A" else "B").join((token[:9], token[10:])),
        lambda token: token + ".",
        lambda _: "made-up",
        lambda _: "..",
        lambda _: "é\0\u202e",
    ],
    ids=["cut off", "beheaded", "unsigned", "altered", "prolonged", "made up", "dots", "not ASCII"],
)
def test_a_spoilt_token_is_refused(service: Service, spoil: Callable[[str], str]) -> None:
    token = service.ask_to_register()
    assert_problem(service.confirm(spoil(token)), 400, "invalid-token")
    assert service.confirm(token).status_code == 201


@pytest.mark.usefixtures("ada")
def test_a_token_of_another_purpose_is_refused(service: Service) -> None:
    assert_problem(service.confirm(service.ask_for_reset()), 400, "invalid-token")


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


@any_database
@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("Zoe\u0308", "Zo\u00eb"),
        ("\t 李明 \n", "李明"),
        ("O'Neil-\u05d0\u05d1 III.", "O'Neil-\u05d0\u05d1 III."),
        ("x" * 200, "x" * 200),
    ],
)
def test_a_name_is_kept_as_typed_but_trimmed_and_composed(service: Service, typed: str, stored: str) -> None:
    token = service.ask_to_register(name=typed)
    assert service.confirm(token).json["account"]["name"] == stored


@any_database
@pytest.mark.parametrize("name", ["", " \t ", "x" * 201, "a\nb", "a\rb", "a\0b", "a\u2028b", "a\u202eb", "\u200b"])
def test_a_name_that_is_none_is_refused(service: Service, name: str) -> None:
    response = service.http.post("/v1/registrations", json={"name": name, "email": "ada@example.org"})
    document = assert_problem(response, 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/name"]
    assert service.deliver() == []


@any_database
@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.org",
        "ada@example",
        "ada@@example.org",
        "ada@example.org\n",
        "ada@example.org\r\nBcc: eve@example.org",
        "ada@example.org, eve@example.org",
        "Ada <ada@example.org>",
        "\u0430da@example.org",
        "a@" + "b" * 60 + ".c" * 100 + ".org",
    ],
)
def test_an_address_that_is_none_is_refused(service: Service, email: str) -> None:
    response = service.http.post("/v1/registrations", json={"name": "Ada", "email": email})
    document = assert_problem(response, 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/email"]
    assert service.deliver() == []


@any_database
@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name", "/email"]),
        ({"name": "Ada"}, ["/email"]),
        ({"name": None, "email": "ada@example.org"}, ["/name"]),
        ({"name": "Ada", "email": ["ada@example.org"]}, ["/email"]),
        ([], [""]),
    ],
)
def test_a_member_that_is_missing_or_of_another_type_is_pointed_to(
    service: Service, body: object, pointers: list[str]
) -> None:
    document = assert_problem(service.http.post("/v1/registrations", json=body), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == pointers


def test_an_international_domain_is_mailed_to_and_signed_in_with(service: Service) -> None:
    token = service.ask_to_register(email="ada@BÜCHER.example")
    assert service.mail_server.envelopes[-1].rcpt_tos == ["ada@xn--bcher-kva.example"]
    assert service.confirm(token).json["account"]["email"] == "ada@bücher.example"
    assert service.sign_in("ada@xn--bcher-kva.example").status_code == 201
