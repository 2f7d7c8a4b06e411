"""Requesting erasure without the app: an email, a mailed link, a click."""

from datetime import timedelta

import pytest
from journeys import (
    CLOSED,
    ERASE,
    ERASED,
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
    post,
    receipt_of,
    request_erasure,
    the_mail,
    to_and_subject,
)
from peers import text_of, token_of
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem

ADA = "ada@example.org"


@pytest.mark.parametrize("by", ["the API", "the page"])
def test_promise_8_an_account_is_closed_and_erased_without_the_app(
    service: Service, ada: Person, move_clock: MoveClock, by: str
) -> None:
    if by == "the API":
        response = request_erasure(service, ADA.upper())
        assert (response.status_code, response.json) == (202, {"link_valid_for_seconds": 86400})
    else:
        assert service.http.post("/erasure", data={"email": ADA}).status_code == 200
    message = service.mail()
    token = token_of(message)
    assert to_and_subject([message]) == {(ADA, ERASE)}
    assert f"https://accounts.tiles.test/erasure#{token}" in text_of(message)
    assert "14 days later" in text_of(message)
    assert service.account(ada.headers).status_code == 200
    if by == "the API":
        closed = confirm_erasure(service, token).json
        assert moment(closed["erase_after"]) - moment(closed["closed_at"]) == timedelta(days=14)
    else:
        assert service.http.post("/erasure/confirm", data={"token": token}).status_code == 200
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}
    move_clock(timedelta(days=14, minutes=1))
    assert finish_erasing(service) == 1
    message = service.mail()
    assert to_and_subject([message]) == {(ADA, ERASED)}
    assert service.rows("accounts") == []
    receipt = post(service, "erasure-receipts/verify", receipt=receipt_of(message)).json
    # "Without undue delay and in any event within one month" (GDPR Art. 12(3)).
    assert moment(receipt["erased_at"]) - moment(receipt["requested_at"]) < timedelta(days=28)


@any_database
def test_closing_and_cancelling_end_the_link_and_another_can_be_requested(service: Service, ada: Person) -> None:
    first = ask_for_erasure(service, ada.email)
    closed_by(service, ada.headers, ADA)
    assert_problem(confirm_erasure(service, first), 400, "invalid-token")
    second = ask_for_erasure(service, ada.email)
    assert confirm_erasure(service, second).status_code == 200
    assert cancel(service, token_of(the_mail(service.deliver(), ADA, CLOSED))).status_code == 204
    assert_problem(confirm_erasure(service, second), 400, "invalid-token")
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
