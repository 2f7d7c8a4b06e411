"""Undoing an email change from the old mailbox: for 72 hours, for each replaced address."""

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
    tidy,
    to_and_subject,
    undo,
    undo_link,
)
from pairwise import on_one_database_each
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem

OLD = "ada@example.org"
NEW = "countess@example.org"
THIRD = "lovelace@example.org"
THIRD_PASSWORD = "copper violin under snow"


def remembered(service: Service) -> list[str]:
    """Return the addresses that may undo a change."""
    return sorted(row["email"] for row in service.rows("previous_addresses"))


# The notice and its link


def test_the_old_address_gets_a_notice_with_a_link(service: Service, ada: Person) -> None:
    (notice,) = mails = change_email(service, ada.headers, NEW)
    assert to_and_subject(mails) == {(OLD, CHANGED)}
    link = f"https://accounts.tiles.test/email-change-undo#{token_of(notice)}"
    for part in (text_of(notice), html_of(notice)):
        assert link in part
        assert "72 hours" in part
        for word in (NEW, "Lovelace", "closed since"):
            assert word not in part


def test_undoing_restores_the_address_ends_every_session_and_sends_a_reset_link(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    undo_link(service, bob.headers, "bob@example.org", "robert@example.org")
    token = undo_link(service, ada.headers, OLD, NEW)
    other, before = signed_in(service, NEW), service.rows("accounts")
    response = undo(service, token)
    assert (response.status_code, response.data) == (204, b"")
    assert_problem(undo(service, token), 400, "invalid-token")
    credentials = [{row["credentials_id"] for row in rows} for rows in (before, service.rows("accounts"))]
    assert len(credentials[0] & credentials[1]) == 1
    for headers in (ada.headers, other):
        assert_problem(service.account(headers), 401, "unauthenticated")
    mails = service.deliver()
    assert to_and_subject(mails) == {(OLD, RESET), (NEW, TAKEN_BACK)}
    assert service.reset(token_of(the_mail(mails, OLD, RESET))).status_code == 204
    service.deliver()
    mine = signed_in(service, OLD, OTHER_PASSWORD)
    assert service.account(mine).json["email"] == OLD
    for email in (OLD, NEW):
        assert_problem(service.sign_in(email), 401, "wrong-credentials")
    change_password(service, mine, THIRD_PASSWORD, current=OTHER_PASSWORD)
    assert request_email_change(service, mine, THIRD, THIRD_PASSWORD).status_code == 202
    assert service.account(bob.headers).json["email"] == "robert@example.org"
    assert remembered(service) == ["bob@example.org"]


def test_after_72_hours_also_a_link_that_was_mailed_an_hour_ago_is_refused(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    first = undo_link(service, ada.headers, OLD, NEW)
    move_clock(timedelta(hours=71))
    tidy(service)
    assert remembered(service) == [OLD]
    change_password(service, ada.headers, THIRD_PASSWORD)
    late = token_of(the_mail(service.deliver(), OLD, CHANGED))
    move_clock(timedelta(hours=1, seconds=2))
    for token in (first, late):
        assert_problem(undo(service, token), 400, "invalid-token")
    assert service.account(ada.headers).json["email"] == NEW
    change_password(service, ada.headers, OTHER_PASSWORD, current=THIRD_PASSWORD)
    assert {message["To"] for message in service.deliver()} == {NEW}
    tidy(service)
    assert remembered(service) == []


@any_database
def test_each_email_says_how_many_hours_are_left(service: Service, ada: Person, move_clock: MoveClock) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    for hours, left in ((24, "48 hours"), (46.5, "2 hours"), (1, "one hour")):
        move_clock(timedelta(hours=hours))
        change_email(service, signed_in(service, NEW), NEW)
        notice = service.mail_server.messages[-1]
        assert (notice["To"], notice["Subject"]) == (OLD, CHANGED)
        for part in (text_of(notice), html_of(notice)):
            assert re.search(rf"works\s+for {left}\b", part)


def change_again(service: Service, person: Person) -> None:
    token = ask_for_email_change(service, person.headers, THIRD)
    assert confirm_email_change(service, token).status_code == 204


def close_and_open_it(service: Service, person: Person) -> None:
    assert close(service, person.headers).status_code == 200
    assert cancel(service, token_of(the_mail(service.deliver(), NEW, CLOSED))).status_code == 204


# What ends an undo link
ENDS: dict[str, Callable[[Service, Person], object]] = {
    "a new password": lambda service, ada: change_password(service, ada.headers, THIRD_PASSWORD),
    "a reset": lambda service, _: service.reset(service.ask_for_reset(NEW)),
    "another change": change_again,
    "closing": lambda service, ada: close(service, ada.headers),
    "closing and opening": close_and_open_it,
}


@on_one_database_each("act", ENDS.values(), ENDS)
def test_an_action_that_ends_the_link_sends_another_that_works(
    service: Service, ada: Person, act: Callable[[Service, Person], object]
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
    assert to_and_subject(service.deliver()) == {(OLD, RESET), (NEW, TAKEN_BACK)}


def test_an_old_address_that_got_an_account_meanwhile_is_refused(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, OLD, NEW)
    bob = service.register(name="Bob", email=OLD, password=OTHER_PASSWORD)
    assert_problem(undo(service, token), 409, "email-in-use")
    assert service.account(ada.headers).json["email"] == NEW
    assert service.deliver() == []
    assert close(service, bob.headers, password=OTHER_PASSWORD).status_code == 200
    assert undo(service, token).status_code == 204


# Several earlier addresses


@pytest.mark.usefixtures("ada")
def test_every_earlier_address_is_mailed_a_link_for_72_hours_after_its_own_change(
    service: Service, move_clock: MoveClock
) -> None:
    for email, before, hours in ((NEW, [OLD], 48), (THIRD, [OLD, NEW], 24)):
        mails = change_email(service, signed_in(service, before[-1]), email)
        assert to_and_subject(mails) == {(old, CHANGED) for old in before}
        assert remembered(service) == before
        move_clock(timedelta(hours=hours, seconds=2))
    change_password(service, signed_in(service, THIRD), THIRD_PASSWORD)
    mails = service.deliver()
    assert {message["To"] for message in mails} == {NEW, THIRD}
    recover(service, token_of(the_mail(mails, NEW, CHANGED)), NEW)


def test_an_undo_by_an_older_address_ends_the_right_of_the_younger(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    mails = change_email(service, ada.headers, THIRD)
    older, younger = (token_of(the_mail(mails, email, CHANGED)) for email in (OLD, NEW))
    headers = recover(service, older, OLD)
    assert_problem(undo(service, younger), 400, "invalid-token")
    assert remembered(service) == []
    change_password(service, headers, THIRD_PASSWORD, current=OTHER_PASSWORD)
    assert {message["To"] for message in service.deliver()} == {OLD}


def test_an_undo_by_a_younger_address_keeps_the_right_of_the_older_and_notifies_it(
    service: Service, ada: Person
) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    mails = change_email(service, ada.headers, THIRD)
    assert undo(service, token_of(the_mail(mails, NEW, CHANGED))).status_code == 204
    assert remembered(service) == [OLD]
    mails = service.deliver()
    assert to_and_subject(mails) == {(OLD, CHANGED), (NEW, RESET), (THIRD, TAKEN_BACK)}
    headers = recover(service, token_of(the_mail(mails, OLD, CHANGED)), OLD)
    assert service.account(headers).json["email"] == OLD


def test_of_two_concurrent_undos_the_older_address_wins(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    mails = change_email(service, ada.headers, THIRD)
    older, younger = (token_of(the_mail(mails, email, CHANGED)) for email in (OLD, NEW))
    responses = at_once(lambda: undo(service, older), lambda: undo(service, younger))
    assert sorted(response.status_code for response in responses) == [204, 400]
    mails = service.deliver()
    if responses[1].status_code == 204:
        assert undo(service, token_of(the_mail(mails, OLD, CHANGED))).status_code == 204
    assert [row["email"] for row in service.rows("accounts")] == [OLD]
    assert remembered(service) == []


def test_changing_the_email_back_ends_every_undo_link(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, OLD, NEW)
    change_email(service, ada.headers, THIRD)
    mails = change_email(service, ada.headers, OLD)
    assert (OLD, CHANGED) not in to_and_subject(mails)
    change_password(service, ada.headers, OTHER_PASSWORD)
    mails += service.deliver()
    # The first address was proven again before its right ended, so its claim is the oldest.
    for message in [message for message in mails if message["Subject"] == CHANGED]:
        assert_problem(undo(service, token_of(message)), 400, "invalid-token")
    assert service.account(ada.headers).json["email"] == OLD


# A closed account


@pytest.mark.parametrize("erase", [False, True])
def test_undoing_reopens_a_closed_account_unchanged(
    service: Service, ada: Person, move_clock: MoveClock, *, erase: bool
) -> None:
    before = service.account(ada.headers).json
    undo_link(service, ada.headers, OLD, NEW)
    day = moment(close(service, ada.headers, erase=erase).json["erase_after"])
    mails = service.deliver()
    assert to_and_subject(mails) == {(OLD, CHANGED), (NEW, CLOSED)}
    notice = the_mail(mails, OLD, CHANGED)
    for part in (text_of(notice), html_of(notice)):
        assert "closed since" in part
        assert f"{day.day} {day:%B %Y}" in part
    # The thief may register the younger address again. That is a different account.
    service.register(name="Thief", email=NEW, password=THIRD_PASSWORD)
    assert service.account(recover(service, token_of(notice), OLD)).json == before
    (row,) = [row for row in service.rows("accounts") if row["email"] == OLD]
    assert [row[name] for name in ("closed_at", "erasure_requested_at", "erase_after")] == [None] * 3
    assert [(row["act"], row["actor"]) for row in service.rows("audit")].count(("reopened", "person")) == 1
    assert_problem(cancel(service, token_of(the_mail(mails, NEW, CLOSED))), 400, "invalid-token")
    move_clock(timedelta(days=400))
    assert erase_due(service) == 0


@any_database
def test_undoing_reopens_a_closed_account_without_an_erasure_date(make_service: MakeService) -> None:
    service = make_service(closed_retention_days=0)
    ada = service.register()
    undo_link(service, ada.headers, OLD, NEW)
    assert close(service, ada.headers).status_code == 200
    recover(service, token_of(the_mail(service.deliver(), OLD, CHANGED)), OLD)


def test_undoing_is_refused_once_the_erasure_has_begun(hasty: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service, ada = hasty, hasty.register()
    undo_link(service, ada.headers, OLD, NEW)
    assert close(service, ada.headers, erase=True).status_code == 200
    token = token_of(the_mail(service.deliver(), OLD, CHANGED))
    statuses: list[int] = []
    before_the_ledger(monkeypatch, lambda: statuses.extend(at_once(lambda: undo(service, token).status_code)))
    assert erase_due(service) == 1
    statuses.append(undo(service, token).status_code)
    assert statuses == [400, 400]
    assert remembered(service) == []
    assert {message["To"] for message in service.deliver()} == {NEW}
