"""Erasing due accounts: all data is deleted, with one receipt each, despite full queues and crashes."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from journeys import (
    ERASE,
    ERASED,
    MoveClock,
    account_id,
    before_the_ledger,
    cancel,
    change_email,
    close,
    closed_by,
    erase_due,
    fail_to_mail,
    finish_erasing,
    in_ledger,
    no_ledger,
    overdue,
    people,
    post,
    request_email_change,
    request_erasure,
    the_mail,
    to_and_subject,
)
from pairwise import on_one_database_each
from peers import MailServer, token_of, wait_for
from support import OTHER_PASSWORD, Person, Service, any_database, assert_problem, working

from backend.accounts import audit
from backend.desk import operations
from backend.mail import queue
from backend.privacy import erasure, ledger

ADA = "ada@example.org"
GRACE = timedelta(days=14, minutes=1)
CLAIM = timedelta(seconds=61)
TABLES = ("accounts", "previous_addresses", "sessions", "feedback", "holds", "mails")


class Crash(Exception):
    """Interrupts an erasure."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def test_an_account_is_erased_after_the_grace_period_and_no_other_changes(
    service: Service, move_clock: MoveClock
) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    for headers in (bob.headers, None):
        post(service, "feedback", headers, message="Mine.")
    before = {table: service.rows(table) for table in TABLES}
    ada = service.register()
    post(service, "feedback", ada.headers, message="More tiles.")
    close(service, ada.headers, erase=True)
    service.deliver()
    move_clock(GRACE - timedelta(minutes=2))
    assert erase_due(service) == 0
    move_clock(timedelta(minutes=2))
    assert erase_due(service) == 1
    assert to_and_subject(service.deliver()) == {(ADA, ERASED)}
    assert {table: service.rows(table) for table in TABLES} == before
    assert service.account(bob.headers).status_code == 200
    assert erase_due(service) == 0
    assert service.deliver() == []


def test_a_registration_link_makes_no_second_account_of_an_erased_one(hasty: Service) -> None:
    ada = hasty.register()
    id_ = account_id(hasty, ADA)
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert_problem(hasty.confirm(ada.token, OTHER_PASSWORD), 400, "invalid-token")
    assert hasty.rows("accounts") == []
    # The ledger and the audit contain the account's id and no name.
    assert in_ledger(hasty) == [id_]
    with hasty.app.app_context():
        assert ledger.path().stat().st_mode & 0o777 == 0o600
        records = f"{ledger.path().read_text()}{hasty.rows('audit')}".lower()
    assert "lovelace" not in records
    assert "ada@" not in records
    hasty.deliver()
    again = hasty.register(name="Ada Byron", password=OTHER_PASSWORD)
    assert hasty.account(again.headers).json["name"] == "Ada Byron"


# Emails in the queue


@pytest.mark.parametrize(
    "refusal", [None, "451 4.7.1 try again later", "550 5.1.1 no such mailbox"], ids=["waiting", "put off", "abandoned"]
)
def test_a_queued_email_is_erased_with_the_account(
    hasty: Service, mail_server: MailServer, refusal: str | None
) -> None:
    ada = hasty.register()
    post(hasty, "password-resets", email=ADA.upper())
    # A registration that was requested before the closing is erased with the account too.
    post(hasty, "registrations", name="Somebody", email=ADA)
    assert request_email_change(hasty, ada.headers, "countess@example.org").status_code == 202
    request_erasure(hasty, ADA)
    if refusal:
        mail_server.refuse = refusal
        assert hasty.deliver() == []
        mail_server.refuse = None
        assert all(row["failure"] for row in hasty.rows("mails"))
    assert len(hasty.rows("mails")) == 4
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert [(row["kind"], row["email"]) for row in hasty.rows("mails")] == [("erased", ADA)]
    assert to_and_subject(hasty.deliver()) == {(ADA, ERASED)}


def test_abandoned_emails_are_erased_with_an_account_that_had_their_address(
    hasty: Service, mail_server: MailServer
) -> None:
    fail_to_mail(hasty, mail_server, "registrations", name="Ada Lovelace", email=ADA)
    ada = hasty.register()
    fail_to_mail(hasty, mail_server, "password-resets", email=ADA)
    change_email(hasty, ada.headers, "countess@example.org")
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert to_and_subject(hasty.deliver()) == {("countess@example.org", ERASED)}
    assert hasty.rows("mails") == []


def test_emails_of_a_newer_registration_or_account_with_the_address_stay(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    closed_by(service, ada.headers, ADA, erase=True)
    assert post(service, "registrations", name="Ada Byron", email=ADA).status_code == 202
    move_clock(GRACE)
    assert erase_due(service) == 1
    token = token_of(the_mail(service.deliver(), ADA, "Finish registering with TILES"))
    byron = service.confirm(token, OTHER_PASSWORD).json["session"]
    closed_by(service, {"Authorization": f"Bearer {byron['token']}"}, ADA, erase=True, password=OTHER_PASSWORD)
    service.register(name="Ada King")
    move_clock(GRACE)
    post(service, "password-resets", email=ADA)
    assert erase_due(service) == 1
    assert len(service.deliver()) == 2


def test_a_requested_erasure_of_a_newer_closed_account_stays_requested(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    closed_by(service, ada.headers, ADA, erase=True)
    move_clock(timedelta(days=10))
    closed_by(service, service.register(password=OTHER_PASSWORD).headers, ADA, password=OTHER_PASSWORD)
    move_clock(timedelta(days=5))
    request_erasure(service, ADA)
    assert erase_due(service) == 1
    assert to_and_subject(service.deliver()) == {(ADA, ERASE), (ADA, ERASED)}


@pytest.mark.parametrize(("refusal", "wait"), [("550 5.1.1 no such mailbox", None), ("451 4.3.0 later", queue.GIVE_UP)],
                         ids=["for good", "for two days"])  # fmt: skip
def test_a_refused_receipt_leaves_no_address(
    service: Service, ada: Person, move_clock: MoveClock, refusal: str, wait: timedelta | None
) -> None:
    service.run(operations.erase, ada.email, at_once=True)
    assert erase_due(service) == 1
    service.mail_server.refuse = refusal
    service.deliver()
    if wait:
        assert [row["email"] for row in service.rows("mails")] == [ada.email]
        move_clock(wait)
        service.run(lambda: list(queue.tidy()))
    assert service.rows("mails") == []


# Crashes, and a ledger that cannot be written


@on_one_database_each(
    "break_off",
    [
        lambda patch: before_the_ledger(patch, crash),
        lambda patch: patch.setattr(erasure, "_erase", crash),
        lambda patch: patch.setattr(audit, "record", crash),
        lambda patch: patch.setattr(erasure, "leave_remains", crash),
    ],
    ["after marking", "after the ledger", "while deleting", "before the end"],
)
def test_after_a_crash_the_next_round_finishes_with_one_receipt(
    hasty: Service,
    move_clock: MoveClock,
    monkeypatch: pytest.MonkeyPatch,
    break_off: Callable[[pytest.MonkeyPatch], None],
) -> None:
    people(hasty, 1)
    token = closed_by(hasty, hasty.register().headers, ADA, erase=True)
    ids = {account_id(hasty, email) for email in ("ada0@example.org", ADA)}
    with monkeypatch.context() as patch:
        break_off(patch)
        with pytest.raises(Crash):
            erase_due(hasty)
    assert len(hasty.rows("accounts")) == 2
    # An erasure that has begun cannot be cancelled.
    assert_problem(cancel(hasty, token), 400, "invalid-token")
    request_erasure(hasty, ADA)
    assert hasty.deliver() == []
    assert erase_due(hasty) == 0
    move_clock(CLAIM)
    assert erase_due(hasty) == 2
    assert set(in_ledger(hasty)) == ids
    assert to_and_subject(hasty.deliver()) == {("ada0@example.org", ERASED), (ADA, ERASED)}
    assert finish_erasing(hasty) == 0
    assert hasty.deliver() == []


def test_without_a_ledger_nothing_is_erased_or_marked_and_the_delay_is_shown(hasty: Service) -> None:
    people(hasty, 1)
    token = closed_by(hasty, hasty.register().headers, ADA, erase=True)
    before = hasty.rows("accounts")
    ids = [account_id(hasty, email) for email in ("ada0@example.org", ADA)]
    with no_ledger(hasty):
        with pytest.raises(OSError, match="Is a directory"):
            erase_due(hasty)
        assert hasty.rows("accounts") == before
        assert overdue(hasty) == ids
    assert cancel(hasty, token).status_code == 204
    assert erase_due(hasty) == 1
    assert in_ledger(hasty) == ids[:1]


@any_database
def test_without_a_ledger_the_worker_keeps_sending_emails(
    hasty: Service, mail_server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    people(hasty, 1)
    hasty.register(name="Bob", email="bob@example.org")
    with no_ledger(hasty), working(hasty.app):
        wait_for(lambda: "the ledger cannot be written" in caplog.text)
        post(hasty, "password-resets", email="bob@example.org")
        wait_for(lambda: mail_server.messages and mail_server.messages[-1]["To"] == "bob@example.org")
    assert "ada0" not in caplog.text


def test_more_accounts_than_one_batch_are_erased_batch_by_batch(
    hasty: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)
    people(hasty, 3)
    assert [erase_due(hasty) for _ in range(3)] == [2, 1, 0]
    assert len(hasty.deliver()) == 3
