"""Erasing what is due: everything goes, one receipt each, past queues, races and crashes."""

import resource
from collections.abc import Callable
from datetime import timedelta

import pytest
from journeys import (
    ERASE,
    ERASED,
    MakeService,
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
    request_email_change,
    request_erasure,
    the_mail,
    told,
)
from support import (
    OTHER_PASSWORD,
    MailServer,
    Person,
    Service,
    any_database,
    assert_problem,
    token_of,
    wait_for,
    working,
)

from backend.accounts import audit
from backend.desk import operations
from backend.mail import queue
from backend.privacy import erasure, ledger

ADA = "ada@example.org"
GRACE = timedelta(days=14, minutes=1)
CLAIM = timedelta(seconds=61)


class Crash(Exception):
    """What a test breaks off with."""


def crash(*_: object, **__: object) -> None:
    raise Crash


@pytest.fixture
def hasty(make_service: MakeService) -> Service:
    """The service without a grace period."""
    return make_service(erasure_grace_days=0)


def stored(service: Service) -> dict[str, int]:
    """Return how many rows each table has that may hold something about a person."""
    return {
        table: len(service.rows(table))
        for table in ("accounts", "previous_addresses", "sessions", "feedback", "holds", "mails")
    }


def test_an_account_is_erased_when_the_grace_period_is_over_and_not_before(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=ada.headers)
    close(service, ada.headers, erase=True)
    service.deliver()
    move_clock(GRACE - timedelta(minutes=2))
    assert erase_due(service) == 0
    move_clock(timedelta(minutes=2))
    assert erase_due(service) == 1
    assert told(service.deliver()) == {(ADA, ERASED)}
    assert stored(service) == dict.fromkeys(stored(service), 0)
    assert erase_due(service) == 0
    assert service.deliver() == []


def test_nobody_else_is_touched(hasty: Service) -> None:
    bob = hasty.register(name="Bob", email="bob@example.org")
    hasty.http.post("/v1/feedback", json={"message": "Mine."}, headers=bob.headers)
    hasty.http.post("/v1/feedback", json={"message": "Nobody's."})
    before = {table: hasty.rows(table) for table in stored(hasty)}
    people(hasty, 2)
    assert erase_due(hasty) == 2
    hasty.deliver()
    assert {table: hasty.rows(table) for table in stored(hasty)} == before
    assert hasty.account(bob.headers).status_code == 200


@any_database
def test_the_ledger_and_the_audit_name_the_account_and_nobody(hasty: Service) -> None:
    (ada,) = people(hasty, 1)
    id_ = account_id(hasty, ada.email)
    erase_due(hasty)
    assert in_ledger(hasty) == [id_]
    with hasty.app.app_context():
        text = ledger.path().read_text()
        assert ledger.path().stat().st_mode & 0o777 == 0o600
    for told_of in (text, str(hasty.rows("audit"))):
        assert "ada0" not in told_of
        assert "Ada" not in told_of


def test_a_registration_link_makes_no_second_account_of_an_erased_one(hasty: Service) -> None:
    ada = hasty.register()
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert_problem(hasty.confirm(ada.token, OTHER_PASSWORD), 400, "invalid-token")
    assert hasty.rows("accounts") == []


@any_database
def test_whoever_was_erased_can_register_anew(hasty: Service) -> None:
    close(hasty, hasty.register().headers, erase=True)
    erase_due(hasty)
    hasty.deliver()
    again = hasty.register(name="Ada Byron", password=OTHER_PASSWORD)
    assert hasty.account(again.headers).json["name"] == "Ada Byron"


@pytest.mark.parametrize(
    "refusal", [None, "451 4.7.1 try again later", "550 5.1.1 no such mailbox"], ids=["waiting", "put off", "abandoned"]
)
def test_a_mail_in_the_queue_goes_with_the_account(
    hasty: Service, mail_server: MailServer, refusal: str | None
) -> None:
    ada = hasty.register()
    hasty.http.post("/v1/password-resets", json={"email": ADA.upper()})
    assert request_email_change(hasty, ada.headers, "countess@example.org").status_code == 202
    request_erasure(hasty, ADA)
    if refusal:
        mail_server.refuse = refusal
        assert hasty.deliver() == []
        mail_server.refuse = None
        assert all(row["failure"] for row in hasty.rows("mails"))
    assert len(hasty.rows("mails")) == 3
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert [(row["kind"], row["email"]) for row in hasty.rows("mails")] == [("erased", ADA)]
    assert told(hasty.deliver()) == {(ADA, ERASED)}


def test_a_registration_mail_that_was_given_up_goes_with_the_account(hasty: Service, mail_server: MailServer) -> None:
    fail_to_mail(hasty, mail_server, "registrations", name="Ada Lovelace", email=ADA)
    close(hasty, hasty.register().headers, erase=True)
    assert erase_due(hasty) == 1
    assert told(hasty.deliver()) == {(ADA, ERASED)}
    assert hasty.rows("mails") == []


def test_mails_that_were_given_up_go_with_an_account_that_had_their_address(
    hasty: Service, mail_server: MailServer
) -> None:
    fail_to_mail(hasty, mail_server, "registrations", name="Ada Lovelace", email=ADA)
    ada = hasty.register()
    fail_to_mail(hasty, mail_server, "password-resets", email=ADA)
    change_email(hasty, ada.headers, "countess@example.org")
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert told(hasty.deliver()) == {("countess@example.org", ERASED)}
    assert hasty.rows("mails") == []


def test_a_registration_that_waits_to_be_mailed_outlives_the_account_that_was_closed_before(hasty: Service) -> None:
    close(hasty, hasty.register().headers, erase=True)
    assert hasty.http.post("/v1/registrations", json={"name": "Ada Byron", "email": ADA}).status_code == 202
    assert erase_due(hasty) == 1
    registration = the_mail(hasty.deliver(), ADA, "Finish registering with TILES")
    assert hasty.confirm(token_of(registration), OTHER_PASSWORD).status_code == 201


def test_a_registration_that_was_asked_for_before_the_account_was_closed_goes_with_it(hasty: Service) -> None:
    ada = hasty.register()
    hasty.http.post("/v1/registrations", json={"name": "Somebody", "email": ADA})
    hasty.mail_server.refuse = "451 4.3.0 try again later"
    hasty.deliver()
    close(hasty, ada.headers, erase=True)
    assert erase_due(hasty) == 1
    assert {row["kind"] for row in hasty.rows("mails")} == {"erased"}


def test_mails_to_a_new_account_with_the_address_stay(service: Service, ada: Person, move_clock: MoveClock) -> None:
    closed_by(service, ada.headers, ADA, erase=True)
    service.register(name="Ada Byron", password=OTHER_PASSWORD)
    move_clock(GRACE)
    service.http.post("/v1/password-resets", json={"email": ADA})
    assert erase_due(service) == 1
    assert len(service.deliver()) == 2


def test_an_erasure_that_was_asked_for_of_a_newer_closed_account_stays_asked_for(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    closed_by(service, ada.headers, ADA, erase=True)
    move_clock(timedelta(days=10))
    closed_by(service, service.register(password=OTHER_PASSWORD).headers, ADA, password=OTHER_PASSWORD)
    move_clock(timedelta(days=5))
    request_erasure(service, ADA)
    assert erase_due(service) == 1
    assert told(service.deliver()) == {(ADA, ERASE), (ADA, ERASED)}


@pytest.mark.parametrize(
    "break_off",
    [
        lambda patch: before_the_ledger(patch, crash),
        lambda patch: patch.setattr(erasure, "_erase", crash),
        lambda patch: patch.setattr(audit, "note", crash),
        lambda patch: patch.setattr(erasure, "leave_remains", crash),
    ],
    ids=["after marking", "after the ledger", "while deleting", "before the end"],
)
def test_after_a_crash_the_next_round_finishes_with_one_receipt(
    hasty: Service,
    move_clock: MoveClock,
    monkeypatch: pytest.MonkeyPatch,
    break_off: Callable[[pytest.MonkeyPatch], None],
) -> None:
    people(hasty, 2)
    ids = {account_id(hasty, f"ada{number}@example.org") for number in range(2)}
    with monkeypatch.context() as patch:
        break_off(patch)
        with pytest.raises(Crash):
            erase_due(hasty)
    assert len(hasty.rows("accounts")) == 2
    assert hasty.deliver() == []
    assert erase_due(hasty) == 0
    move_clock(CLAIM)
    assert erase_due(hasty) == 2
    assert set(in_ledger(hasty)) == ids
    assert told(hasty.deliver()) == {("ada0@example.org", ERASED), ("ada1@example.org", ERASED)}
    assert finish_erasing(hasty) == 0
    assert hasty.deliver() == []


def test_an_erasure_that_has_begun_cannot_be_taken_back_after_a_crash(
    hasty: Service, move_clock: MoveClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = closed_by(hasty, hasty.register().headers, ADA, erase=True)
    with monkeypatch.context() as patch:
        before_the_ledger(patch, crash)
        with pytest.raises(Crash):
            erase_due(hasty)
    assert_problem(cancel(hasty, token), 400, "invalid-token")
    request_erasure(hasty, ADA)
    assert hasty.deliver() == []
    move_clock(CLAIM)
    assert erase_due(hasty) == 1


def test_without_a_ledger_nothing_is_erased_nothing_is_marked_and_it_shows_as_late(hasty: Service) -> None:
    people(hasty, 1)
    before = hasty.rows("accounts")
    id_ = account_id(hasty, "ada0@example.org")
    with no_ledger(hasty):
        with pytest.raises(OSError, match="Is a directory"):
            erase_due(hasty)
        assert hasty.rows("accounts") == before
        assert overdue(hasty) == [id_]
    assert erase_due(hasty) == 1
    assert in_ledger(hasty) == [id_]


@any_database
def test_without_a_ledger_an_erasure_can_be_taken_back(hasty: Service) -> None:
    token = closed_by(hasty, hasty.register().headers, ADA, erase=True)
    with no_ledger(hasty), pytest.raises(OSError, match="Is a directory"):
        erase_due(hasty)
    assert cancel(hasty, token).status_code == 204
    assert erase_due(hasty) == 0


@any_database
def test_without_a_ledger_the_worker_goes_on_with_mails(
    hasty: Service, mail_server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    people(hasty, 1)
    hasty.register(name="Bob", email="bob@example.org")
    with no_ledger(hasty), working(hasty.app):
        wait_for(lambda: "the ledger cannot be written" in caplog.text)
        hasty.http.post("/v1/password-resets", json={"email": "bob@example.org"})
        wait_for(lambda: mail_server.messages and mail_server.messages[-1]["To"] == "bob@example.org")
    assert "ada0" not in caplog.text


@any_database
def test_a_ledger_that_takes_half_a_line_lets_nothing_be_erased(hasty: Service, move_clock: MoveClock) -> None:
    people(hasty, 1)
    id_ = account_id(hasty, "ada0@example.org")
    size = 32 << 20
    with hasty.app.app_context():
        ledger.path().write_bytes(b" " * size)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a disk with room for 40 bytes more: the write is cut short, and no error tells.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, hard))
    try:
        with pytest.raises(OSError, match=r"."):
            erase_due(hasty)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(hasty.rows("accounts")) == 1
    move_clock(CLAIM)
    assert erase_due(hasty) == 1
    assert in_ledger(hasty) == [id_]


@pytest.mark.parametrize(
    "remains",
    ['\n{"account": "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "erased_a', '\n{"accou', "\n", "\n" + 60 * "\0"],
    ids=["a line cut off", "its beginning", "nothing of it", "room that a power failure left unwritten"],
)
@any_database
def test_what_a_crash_cut_off_in_the_ledger_does_no_harm(hasty: Service, remains: str) -> None:
    people(hasty, 1)
    id_ = account_id(hasty, "ada0@example.org")
    with hasty.app.app_context():
        ledger.path().write_text(remains)
    assert erase_due(hasty) == 1
    assert in_ledger(hasty) == [id_]


def test_more_accounts_than_one_batch_are_erased_batch_by_batch(
    hasty: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)
    people(hasty, 5)
    assert [erase_due(hasty) for _ in range(4)] == [2, 2, 1, 0]
    assert len(hasty.deliver()) == 5


def test_a_receipt_that_nobody_takes_leaves_no_address(service: Service, ada: Person) -> None:
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
    assert erase_due(service) == 1
    service.mail_server.refuse = "550 5.1.1 no such mailbox"
    service.deliver()
    assert service.rows("mails") == []


def test_a_receipt_that_cannot_leave_for_two_days_leaves_no_address(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
    assert erase_due(service) == 1
    service.mail_server.refuse = "451 4.3.0 try again later"
    service.deliver()
    assert [row["email"] for row in service.rows("mails")] == [ada.email]
    move_clock(queue.GIVE_UP)
    with service.app.app_context():
        queue.tidy()
    assert service.rows("mails") == []
