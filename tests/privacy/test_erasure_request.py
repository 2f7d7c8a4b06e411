"""Requesting erasure without the app: an email, a mailed link, a click."""

from datetime import timedelta

import pytest
from journeys import (
    CLOSED,
    ERASE,
    ERASED,
    MakeService,
    MoveClock,
    ask_for_erasure,
    at_once,
    cancel,
    close,
    closed_by,
    confirm_erasure,
    finish_erasing,
    in_ledger,
    moment,
    request_erasure,
    signed_in,
    the_mail,
    to_and_subject,
)
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem, html_of, text_of, token_of

ADA = "ada@example.org"
UNKNOWN = "nobody@example.org"


def test_an_account_is_closed_and_erased_without_the_app(service: Service, ada: Person, move_clock: MoveClock) -> None:
    response = request_erasure(service, ADA.upper())
    assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 86400})
    message = service.mail()
    assert to_and_subject([message]) == {(ADA, ERASE)}
    assert f"https://accounts.tiles.test/erasure#{token_of(message)}" in text_of(message)
    for part in (text_of(message), html_of(message)):
        assert "14 days later" in part
    assert service.account(ada.headers).status_code == 200
    response = confirm_erasure(service, token_of(message))
    assert response.status_code == 200
    assert moment(response.json["erase_after"]) - moment(response.json["closed_at"]) == timedelta(days=14)
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(confirm_erasure(service, token_of(message)), 400, "invalid-token")
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}
    move_clock(timedelta(days=14, minutes=1))
    assert finish_erasing(service) == 1
    assert to_and_subject(service.deliver()) == {(ADA, ERASED)}
    assert service.rows("accounts") == []


def test_of_eight_concurrent_uses_of_one_link_one_succeeds(service: Service, ada: Person) -> None:
    token = ask_for_erasure(service, ada.email)
    responses = at_once(*[lambda: confirm_erasure(service, token)] * 8)
    assert sorted(response.status_code for response in responses) == [200, *[400] * 7]
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}


@any_database
def test_a_link_works_for_a_day(service: Service, ada: Person, move_clock: MoveClock) -> None:
    first = ask_for_erasure(service, ada.email)
    move_clock(timedelta(hours=23, minutes=59))
    second = ask_for_erasure(service, ada.email)
    move_clock(timedelta(minutes=2))
    assert_problem(confirm_erasure(service, first), 400, "invalid-token")
    assert confirm_erasure(service, second).status_code == 200


@any_database
def test_a_new_password_or_a_closing_ends_the_link_and_another_can_be_requested(service: Service, ada: Person) -> None:
    first = ask_for_erasure(service, ada.email)
    assert service.reset(service.ask_for_reset()).status_code == 204
    assert_problem(confirm_erasure(service, first), 400, "invalid-token")
    service.deliver()
    second = ask_for_erasure(service, ada.email)
    closed_by(service, signed_in(service, ADA, OTHER_PASSWORD), ADA, password=OTHER_PASSWORD)
    assert_problem(confirm_erasure(service, second), 400, "invalid-token")
    third = ask_for_erasure(service, ada.email)
    assert confirm_erasure(service, third).status_code == 200
    assert cancel(service, token_of(the_mail(service.deliver(), ADA, CLOSED))).status_code == 204
    assert_problem(confirm_erasure(service, third), 400, "invalid-token")
    assert confirm_erasure(service, ask_for_erasure(service, ada.email)).status_code == 200


@any_database
def test_a_link_for_a_closed_account_does_not_affect_a_new_one(service: Service, ada: Person) -> None:
    token = ask_for_erasure(service, ADA)
    closed_by(service, ada.headers, ADA)
    again = service.register(name="Ada Byron", password=OTHER_PASSWORD)
    assert_problem(confirm_erasure(service, token), 400, "invalid-token")
    assert service.account(again.headers).status_code == 200


def test_requesting_the_erasure_of_a_closed_account_makes_it_earlier(service: Service, ada: Person) -> None:
    old_link = closed_by(service, ada.headers, ADA)
    closed_at = service.rows("accounts")[0]["closed_at"]
    response = confirm_erasure(service, ask_for_erasure(service, ADA))
    assert moment(response.json["erase_after"]) - moment(response.json["closed_at"]) <= timedelta(days=15)
    assert service.rows("accounts")[0]["closed_at"] == closed_at
    fresh_link = token_of(the_mail(service.deliver(), ADA, CLOSED))
    assert_problem(cancel(service, old_link), 400, "invalid-token")
    assert cancel(service, fresh_link).status_code == 204


@pytest.mark.parametrize(("erase", "days"), [(True, 5), (False, 360)], ids=["in its grace period", "nearly over"])
def test_requesting_again_never_delays_the_erasure(
    service: Service, ada: Person, move_clock: MoveClock, *, erase: bool, days: int
) -> None:
    first = close(service, ada.headers, erase=erase).json
    service.deliver()
    requested_at = service.rows("accounts")[0]["erasure_requested_at"]
    move_clock(timedelta(days=days))
    assert confirm_erasure(service, ask_for_erasure(service, ADA)).json == first
    assert not erase or service.rows("accounts")[0]["erasure_requested_at"] == requested_at


def test_one_request_erases_every_account_that_the_address_had(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    closed_by(service, ada.headers, ADA)
    closed_by(service, service.register(password=OTHER_PASSWORD).headers, ADA, password=OTHER_PASSWORD)
    service.register(password=OTHER_PASSWORD)
    bob = service.register(name="Bob", email="bob@example.org")
    assert confirm_erasure(service, ask_for_erasure(service, ADA)).status_code == 200
    assert [message["To"] for message in service.deliver()] == [ADA] * 3
    move_clock(timedelta(days=14, minutes=1))
    assert finish_erasing(service) == 3
    assert [message["Subject"] for message in service.deliver()] == [ERASED] * 3
    assert len(set(in_ledger(service))) == 3
    assert [row["email"] for row in service.rows("accounts")] == [bob.email]


def test_of_links_to_two_accounts_of_one_address_used_at_once_one_erases_both(service: Service, ada: Person) -> None:
    closed_by(service, ada.headers, ADA)
    first = ask_for_erasure(service, ADA)
    closed_by(service, service.register(password=OTHER_PASSWORD).headers, ADA, password=OTHER_PASSWORD)
    second = ask_for_erasure(service, ADA)
    responses = at_once(lambda: confirm_erasure(service, first), lambda: confirm_erasure(service, second))
    # The first use requests the erasure of both, which ends the other link.
    assert sorted(response.status_code for response in responses) == [200, 400]
    assert all(row["erasure_requested_at"] for row in service.rows("accounts"))


@any_database
def test_the_limits_are_the_same_for_an_address_without_an_account(make_service: MakeService) -> None:
    by_address = make_service(rate_limits="erasure-request/address+client=2/hour")
    by_address.register(email=ADA)
    for email in (ADA, UNKNOWN):
        seen = [request_erasure(by_address, spelled).status_code for spelled in (email, email.upper(), email)]
        assert seen == [202, 202, 429]
    by_client = make_service(rate_limits="erasure-request/client=2/hour")
    seen = [request_erasure(by_client, email).status_code for email in (ADA, UNKNOWN, ADA, UNKNOWN)]
    assert seen == [202, 202, 429, 429]
