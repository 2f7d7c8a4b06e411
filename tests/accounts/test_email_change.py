"""Changing the address: asked for with the password, confirmed from the new mailbox, taken back from the old one."""

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
    request_email_change,
    signed_in,
    told,
)
from support import (
    OTHER_PASSWORD,
    Person,
    Service,
    any_database,
    assert_problem,
    html_of,
    text_of,
    token_of,
)

from backend.security.hashing import Hasher

NEW = "countess@example.org"
THIRD = "lovelace@example.org"
OLD = "ada@example.org"


def address_of(service: Service, person: Person) -> str:
    email: str = service.account(person.headers).json["email"]
    return email


def test_an_address_is_changed_from_the_password_to_the_new_mailbox(service: Service, ada: Person) -> None:
    response = request_email_change(service, ada.headers, NEW)
    assert (response.status_code, response.json) == (202, {})
    message = service.mail()
    assert message["To"] == NEW
    token = token_of(message)
    assert f"https://accounts.tiles.test/email-change#{token}" in text_of(message)
    assert address_of(service, ada) == OLD
    response = confirm_email_change(service, token)
    assert (response.status_code, response.data) == (204, b"")
    assert address_of(service, ada) == NEW
    assert service.sign_in(NEW).status_code == 201
    assert_problem(service.sign_in(OLD), 401, "wrong-credentials")


@any_database
def test_the_mail_to_the_new_address_repeats_neither_name_nor_old_address(service: Service, ada: Person) -> None:
    request_email_change(service, ada.headers, NEW)
    message = service.mail()
    for part in (str(message["Subject"]), text_of(message), html_of(message)):
        assert "Lovelace" not in part
        assert OLD not in part


def test_every_session_goes_on(service: Service, ada: Person) -> None:
    other = signed_in(service, OLD)
    change_email(service, ada.headers, NEW)
    for headers in (ada.headers, other):
        assert service.account(headers).status_code == 200


@any_database
def test_a_wrong_password_is_refused_and_mails_nothing(service: Service, ada: Person) -> None:
    assert_problem(request_email_change(service, ada.headers, NEW, "not that one"), 403, "wrong-password")
    assert service.deliver() == []


def test_a_used_link_is_refused(service: Service, ada: Person) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    assert confirm_email_change(service, token).status_code == 204
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")


@any_database
def test_a_used_link_is_refused_also_when_the_address_was_changed_back_since(service: Service, ada: Person) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    assert confirm_email_change(service, token).status_code == 204
    service.deliver()
    change_email(service, ada.headers, OLD)
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")
    assert address_of(service, ada) == OLD


@pytest.mark.parametrize("email", [OLD, "Ada@Example.org"], ids=["the same", "another case"])
def test_a_link_to_the_address_as_it_is_works_once(service: Service, ada: Person, email: str) -> None:
    assert request_email_change(service, ada.headers, email).status_code == 202
    token = token_of(service.mail())
    assert confirm_email_change(service, token).status_code == 204
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")


@any_database
def test_a_link_works_for_an_hour(service: Service, ada: Person, move_clock: MoveClock) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    move_clock(timedelta(minutes=59, seconds=50))
    assert confirm_email_change(service, token).status_code == 204


@any_database
def test_an_expired_link_is_refused(service: Service, ada: Person, move_clock: MoveClock) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    move_clock(timedelta(hours=1, seconds=2))
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")
    assert address_of(service, ada) == OLD


@any_database
def test_a_second_email_change_ends_the_first(service: Service, ada: Person) -> None:
    first, second = (ask_for_email_change(service, ada.headers, email) for email in (NEW, THIRD))
    assert confirm_email_change(service, second).status_code == 204
    assert_problem(confirm_email_change(service, first), 400, "invalid-token")
    assert address_of(service, ada) == THIRD


def test_of_two_changes_that_race_one_counts(service: Service, ada: Person) -> None:
    first, second = (ask_for_email_change(service, ada.headers, email) for email in (NEW, THIRD))
    answers = at_once(lambda: confirm_email_change(service, first), lambda: confirm_email_change(service, second))
    assert sorted(answer.status_code for answer in answers) == [204, 400]
    assert address_of(service, ada) == (NEW if answers[0].status_code == 204 else THIRD)
    assert told(service.deliver()) == {(OLD, CHANGED)}


def test_of_one_link_used_eight_times_at_once_one_use_counts(service: Service, ada: Person) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    answers = at_once(*[lambda: confirm_email_change(service, token)] * 8)
    assert sorted(answer.status_code for answer in answers) == [204, *[400] * 7]
    assert told(service.deliver()) == {(OLD, CHANGED)}


@any_database
def test_a_change_ends_every_other_mailed_link(service: Service, ada: Person) -> None:
    reset = service.ask_for_reset()
    change_email(service, ada.headers, NEW)
    assert_problem(service.reset(reset), 400, "invalid-token")


def test_an_address_that_another_account_took_meanwhile_is_refused_to_the_proven_mailbox(
    service: Service, ada: Person
) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    bob = service.register(name="Bob", email="Countess@example.org")
    assert_problem(confirm_email_change(service, token), 409, "email-in-use")
    assert (address_of(service, ada), address_of(service, bob)) == (OLD, "Countess@example.org")
    assert service.deliver() == []


def test_an_address_with_an_account_is_asked_for_like_any_other(service: Service, ada: Person) -> None:
    service.register(name="Bob", email=NEW)
    response = request_email_change(service, ada.headers, NEW)
    assert (response.status_code, response.json) == (202, {})
    token = token_of(service.mail())
    assert_problem(confirm_email_change(service, token), 409, "email-in-use")


def test_the_address_of_a_closed_account_is_free(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email=NEW)
    assert close(service, bob.headers).status_code == 200
    service.deliver()
    change_email(service, ada.headers, NEW)
    assert address_of(service, ada) == NEW


def test_two_accounts_that_take_an_address_at_once_are_told_apart(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    for email in [f"shared{number}@example.org" for number in range(5)]:
        first, second = (ask_for_email_change(service, person.headers, email) for person in (ada, bob))
        answers = at_once(
            lambda first=first: confirm_email_change(service, first),
            lambda second=second: confirm_email_change(service, second),
        )
        assert sorted(answer.status_code for answer in answers) == [204, 409]
        refused = next(answer for answer in answers if answer.status_code == 409)
        assert_problem(refused, 409, "email-in-use")
        assert sorted([address_of(service, ada), address_of(service, bob)]).count(email) == 1
        service.deliver()


def test_a_registration_and_a_change_to_one_address_at_once_make_one_account_with_it(
    service: Service, ada: Person
) -> None:
    change = ask_for_email_change(service, ada.headers, NEW)
    registration = service.ask_to_register(name="Bob", email=NEW)
    answers = at_once(
        lambda: confirm_email_change(service, change), lambda: service.confirm(registration, OTHER_PASSWORD)
    )
    assert sorted(answer.status_code for answer in answers) in ([204, 409], [201, 409])
    assert [row["email"] for row in service.rows("accounts")].count(NEW) == 1


@any_database
def test_a_new_password_ends_a_change_whose_mail_was_sent(service: Service, ada: Person) -> None:
    token = ask_for_email_change(service, ada.headers, NEW)
    assert service.reset(service.ask_for_reset()).status_code == 204
    assert_problem(confirm_email_change(service, token), 400, "invalid-token")


def test_a_new_password_ends_a_change_whose_mail_is_made_later(service: Service, ada: Person) -> None:
    reset = service.ask_for_reset()
    assert request_email_change(service, ada.headers, NEW).status_code == 202
    assert service.reset(reset).status_code == 204
    assert NEW not in {message["To"] for message in service.deliver()}
    assert service.rows("mails") == []


@any_database
def test_closing_ends_a_change_also_when_the_account_is_opened_again(service: Service, ada: Person) -> None:
    sent = ask_for_email_change(service, ada.headers, NEW)
    assert request_email_change(service, ada.headers, THIRD).status_code == 202
    assert close(service, ada.headers).status_code == 200
    mails = service.deliver()
    assert {message["To"] for message in mails} == {OLD}
    assert_problem(confirm_email_change(service, sent), 400, "invalid-token")
    assert cancel(service, token_of(mails[0])).status_code == 204
    assert_problem(confirm_email_change(service, sent), 400, "invalid-token")


def test_an_account_that_is_erased_while_its_password_is_checked_makes_no_mistake_of_ours(
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
    assert told(service.deliver()) == {(OLD, ERASED)}


@any_database
def test_a_limit_per_account_and_one_per_address_refuse_what_is_too_much(make_service: MakeService) -> None:
    service = make_service(rate_limits="email-change/account=2/hour,email-change/address=1/hour")
    ada = service.register()
    bob = service.register(name="Bob", email="bob@example.org")
    assert request_email_change(service, ada.headers, NEW).status_code == 202
    assert_problem(request_email_change(service, bob.headers, NEW.upper()), 429, "too-many-requests")
    assert request_email_change(service, ada.headers, THIRD).status_code == 202
    refused = request_email_change(service, ada.headers, "fourth@example.org")
    assert_problem(refused, 429, "too-many-requests")
    assert int(refused.headers["Retry-After"]) > 0


@any_database
def test_the_limit_per_address_is_the_same_for_one_with_an_account(make_service: MakeService) -> None:
    service = make_service(rate_limits="email-change/address=2/hour")
    ada = service.register()
    service.register(name="Bob", email=NEW)
    for email in (NEW, THIRD):
        seen = [request_email_change(service, ada.headers, email).status_code for _ in range(3)]
        assert seen == [202, 202, 429]
