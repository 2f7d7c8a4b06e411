"""`tiles data`: accounts are closed and erased, legal holds delay it, and late erasures are reported."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from data_commands import A_DAY, ADA, BOB, HOLD, ORDER, acts, day, parsed, printed, refused, rfc3339, stored
from journeys import (
    CLOSED,
    ERASED,
    MoveClock,
    account_id,
    cancel,
    erase_due,
    finish_erasing,
    in_ledger,
    receipt_of,
    the_mail,
    to_and_subject,
)
from peers import token_of
from sqlalchemy.exc import OperationalError
from support import Person, Service, any_database, assert_problem, invoke

from backend import clock
from backend.database import scrub

pytestmark = pytest.mark.usefixtures("ada")


@pytest.fixture
def bob(service: Service) -> Person:
    return service.register(name="Bob", email=BOB)


def test_closing_ends_every_session_tells_the_person_and_keeps_the_account_for_now(
    service: Service, ada: Person
) -> None:
    closed = printed(service, "close", ADA, "--yes", "--json")
    assert set(closed) == {"closed_at", "erase_after"}
    assert parsed(closed["erase_after"]) - parsed(closed["closed_at"]) == 365 * A_DAY
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    mails = service.deliver()
    assert to_and_subject(mails) == {(ADA, CLOSED)}
    assert printed(service, "requests", "--json") == []
    assert acts(service) == [("closed", {})]
    assert f"closed already, since {closed['closed_at'][:10]}" in refused(service, "close", ADA, "--yes")
    assert cancel(service, token_of(mails[0])).status_code == 204
    assert service.sign_in().status_code == 201
    closed = printed(service, "erase", ADA, "--yes", "--json")
    assert parsed(closed["erase_after"]) - parsed(closed["closed_at"]) == 14 * A_DAY
    assert acts(service)[1:] == [("closed", {}), ("erasure-requested", {"due": closed["erase_after"][:10]})]


def test_erasing_now_erases_for_good_and_mails_a_receipt_that_verifies(
    service: Service, ada: Person, tmp_path: Path
) -> None:
    account = str(account_id(service, ADA))
    service.http.post("/v1/feedback", json={"message": "More tiles, please."}, headers=ada.headers)
    done = invoke(service, "data", "erase", ADA, "--now", "--yes", "--json")
    closed = json.loads(done.stdout)
    assert closed["erase_after"] == closed["closed_at"]
    assert done.stderr == "Note: it is erased, and the receipt is emailed\n"
    assert [service.rows(table) for table in ("accounts", "sessions", "feedback", "holds")] == [[], [], [], []]
    assert [str(entry) for entry in in_ledger(service)] == [account]
    (tmp_path / "receipt").write_text(receipt_of(the_mail(service.deliver(), ADA, ERASED)))
    assert printed(service, "verify-receipt", str(tmp_path / "receipt"), "--json")["account"] == account
    assert "there is no account" in refused(service, "find", ADA)


@pytest.mark.usefixtures("bob")
def test_only_accounts_that_are_due_are_erased(service: Service, move_clock: MoveClock) -> None:
    end = clock.now().replace(hour=0, minute=0, second=0, microsecond=0) + 31 * A_DAY
    invoke(service, "data", "hold", ADA, *ORDER, "--until", day(end))
    assert f"until {day(end)}: release it first" in refused(service, "erase", ADA, "--now", "--yes")
    for person in (ADA, BOB):
        invoke(service, "data", "erase", person, "--yes")
    move_clock(20 * A_DAY)
    assert invoke(service, "data", "erase", "--due", "--yes").stdout == "erased  1\n"
    assert [row["email"] for row in service.rows("accounts")] == [ADA]
    (request,) = printed(service, "requests", "--json")
    assert (request["due"], request["held_until"], request["overdue"]) == (rfc3339(end), rfc3339(end), False)
    move_clock(end - clock.now())
    assert printed(service, "erase", "--due", "--yes", "--json") == {"erased": 1}


@any_database
def test_without_a_ledger_nothing_is_erased_and_the_command_says_so(service: Service, tmp_path: Path) -> None:
    (tmp_path / "erasures.jsonl").mkdir()
    failed = invoke(service, "data", "erase", ADA, "--now", "--yes", status=1)
    assert failed.stderr.startswith(f"Error: {tmp_path / 'erasures.jsonl'}: the ledger cannot be written")
    assert [row["email"] for row in service.rows("accounts")] == [ADA]
    invoke(service, "data", "requests", "--overdue", status=1)
    (tmp_path / "erasures.jsonl").rmdir()
    assert printed(service, "erase", "--due", "--yes", "--json") == {"erased": 1}


@any_database
def test_the_account_to_erase_must_be_clear(service: Service) -> None:
    for arguments in ((), (ADA, "--due"), ("--due", "--now"), (ADA, "--due", "--now")):
        assert "name an account" in refused(service, "erase", *arguments, "--yes", status=2)


@any_database
@pytest.mark.usefixtures("bob")
@pytest.mark.parametrize(
    ("command", "question"),
    [
        (("close", ADA), f"Close the account of {ADA}?"),
        (("erase", ADA), f"Close the account of {ADA} and have it erased after 14 days?"),
        (("erase", ADA, "--now"), f"Close the account of {ADA} and have it erased for good, now?"),
        (("erase", "--due"), "Erase for good what is due (1 accounts)?"),
    ],
)
def test_a_destructive_command_asks_first_and_does_nothing_without_a_yes(
    service: Service, move_clock: MoveClock, command: tuple[str, ...], question: str
) -> None:
    invoke(service, "data", "erase", BOB, "--yes")
    move_clock(15 * A_DAY)
    before = stored(service)
    for typed, heard in (("n\n", True), ("\n", True), ("", False), ("no idea\n", False)):
        done = invoke(service, "data", *command, typed=typed, status=1)
        assert stored(service) == before
        assert done.stderr.startswith(f"{question} [y/N]: ")
        advice = "" if heard else ": where nobody can be asked, give --yes"
        assert done.stderr.endswith(f"Error: nothing was done{advice}\n")
    done = invoke(service, "data", *command, "--json", typed="y\n")
    assert json.loads(done.stdout.removeprefix("y\n"))
    assert stored(service) != before


def test_releasing_lifts_every_hold_and_tells_a_person_who_waits_to_be_erased(
    service: Service, move_clock: MoveClock
) -> None:
    invoke(service, "data", "hold", ADA, *ORDER, "--until", day(clock.now() + 2 * A_DAY))
    move_clock(3 * A_DAY)
    assert "there is no legal hold" in refused(service, "release", ADA), "it has ended by itself"
    invoke(service, "data", "erase", ADA, "--yes")
    invoke(service, "data", "hold", ADA, *HOLD)
    invoke(service, "data", "hold", ADA, *ORDER, "--until", "2088-01-01")
    service.deliver()
    assert printed(service, "release", ADA, "--json") == {"released": 2}
    assert acts(service)[-1] == ("released", {"holds": 2})
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}
    assert "there is no legal hold" in refused(service, "release", ADA)
    move_clock(15 * A_DAY)
    assert erase_due(service) == 1


@pytest.mark.usefixtures("bob")
def test_requests_show_their_age_and_when_they_are_due_the_first_due_first(
    service: Service, move_clock: MoveClock
) -> None:
    account = str(account_id(service, ADA))
    erase_after = printed(service, "erase", ADA, "--yes", "--json")["erase_after"]
    move_clock(3 * A_DAY + timedelta(hours=1))
    invoke(service, "data", "erase", BOB, "--yes")
    first, second = printed(service, "requests", "--json")
    assert first == {
        "account": account,
        "asked_at": rfc3339(parsed(erase_after) - 14 * A_DAY),
        "age_days": 3,
        "due": erase_after,
        "held_until": None,
        "overdue": False,
        "kind": "erasure",
        "extended": False,
        **dict.fromkeys(("id", "way", "received_on")),
    }
    assert second["account"] == str(account_id(service, BOB))
    header, row, _ = invoke(service, "data", "requests").stdout.splitlines()
    assert header.split("  ")[0] == "account"
    assert row.startswith(f"{account}  ")
    assert row.split()[-3:] == ["no", "erasure", "no"]


def test_a_late_erasure_ends_the_command_with_1_and_nothing_late_with_0(
    service: Service, move_clock: MoveClock
) -> None:
    invoke(service, "data", "erase", ADA, "--yes")
    assert invoke(service, "data", "requests", "--overdue").stdout == "Nothing is late.\n"
    assert json.loads(invoke(service, "data", "requests", "--overdue", "--json").stdout) == []
    move_clock(15 * A_DAY)
    late = invoke(service, "data", "requests", "--overdue", "--json", status=1)
    (request,) = json.loads(late.stdout)
    assert request["overdue"] is True
    assert "tiles mail work" in late.stderr
    # Without the option the exit status is 0.
    assert json.loads(invoke(service, "data", "requests", "--json").stdout) == [request]
    invoke(service, "data", "hold", ADA, *ORDER, "--until", day(clock.now() + 5 * A_DAY))
    invoke(service, "data", "requests", "--overdue")
    move_clock(6 * A_DAY)
    invoke(service, "data", "requests", "--overdue", status=1)
    assert finish_erasing(service) == 1
    assert json.loads(invoke(service, "data", "requests", "--overdue", "--json").stdout) == []
    # A closed account is late after its retention time, even if its erasure was not requested.
    service.deliver()
    service.register(email=BOB)
    invoke(service, "data", "close", BOB, "--yes")
    move_clock(364 * A_DAY)
    assert printed(service, "requests", "--json") == []
    move_clock(2 * A_DAY)
    (request,) = json.loads(invoke(service, "data", "requests", "--overdue", "--json", status=1).stdout)
    assert (request["asked_at"], request["age_days"], request["overdue"]) == (None, None, True)


@any_database
def test_an_erasure_succeeds_although_the_file_cannot_be_rewritten_now(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked() -> None:
        raise OperationalError(None, None, Exception("database is locked"))

    monkeypatch.setattr(scrub, "compact", locked)
    done = invoke(service, "data", "erase", ADA, "--now", "--yes")
    assert (done.exit_code, "the service does it later" in done.stderr) == (0, True)
    assert service.rows("accounts") == []
    assert invoke(service, "data", "replay-erasures", "--yes").exit_code == 0
