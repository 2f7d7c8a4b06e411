"""Changing the email: requested with the password, confirmed from the new mailbox."""

from datetime import timedelta

import pytest
from journeys import (
    CHANGED,
    ERASED,
    MakeService,
    MoveClock,
    ask_for_email_change,
    at_once,
    cancel,
    change_email,
    close,
    confirm_email_change,
    erase_due,
    post,
    request_email_change,
    signed_in,
    the_mail,
    to_and_subject,
    undo,
)
from peers import html_of, text_of, token_of
from support import Person, Service, any_database, assert_problem

from backend.security.hashing import Hasher

NEW = "countess@example.org"
THIRD = "lovelace@example.org"
OLD = "ada@example.org"
THIEF = "thief@example.org"


def email_of(service: Service, person: Person) -> str:
    email: str = service.account(person.headers).json["email"]
    return email


def test_an_email_is_changed_from_the_password_to_the_new_mailbox(service: Service, ada: Person) -> None:
    other, reset = signed_in(service, OLD), service.ask_for_reset()
    response = request_email_change(service, ada.headers, NEW)
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 3600})
    message = service.mail()
    assert message["To"] == NEW
    token = token_of(message)
    assert f"https://accounts.tiles.test/email-change#{token}" in text_of(message)
    for part in (str(message["Subject"]), text_of(message), html_of(message)):
        assert "Lovelace" not in part
        assert OLD not in part
    assert email_of(service, ada) == OLD
    response = confirm_email_change(service, token)
    assert (response.status_code, response.data) == (204, b"")
    assert email_of(service, ada) == NEW
    assert service.account(other).status_code == 200
    assert service.sign_in(NEW).status_code == 201
    assert_problem(service.sign_in(OLD), 401, "wrong-credentials")
    assert_problem(service.reset(reset), 400, "invalid-token")


@any_database
def test_a_wrong_password_is_refused_and_sends_no_email(service: Service, ada: Person) -> None:
    assert_problem(request_email_change(service, ada.headers, NEW, "not that one"), 403, "wrong-password")
    assert service.deliver() == []


def test_a_used_link_is_refused_also_after_the_change_was_reversed(service: Service, ada: Person) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    assert confirm_email_change(service, token).status_code == 204
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")
    service.deliver()
    change_email(service, ada.headers, OLD)
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")
    assert email_of(service, ada) == OLD


@any_database
@pytest.mark.parametrize("email", [OLD, "Ada@Example.org"], ids=["the same", "another case"])
def test_a_link_to_the_present_email_works_once(service: Service, ada: Person, email: str) -> None:
    assert request_email_change(service, ada.headers, email).status_code == 202
    token = token_of(service.mail())
    assert confirm_email_change(service, token).status_code == 204
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")


@any_database
def test_a_second_email_change_ends_the_first(service: Service, ada: Person) -> None:
    first, second = (ask_for_email_change(service, ada.headers, email) for email in (NEW, THIRD))
    assert confirm_email_change(service, second).status_code == 204
    assert_problem(confirm_email_change(service, first), 400, "invalid-token")
    assert email_of(service, ada) == THIRD


def test_of_two_concurrent_changes_one_succeeds(service: Service, ada: Person) -> None:
    first, second = (ask_for_email_change(service, ada.headers, email) for email in (NEW, THIRD))
    # Four requests use each of the two links.
    links = [first, second] * 4
    responses = at_once(*[lambda token=token: confirm_email_change(service, token) for token in links])
    assert sorted(response.status_code for response in responses) == [204, *[400] * 7]
    used = next(token for token, response in zip(links, responses, strict=True) if response.status_code == 204)
    assert email_of(service, ada) == (NEW if used == first else THIRD)
    assert to_and_subject(service.deliver()) == {(OLD, CHANGED)}


# Another account with the new address


@pytest.mark.parametrize("before", [True, False], ids=["before the request", "after the request"])
def test_an_address_taken_meanwhile_is_refused_after_the_mailbox_is_proven(
    service: Service, ada: Person, *, before: bool
) -> None:
    people = [service.register(name="Bob", email="Countess@example.org")] if before else []
    response = request_email_change(service, ada.headers, NEW)
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 3600})
    token = token_of(service.mail())
    bob = people[0] if people else service.register(name="Bob", email="Countess@example.org")
    assert_problem(confirm_email_change(service, token), 409, "email-in-use")
    assert (email_of(service, ada), email_of(service, bob)) == (OLD, "Countess@example.org")
    assert service.deliver() == []
    assert close(service, bob.headers).status_code == 200
    service.deliver()
    assert confirm_email_change(service, token).status_code == 204


def test_of_two_accounts_that_take_an_address_at_once_one_gets_it(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    for email in [f"shared{number}@example.org" for number in range(3)]:
        first, second = (ask_for_email_change(service, person.headers, email) for person in (ada, bob))
        responses = at_once(
            lambda first=first: confirm_email_change(service, first),
            lambda second=second: confirm_email_change(service, second),
        )
        assert sorted(response.status_code for response in responses) == [204, 409]
        assert_problem(max(responses, key=lambda response: response.status_code), 409, "email-in-use")
        assert [email_of(service, ada), email_of(service, bob)].count(email) == 1
        service.deliver()


# What ends a change


@any_database
def test_closing_ends_a_change_also_when_the_account_is_opened_again(service: Service, ada: Person) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    assert request_email_change(service, ada.headers, THIRD).status_code == 202
    assert close(service, ada.headers).status_code == 200
    mails = service.deliver()
    assert {message["To"] for message in mails} == {OLD}
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")
    assert cancel(service, token_of(mails[0])).status_code == 204
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")


def test_an_account_that_is_erased_while_its_password_is_checked_is_unauthenticated(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(erasure_grace_days=0)
    ada = service.register()
    other = signed_in(service, OLD)

    def verify_slowly(self: Hasher, hashed: str | None, password: str) -> bool:
        monkeypatch.undo()
        with service.app.test_request_context():
            assert close(service, other, erase=True).status_code == 200
        assert at_once(lambda: erase_due(service)) == [1]
        return self.verify(hashed, password)

    monkeypatch.setattr(Hasher, "verify", verify_slowly)
    assert_problem(request_email_change(service, ada.headers, NEW), 401, "unauthenticated")
    assert to_and_subject(service.deliver()) == {(OLD, ERASED)}


@any_database
def test_an_account_is_limited_in_all_and_for_an_address_and_limits_no_other_account(make_service: MakeService) -> None:
    service = make_service(rate_limits="email-change/account=2/hour,email-change/address+account=1/hour")
    ada = service.register()
    bob = service.register(name="Bob", email="bob@example.org")
    service.register(name="Eve", email=THIRD)
    assert request_email_change(service, ada.headers, NEW).status_code == 202
    assert_problem(request_email_change(service, ada.headers, NEW.upper()), 429, "too-many-requests")
    # An address that has an account has the same limit.
    assert request_email_change(service, ada.headers, THIRD).status_code == 202
    assert [request_email_change(service, bob.headers, email).status_code for email in (NEW, THIRD)] == [202, 202]
    refused = request_email_change(service, ada.headers, "fourth@example.org")
    assert_problem(refused, 429, "too-many-requests")
    assert int(refused.headers["Retry-After"]) > 0


# Accounts that an attacker prepares before their owner registers (Sudhodanan and Paverd, USENIX Security 2022)


@pytest.fixture
def thief(service: Service) -> Person:
    """A thief whose account has Ada's address, because she confirmed the change by mistake."""
    thief = service.register(name="Thief", email=THIEF)
    change_email(service, thief.headers, OLD)
    return thief


@pytest.mark.usefixtures("thief")
def test_pre_hijacking_by_a_trojan_identifier_ends_after_72_hours(service: Service, move_clock: MoveClock) -> None:
    assert service.reset(service.ask_for_reset(OLD)).status_code == 204
    link = token_of(the_mail(service.deliver(), THIEF, CHANGED))
    move_clock(timedelta(hours=72))
    assert_problem(undo(service, link), 400, "invalid-token")
    for email in (THIEF, OLD):
        post(service, "password-resets", email=email)
        post(service, "erasure-requests", email=email)
    assert {message["To"] for message in service.deliver()} == {OLD}
