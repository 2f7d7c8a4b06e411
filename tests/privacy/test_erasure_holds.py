"""Legal holds: a hold delays the erasure, ends by itself, and then the erasure runs."""

from datetime import datetime, timedelta

import pytest
from journeys import (
    CLOSED,
    ERASED,
    MoveClock,
    account_id,
    ask_for_erasure,
    at_once,
    before_the_ledger,
    cancel,
    close,
    confirm_erasure,
    erase_due,
    hold,
    in_ledger,
    moment,
    no_ledger,
    overdue,
    the_mail,
    tidy,
    to_and_subject,
)
from peers import text_of, token_of
from support import Person, Service, any_database

from backend import clock
from backend.desk import holds, operations
from backend.errors import Impossible

ADA = "ada@example.org"
A_DAY = timedelta(days=1)


def in_days(days: int) -> datetime:
    return clock.now() + days * A_DAY


@pytest.mark.usefixtures("ada")
def test_promise_8_an_erasure_waits_for_the_hold_says_so_and_runs_when_it_has_ended(
    service: Service, move_clock: MoveClock
) -> None:
    until = in_days(40)
    # The longest hold counts.
    for end in (in_days(30), until, in_days(20)):
        hold(service, ADA, end)
    assert service.deliver() == []
    response = confirm_erasure(service, ask_for_erasure(service, ADA))
    assert moment(response.json["erase_after"]) == until.replace(microsecond=0)
    message = the_mail(service.deliver(), ADA, CLOSED)
    assert f"A legal duty keeps it from being erased before {until.day} {until:%B %Y}." in text_of(message)
    move_clock(39 * A_DAY)
    assert erase_due(service) == 0
    assert overdue(service) == []
    move_clock(A_DAY + timedelta(minutes=1))
    assert overdue(service) != []
    assert erase_due(service) == 1
    assert to_and_subject(service.deliver()) == {(ADA, ERASED)}
    assert service.rows("holds") == []
    with pytest.raises(Impossible, match="no account"):
        hold(service, ADA, in_days(10))


@any_database
def test_a_hold_that_is_over_before_the_grace_period_changes_nothing(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    hold(service, ADA, in_days(2))
    response = close(service, ada.headers, erase=True)
    assert moment(response.json["erase_after"]) - moment(response.json["closed_at"]) == 14 * A_DAY
    move_clock(14 * A_DAY + timedelta(minutes=1))
    assert erase_due(service) == 1


def test_lifting_the_hold_lets_the_erasure_run_and_notifies_the_person(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    for person in (ada, bob):
        close(service, person.headers, erase=True)
    service.deliver()
    # A hold on one account does not delay another.
    hold(service, ADA, in_days(100))
    message = the_mail(service.deliver(), ADA, CLOSED)
    assert "A legal duty" in text_of(message)
    move_clock(15 * A_DAY)
    assert erase_due(service) == 1
    assert [row["email"] for row in service.rows("accounts")] == [ADA]
    service.deliver()
    service.run(holds.release, ADA)
    assert "A legal duty" not in text_of(the_mail(service.deliver(), ADA, CLOSED))
    assert erase_due(service) == 1


@any_database
def test_under_a_hold_a_closing_can_be_cancelled(service: Service, ada: Person) -> None:
    close(service, ada.headers, erase=True)
    service.deliver()
    hold(service, ADA, in_days(20))
    assert cancel(service, token_of(the_mail(service.deliver(), ADA, CLOSED))).status_code == 204


def test_the_retention_of_a_closed_account_waits_for_the_hold_which_is_forgotten_at_its_end(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    close(service, ada.headers)
    for days in (398, 400):
        hold(service, ADA, in_days(days))
    move_clock(399 * A_DAY)
    tidy(service)
    assert len(service.rows("holds")) == 1
    assert erase_due(service) == 0
    move_clock(2 * A_DAY)
    assert erase_due(service) == 1


def test_a_hold_is_refused_once_the_erasure_has_begun(hasty: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    close(hasty, hasty.register().headers, erase=True)
    refused = []

    def try_to_hold() -> None:
        with pytest.raises(Impossible, match="too late"):
            hold(hasty, ADA, in_days(10))
        refused.append(True)

    before_the_ledger(monkeypatch, lambda: at_once(try_to_hold))
    assert erase_due(hasty) == 1
    assert refused == [True]
    assert hasty.rows("accounts") == []


@any_database
def test_without_a_ledger_a_due_account_can_be_held(hasty: Service) -> None:
    close(hasty, hasty.register().headers, erase=True)
    with no_ledger(hasty), pytest.raises(OSError, match="Is a directory"):
        erase_due(hasty)
    hold(hasty, ADA, in_days(10))
    assert erase_due(hasty) == 0
    assert in_ledger(hasty) == []


def test_of_concurrent_holding_and_erasing_exactly_one_succeeds(hasty: Service) -> None:
    def try_to_hold(email: str) -> bool:
        try:
            hold(hasty, email, in_days(10))
        except Impossible:
            return False
        return True

    for number in range(4):
        person = hasty.register(email=f"ada{number}@example.org")
        id_ = account_id(hasty, person.email)
        assert close(hasty, person.headers, erase=True).status_code == 200
        held, erased = at_once(lambda email=person.email: try_to_hold(email), lambda: erase_due(hasty))
        erased = bool(erased or erase_due(hasty))
        assert held != erased
        assert (person.email in [row["email"] for row in hasty.rows("accounts")]) == held
        assert (id_ in in_ledger(hasty)) == erased
        if held:
            assert not any(row["erasing_since"] for row in hasty.rows("accounts"))
        hasty.deliver()


@any_database
def test_erasing_at_once_under_a_hold_is_refused(service: Service, ada: Person) -> None:
    hold(service, ada.email, in_days(10))
    with service.app.app_context(), pytest.raises(Impossible, match="legal hold"):
        operations.erase(ada.email, at_once=True)
    assert service.account(ada.headers).status_code == 200
