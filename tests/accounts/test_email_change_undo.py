"""Taking an account back from the mailbox of an address that was changed: good for 72 hours, for each such address."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from journeys import (
    CHANGED,
    CLOSED,
    RESET,
    TAKEN_BACK,
    MakeService,
    MoveClock,
    ask_for_email_change,
    at_once,
    before_the_ledger,
    cancel,
    change_email,
    change_password,
    close,
    confirm_email_change,
    erase_due,
    moment,
    recover,
    request_email_change,
    signed_in,
    the_mail,
    told,
    undo,
    undo_link,
)
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem, html_of, text_of, token_of

from backend.serving import worker

OLD = "ada@example.org"
NEW = "countess@example.org"
THIRD = "lovelace@example.org"
THIRD_PASSWORD = "copper violin under snow"


def remembered(service: Service) -> list[str]:
    """Return the addresses that may take an account back."""
    return sorted(row["email"] for row in service.rows("previous_addresses"))


def tidy(service: Service) -> None:
    with service.app.app_context():
        list(worker.tidy())


def choose_a_password(service: Service, person: Person) -> None:
    change_password(service, person.headers, THIRD_PASSWORD)


def reset(service: Service, _person: Person) -> None:
    assert service.reset(service.ask_for_reset(NEW)).status_code == 204


def change_again(service: Service, person: Person) -> None:
    token = ask_for_email_change(service, person.headers, THIRD)
    assert confirm_email_change(service, token).status_code == 204


def close_it(service: Service, person: Person) -> None:
    assert close(service, person.headers).status_code == 200


def close_and_open_it(service: Service, person: Person) -> None:
    close_it(service, person)
    assert cancel(service, token_of(the_mail(service.deliver(), NEW, CLOSED))).status_code == 204


def test_the_old_address_gets_a_notice_with_a_link(service: Service, ada: Person) -> None:
    mails = change_email(service, ada.headers, NEW)
    assert told(mails) == {(OLD, CHANGED)}
    (notice,) = mails
    link = f"https://accounts.tiles.test/email-change-undo#{token_of(notice)}"
    for part in (text_of(notice), html_of(notice)):
        assert link in part
        assert "72 hours" in part
        assert NEW not in part
        assert "Lovelace" not in part


def test_undoing_gives_the_address_back_ends_every_session_and_mails_a_reset(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    other = signed_in(service, NEW)
    response = undo(service, token)
    assert (response.status_code, response.data) == (204, b"")
    for headers in (ada.headers, other):
        assert_problem(service.account(headers), 401, "unauthenticated")
    assert service.rows("sessions") == []
    mails = service.deliver()
    assert told(mails) == {(OLD, RESET), (NEW, TAKEN_BACK)}
    assert service.reset(token_of(the_mail(mails, OLD, RESET))).status_code == 204
    assert service.account(signed_in(service, OLD, OTHER_PASSWORD)).json["email"] == OLD
    assert_problem(service.sign_in(NEW), 401, "wrong-credentials")
    assert remembered(service) == []


@any_database
def test_a_used_link_is_refused(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    assert undo(service, token).status_code == 204
    assert_problem(undo(service, token), 400, "invalid-token")


def test_of_one_link_used_eight_times_at_once_one_use_counts(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    answers = at_once(*[lambda: undo(service, token)] * 8)
    assert sorted(answer.status_code for answer in answers) == [204, *[400] * 7]
    assert told(service.deliver()) == {(OLD, RESET), (NEW, TAKEN_BACK)}


@any_database
def test_a_link_works_for_72_hours(service: Service, ada: Person, move_clock: MoveClock) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    move_clock(timedelta(hours=71, minutes=59))
    assert undo(service, token).status_code == 204


def test_after_72_hours_also_a_link_that_was_mailed_an_hour_ago_is_refused(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    first = undo_link(service, ada.headers, OLD, NEW)
    move_clock(timedelta(hours=71))
    change_password(service, ada.headers, THIRD_PASSWORD)
    late = token_of(the_mail(service.deliver(), OLD, CHANGED))
    move_clock(timedelta(hours=1, seconds=2))
    for token in (first, late):
        assert_problem(undo(service, token), 400, "invalid-token")
    assert service.account(ada.headers).json["email"] == NEW


@any_database
def test_each_mail_says_how_many_hours_are_left(service: Service, ada: Person, move_clock: MoveClock) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    for hours, left in ((24, "48 hours"), (46.5, "2 hours"), (1, "one hour")):
        move_clock(timedelta(hours=hours))
        headers = signed_in(service, NEW)
        change_email(service, headers, NEW)
        notice = service.mail_server.messages[-1]
        assert (notice["To"], notice["Subject"]) == (OLD, CHANGED)
        for part in (text_of(notice), html_of(notice)):
            assert re.search(rf"works\s+for {left}\b", part)


@pytest.mark.parametrize("act", [choose_a_password, reset, change_again, close_it, close_and_open_it])
def test_what_ends_the_link_mails_another_that_works(
    service: Service, ada: Person, act: Callable[[Service, Person], None]
) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    act(service, ada)
    fresh = the_mail(service.deliver(), OLD, CHANGED)
    assert_problem(undo(service, token), 400, "invalid-token")
    headers = recover(service, token_of(fresh), OLD)
    assert service.account(headers).json["email"] == OLD
    assert remembered(service) == []


@any_database
def test_undoing_ends_a_change_that_waits_for_its_confirmation(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    waiting = ask_for_email_change(service, ada.headers, THIRD)
    assert request_email_change(service, ada.headers, "fourth@example.org").status_code == 202
    assert undo(service, token).status_code == 204
    assert_problem(confirm_email_change(service, waiting), 400, "invalid-token")
    assert told(service.deliver()) == {(OLD, RESET), (NEW, TAKEN_BACK)}


def test_an_old_address_that_got_an_account_meanwhile_is_refused(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    bob = service.register(name="Bob", email=OLD, password=OTHER_PASSWORD)
    assert_problem(undo(service, token), 409, "email-in-use")
    assert service.account(ada.headers).json["email"] == NEW
    assert service.deliver() == []
    assert close(service, bob.headers, password=OTHER_PASSWORD).status_code == 200
    assert undo(service, token).status_code == 204


def test_undo_and_registration_of_the_old_address_at_once_make_one_account_with_it(
    service: Service, ada: Person
) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    registration = service.ask_to_register(name="Bob", email=OLD)
    answers = at_once(lambda: undo(service, token), lambda: service.confirm(registration, OTHER_PASSWORD))
    assert sorted(answer.status_code for answer in answers) in ([204, 409], [201, 409])
    assert [row["email"] for row in service.rows("accounts")].count(OLD) == 1


def test_every_address_that_was_changed_has_a_right_of_its_own(service: Service, ada: Person) -> None:
    for email, before in ((NEW, {OLD}), (THIRD, {OLD, NEW}), ("fourth@example.org", {OLD, NEW, THIRD})):
        assert told(change_email(service, ada.headers, email)) == {(old, CHANGED) for old in before}
        assert remembered(service) == sorted(before)


def test_an_older_address_that_takes_it_back_ends_the_right_of_the_younger(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    mails = change_email(service, ada.headers, THIRD)
    older, younger = (token_of(the_mail(mails, email, CHANGED)) for email in (OLD, NEW))
    headers = recover(service, older, OLD)
    assert_problem(undo(service, younger), 400, "invalid-token")
    assert remembered(service) == []
    change_password(service, headers, THIRD_PASSWORD, current=OTHER_PASSWORD)
    assert {message["To"] for message in service.deliver()} == {OLD}


def test_a_younger_address_that_takes_it_back_leaves_the_older_its_right_and_tells_it(
    service: Service, ada: Person
) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    mails = change_email(service, ada.headers, THIRD)
    assert undo(service, token_of(the_mail(mails, NEW, CHANGED))).status_code == 204
    assert remembered(service) == [OLD]
    mails = service.deliver()
    assert told(mails) == {(OLD, CHANGED), (NEW, RESET), (THIRD, TAKEN_BACK)}
    headers = recover(service, token_of(the_mail(mails, OLD, CHANGED)), OLD)
    assert service.account(headers).json["email"] == OLD


def test_of_two_addresses_that_take_it_back_at_once_the_older_has_the_last_word(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    mails = change_email(service, ada.headers, THIRD)
    older, younger = (token_of(the_mail(mails, email, CHANGED)) for email in (OLD, NEW))
    answers = at_once(lambda: undo(service, older), lambda: undo(service, younger))
    assert sorted(answer.status_code for answer in answers) == [204, 400]
    mails = service.deliver()
    if answers[1].status_code == 204:
        assert undo(service, token_of(the_mail(mails, OLD, CHANGED))).status_code == 204
    assert [row["email"] for row in service.rows("accounts")] == [OLD]
    assert remembered(service) == []


@pytest.mark.parametrize("erase", [False, True])
def test_undoing_opens_a_closed_account_again_as_it_was(service: Service, ada: Person, *, erase: bool) -> None:
    before = service.account(ada.headers).json
    undo_link(service, ada.headers, OLD, NEW)
    assert close(service, ada.headers, erase=erase).status_code == 200
    mails = service.deliver()
    assert told(mails) == {(OLD, CHANGED), (NEW, CLOSED)}
    assert service.account(recover(service, token_of(the_mail(mails, OLD, CHANGED)), OLD)).json == before
    (row,) = service.rows("accounts")
    assert [row[name] for name in ("closed_at", "erasure_requested_at", "erase_after")] == [None] * 3
    assert [(row["act"], row["actor"]) for row in service.rows("audit")].count(("reopened", "person")) == 1
    assert_problem(cancel(service, token_of(the_mail(mails, NEW, CLOSED))), 400, "invalid-token")


@any_database
def test_the_notice_says_that_the_account_was_closed_and_when_it_is_erased(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    for part in (text_of, html_of):
        assert "closed since" not in part(service.mail_server.messages[-1])
    answer = close(service, ada.headers, erase=True).json
    day = moment(answer["erase_after"])
    notice = the_mail(service.deliver(), OLD, CHANGED)
    for part in (text_of, html_of):
        assert "closed since" in part(notice)
        assert f"{day.day} {day:%B %Y}" in part(notice)


@any_database
def test_what_was_taken_back_is_not_erased(service: Service, ada: Person, move_clock: MoveClock) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    assert close(service, ada.headers, erase=True).status_code == 200
    assert undo(service, token_of(the_mail(service.deliver(), OLD, CHANGED))).status_code == 204
    move_clock(timedelta(days=400))
    assert erase_due(service) == 0


def test_undoing_is_refused_once_the_erasure_has_begun(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(erasure_grace_days=0)
    ada = service.register()
    undo_link(service, ada.headers, OLD, NEW)
    assert close(service, ada.headers, erase=True).status_code == 200
    token = token_of(the_mail(service.deliver(), OLD, CHANGED))
    answers: list[int] = []
    before_the_ledger(monkeypatch, lambda: answers.extend(at_once(lambda: undo(service, token).status_code)))
    assert erase_due(service) == 1
    answers.append(undo(service, token).status_code)
    assert answers == [400, 400]
    assert remembered(service) == []
    assert {message["To"] for message in service.deliver()} == {NEW}


def test_after_72_hours_nothing_is_known_of_the_old_address_and_nothing_told_to_it(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    move_clock(timedelta(hours=71, minutes=59))
    tidy(service)
    assert remembered(service) == [OLD]
    move_clock(timedelta(minutes=2))
    change_password(service, ada.headers, THIRD_PASSWORD)
    assert {message["To"] for message in service.deliver()} == {NEW}
    tidy(service)
    assert remembered(service) == []


def test_each_right_ends_72_hours_after_its_own_change(service: Service, ada: Person, move_clock: MoveClock) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    move_clock(timedelta(hours=48))
    change_email(service, signed_in(service, NEW), THIRD)
    move_clock(timedelta(hours=24, seconds=2))
    headers = signed_in(service, THIRD)
    change_password(service, headers, THIRD_PASSWORD)
    mails = service.deliver()
    assert {message["To"] for message in mails} == {NEW, THIRD}
    recover(service, token_of(the_mail(mails, NEW, CHANGED)), NEW)


@any_database
def test_the_link_of_one_account_moves_no_other(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    token = undo_link(service, ada.headers, OLD, NEW)
    undo_link(service, bob.headers, "bob@example.org", "robert@example.org")
    assert undo(service, token).status_code == 204
    assert service.account(bob.headers).json["email"] == "robert@example.org"
    assert remembered(service) == ["bob@example.org"]
