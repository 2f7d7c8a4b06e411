"""Legal holds: while one lasts nothing is erased; it ends by itself, and then the erasure that waited runs."""

from datetime import datetime, timedelta

import pytest
from journeys import (
    CLOSED,
    ERASED,
    MakeService,
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
    told,
)
from support import Person, Service, any_database, assert_problem, text_of, token_of

from backend import clock
from backend.desk import operations
from backend.errors import Impossible
from backend.serving import worker

ADA = "ada@example.org"
A_DAY = timedelta(days=1)


def in_days(days: int) -> datetime:
    return clock.now() + days * A_DAY


def release(service: Service, who: str) -> None:
    with service.app.app_context():
        operations.release(who)


@pytest.mark.usefixtures("ada")
def test_an_erasure_waits_for_the_hold_says_so_and_runs_when_it_has_ended(
    service: Service, move_clock: MoveClock
) -> None:
    until = in_days(40)
    hold(service, ADA, until)
    assert service.deliver() == []
    response = confirm_erasure(service, ask_for_erasure(service, ADA))
    assert moment(response.json["erase_after"]) == until
    message = the_mail(service.deliver(), ADA, CLOSED)
    assert f"A legal duty keeps it from being erased before {until.day} {until:%B %Y}." in text_of(message)
    move_clock(39 * A_DAY)
    assert erase_due(service) == 0
    assert overdue(service) == []
    move_clock(A_DAY + timedelta(minutes=1))
    assert overdue(service) != []
    assert erase_due(service) == 1
    assert told(service.deliver()) == {(ADA, ERASED)}
    assert service.rows("holds") == []


@any_database
def test_a_hold_that_is_over_before_the_grace_period_changes_nothing(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    hold(service, ADA, in_days(2))
    response = close(service, ada.headers, erase=True)
    assert moment(response.json["erase_after"]) - moment(response.json["closed_at"]) == 14 * A_DAY
    move_clock(14 * A_DAY + timedelta(minutes=1))
    assert erase_due(service) == 1


def test_the_hold_that_lasts_longest_counts(service: Service, ada: Person, move_clock: MoveClock) -> None:
    for days in (30, 60, 20):
        hold(service, ADA, in_days(days))
    close(service, ada.headers, erase=True)
    move_clock(59 * A_DAY)
    assert erase_due(service) == 0
    move_clock(A_DAY + timedelta(minutes=1))
    assert erase_due(service) == 1


def test_a_hold_that_is_placed_while_an_erasure_waits_delays_it_and_tells_the_person(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    close(service, ada.headers, erase=True)
    service.deliver()
    hold(service, ADA, in_days(20))
    message = the_mail(service.deliver(), ADA, CLOSED)
    assert "A legal duty" in text_of(message)
    move_clock(15 * A_DAY)
    assert erase_due(service) == 0
    assert cancel(service, token_of(message)).status_code == 204


def test_lifting_the_hold_lets_the_erasure_run_and_tells_the_person(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    hold(service, ADA, in_days(100))
    close(service, ada.headers, erase=True)
    service.deliver()
    move_clock(15 * A_DAY)
    release(service, ADA)
    assert "A legal duty" not in text_of(the_mail(service.deliver(), ADA, CLOSED))
    assert erase_due(service) == 1


def test_the_time_of_a_closed_account_waits_for_the_hold_too(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    close(service, ada.headers)
    hold(service, ADA, in_days(400))
    move_clock(399 * A_DAY)
    assert erase_due(service) == 0
    move_clock(2 * A_DAY)
    assert erase_due(service) == 1


def test_an_ended_hold_is_forgotten_and_one_that_lasts_is_not(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    for days in (1, 3):
        hold(service, ada.email, in_days(days))
    move_clock(2 * A_DAY)
    with service.app.app_context():
        list(worker.tidy())
    assert len(service.rows("holds")) == 1


def test_a_hold_on_one_account_keeps_no_other(service: Service, ada: Person, move_clock: MoveClock) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    kept = account_id(service, bob.email)
    hold(service, bob.email, in_days(100))
    for person in (ada, bob):
        close(service, person.headers, erase=True)
    move_clock(15 * A_DAY)
    assert erase_due(service) == 1
    assert account_id(service, bob.email) == kept


def test_a_hold_is_refused_once_the_erasure_has_begun(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(erasure_grace_days=0)
    close(service, service.register().headers, erase=True)
    refused = []

    def try_to_hold() -> None:
        with pytest.raises(Impossible, match="too late"):
            hold(service, ADA, in_days(10))
        refused.append(True)

    before_the_ledger(monkeypatch, lambda: at_once(try_to_hold))
    assert erase_due(service) == 1
    assert refused == [True]
    assert service.rows("accounts") == []


@any_database
def test_while_there_is_no_ledger_a_hold_on_what_is_due_is_not_refused(make_service: MakeService) -> None:
    service = make_service(erasure_grace_days=0)
    close(service, service.register().headers, erase=True)
    with no_ledger(service), pytest.raises(OSError, match="Is a directory"):
        erase_due(service)
    hold(service, ADA, in_days(10))
    assert erase_due(service) == 0
    assert in_ledger(service) == []


def test_of_holding_and_erasing_at_once_exactly_one_happens(make_service: MakeService) -> None:
    service = make_service(erasure_grace_days=0)

    def try_to_hold(email: str) -> bool:
        try:
            hold(service, email, in_days(10))
        except Impossible:
            return False
        return True

    for number in range(6):
        person = service.register(email=f"ada{number}@example.org")
        id_ = account_id(service, person.email)
        assert close(service, person.headers, erase=True).status_code == 200
        held, erased = at_once(lambda email=person.email: try_to_hold(email), lambda: erase_due(service))
        erased = bool(erased or erase_due(service))
        assert held != erased
        assert (person.email in [row["email"] for row in service.rows("accounts")]) == held
        assert (id_ in in_ledger(service)) == erased
        if held:
            assert not any(row["erasing_since"] for row in service.rows("accounts"))
        service.deliver()


def test_erasing_at_once_under_a_hold_is_refused(service: Service, ada: Person) -> None:
    hold(service, ada.email, in_days(10))
    with service.app.app_context(), pytest.raises(Impossible, match="legal hold"):
        operations.erase(ada.email, at_once=True)
    assert service.account(ada.headers).status_code == 200


def test_an_account_that_was_erased_cannot_be_held(service: Service, ada: Person, move_clock: MoveClock) -> None:
    close(service, ada.headers, erase=True)
    move_clock(15 * A_DAY)
    assert erase_due(service) == 1
    with pytest.raises(Impossible, match="no account"):
        hold(service, ADA, in_days(10))
    assert_problem(service.sign_in(), 401, "wrong-credentials")
