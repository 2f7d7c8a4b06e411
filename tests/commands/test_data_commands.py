"""`tiles data`: what each command does, prints, leaves in the audit, asks before and refuses."""

import json
import sqlite3
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import ScriptInfo
from journeys import (
    CLOSED,
    ERASED,
    MakeService,
    MoveClock,
    account_id,
    cancel,
    close,
    erase_due,
    finish_erasing,
    in_ledger,
    receipt_of,
    the_mail,
    told,
)
from support import NOBODY, Person, Service, any_database, assert_problem, run_tiles, token_of

from backend import clock
from backend.accounts import audit
from backend.commands.serve import tiles
from backend.database.engine import transaction
from backend.database.models import KEEP_RECORDS, Account

ADA = "ada@example.org"
A_DAY = timedelta(days=1)
ORDER = ("--basis", "Order 12 C 3/26")
HOLD = (*ORDER, "--until", "2099-01-01")
DISCLOSE = (*ORDER, "--authority", "Police of Springfield")
BOB = "bob@example.org"
PARTS = ("removed", "kept")
TABLES = ("accounts", "sessions", "mails", "feedback", "holds", "disclosures", "audit")


pytestmark = pytest.mark.usefixtures("ada")


def run(service: Service, *arguments: str, answer: str | None = None, status: int = 0) -> Result:
    """Run a command of `tiles data` in this process, with what is typed when it asks; it ends with the status."""
    info = ScriptInfo(create_app=lambda: service.app)
    done = CliRunner().invoke(tiles, ["data", *arguments], obj=info, input=answer)
    assert done.exit_code == status, (arguments, done.output, done.exception)
    return done


def said(service: Service, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON it is
    """Run a command that shall succeed, and return the JSON that it prints."""
    return json.loads(run(service, *arguments).stdout)


def refused(service: Service, *arguments: str, status: int = 1) -> str:
    """Run a command that shall be refused and change nothing; return the one line that says why."""
    before = stored(service)
    done = run(service, *arguments, status=status)
    assert stored(service) == before
    assert done.stdout in {"", "[]\n"}
    last = done.stderr.rstrip("\n").splitlines()[-1]
    assert status == 2 or f"{last}\n" == done.stderr
    assert last.startswith("Error: ")
    return last


def stored(service: Service) -> list[list[dict[str, Any]]]:
    return [service.rows(table) for table in TABLES]


def acts(service: Service) -> list[tuple[str, Any]]:
    """Return what the data manager did and with which details, the oldest first, as a script is told it."""
    found = said(service, "audit", "--json")
    return [(entry["act"], entry["details"]) for entry in reversed(found) if entry["actor"] == "data manager"]


def day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def rfc3339(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def parsed(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def twice(service: Service, ada: Person) -> tuple[str, str]:
    """Close Ada's account and register her address anew; return the ids of both accounts, the closed one first."""
    old = str(account_id(service, ADA))
    assert close(service, ada.headers).status_code == 200
    service.deliver()
    service.register(name="Ada", email="Ada@Example.org")
    (new,) = [row["id"] for row in said(service, "find", ADA, "--json") if row["closed_at"] is None]
    assert new != old
    return old, new


@pytest.fixture
def bob(service: Service) -> Person:
    return service.register(name="Bob", email=BOB)


@pytest.fixture
def hasty(make_service: MakeService) -> Service:
    """A service that erases without a grace period."""
    return make_service(erasure_grace_days=0)


# find


def test_an_account_is_found_by_its_address_whatever_the_case_and_by_its_id(service: Service, ada: Person) -> None:
    (found,) = said(service, "find", "ADA@Example.ORG", "--json")
    account = service.account(ada.headers).json
    assert found == {
        "id": str(account_id(service, ADA)),
        "name": "Ada Lovelace",
        "email": ADA,
        "email_updates": True,
        "accepted_policy": None,
        "created_at": rfc3339(parsed(account["created_at"])),
        "closed_at": None,
        "erasure_requested_at": None,
        "erase_after": None,
        "held_until": None,
        "erasing_since": None,
    }
    assert said(service, "find", found["id"], "--json") == [found]
    assert acts(service) == [("found", {}), ("found", {})]


@any_database
def test_a_person_reads_an_account_as_lines(service: Service) -> None:
    lines = run(service, "find", ADA).stdout.splitlines()
    assert [line.split("  ", 1)[0] for line in lines][:4] == ["id", "name", "email", "email updates"]
    assert "name                  Ada Lovelace" in lines
    assert "closed at             none" in lines


@any_database
def test_finding_shows_what_waits_for_an_account(service: Service) -> None:
    run(service, "hold", ADA, *HOLD)
    run(service, "erase", ADA, "--yes")
    (found,) = said(service, "find", ADA, "--json")
    assert found["held_until"] == "2099-01-01T00:00:00Z"
    assert parsed(found["erase_after"]) == parsed(found["erasure_requested_at"]) + 14 * A_DAY
    assert found["closed_at"] == found["erasure_requested_at"]


@any_database
def test_nobody_is_found_with_an_exit_code_a_list_for_scripts_and_a_reason(service: Service) -> None:
    for who in ("nobody@example.org", NOBODY):
        assert "there is no account" in refused(service, "find", who)
        assert json.loads(run(service, "find", who, "--json", status=1).stdout) == []


# export


def test_the_copy_is_the_one_that_the_person_can_take(service: Service, ada: Person, tmp_path: Path) -> None:
    service.http.post("/v1/feedback", json={"message": "More tiles, please."}, headers=ada.headers)
    run(service, "export", ADA, "--output", str(tmp_path / "ada.json"))
    copy = json.loads((tmp_path / "ada.json").read_text("utf-8"))
    own = service.http.get("/v1/account/export", headers=ada.headers).json
    for document in (copy, own):
        document.pop("exported_at")
    assert copy == own
    assert '"More tiles, please."' in json.dumps(copy)
    assert acts(service) == [("exported", {})]


@any_database
def test_without_a_file_the_copy_is_printed_and_a_closed_account_has_one_too(service: Service) -> None:
    run(service, "close", ADA, "--yes")
    document = said(service, "export", ADA)
    assert set(document) == {"exported_at", "stored"}
    assert ADA in json.dumps(document)


# close


def test_closing_ends_every_session_tells_the_person_and_keeps_the_account_for_now(
    service: Service, ada: Person
) -> None:
    closed = said(service, "close", ADA, "--yes", "--json")
    assert set(closed) == {"closed_at", "erase_after"}
    assert parsed(closed["erase_after"]) - parsed(closed["closed_at"]) == 365 * A_DAY
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    mails = service.deliver()
    assert told(mails) == {(ADA, CLOSED)}
    assert said(service, "requests", "--json") == []
    assert acts(service) == [("closed", {})]
    assert cancel(service, token_of(mails[0])).status_code == 204
    assert service.sign_in().status_code == 201


@any_database
def test_a_closed_account_is_not_closed_again_but_can_be_erased(service: Service) -> None:
    closed_at = said(service, "close", ADA, "--yes", "--json")["closed_at"]
    assert f"closed already, since {closed_at[:10]}" in refused(service, "close", ADA, "--yes")
    assert said(service, "erase", ADA, "--yes", "--json")["closed_at"] == closed_at
    assert [act for act, _ in acts(service)] == ["closed", "erasure-requested"]


# erase


def test_erasing_waits_for_the_grace_period_and_the_person_can_take_it_back(
    service: Service, move_clock: MoveClock
) -> None:
    closed = said(service, "erase", ADA, "--yes", "--json")
    assert set(closed) == {"closed_at", "erase_after"}
    assert parsed(closed["erase_after"]) - parsed(closed["closed_at"]) == 14 * A_DAY
    assert acts(service) == [("closed", {}), ("erasure-requested", {"due": closed["erase_after"][:10]})]
    link = token_of(the_mail(service.deliver(), ADA, CLOSED))
    move_clock(13 * A_DAY)
    assert erase_due(service) == 0
    assert cancel(service, link).status_code == 204
    assert said(service, "requests", "--json") == []
    run(service, "erase", ADA, "--yes")
    move_clock(14 * A_DAY)
    assert erase_due(service) == 1


def test_erasing_now_erases_for_good_and_mails_a_receipt_that_verifies(
    service: Service, ada: Person, tmp_path: Path
) -> None:
    account = str(account_id(service, ADA))
    service.http.post("/v1/feedback", json={"message": "More tiles, please."}, headers=ada.headers)
    done = run(service, "erase", ADA, "--now", "--yes", "--json")
    closed = json.loads(done.stdout)
    assert closed["erase_after"] == closed["closed_at"]
    assert done.stderr == "Note: it is erased, and the receipt is mailed\n"
    assert [service.rows(table) for table in ("accounts", "sessions", "feedback", "holds")] == [[], [], [], []]
    assert [str(entry) for entry in in_ledger(service)] == [account]
    (tmp_path / "receipt").write_text(receipt_of(the_mail(service.deliver(), ADA, ERASED)))
    assert said(service, "verify-receipt", str(tmp_path / "receipt"), "--json")["account"] == account
    assert "there is no account" in refused(service, "find", ADA)


@any_database
def test_without_a_grace_period_erasing_is_done_at_once(hasty: Service) -> None:
    run(hasty, "erase", ADA, "--yes")
    assert hasty.rows("accounts") == []


def test_an_erasure_under_a_hold_waits_for_its_end_and_cannot_be_done_now(
    service: Service, move_clock: MoveClock
) -> None:
    end = whole_seconds(clock.now()).replace(hour=0, minute=0, second=0) + 31 * A_DAY
    run(service, "hold", ADA, *ORDER, "--until", day(end))
    assert f"until {day(end)}: release it first" in refused(service, "erase", ADA, "--now", "--yes")
    assert said(service, "erase", ADA, "--yes", "--json")["erase_after"] == rfc3339(end)
    move_clock(20 * A_DAY)
    (request,) = said(service, "requests", "--json")
    assert (request["due"], request["held_until"], request["overdue"]) == (rfc3339(end), rfc3339(end), False)
    assert run(service, "erase", "--due", "--yes").stdout == "erased  0\n"
    move_clock(end - clock.now())
    assert run(service, "erase", "--due", "--yes").stdout == "erased  1\n"
    assert service.rows("accounts") == []


@pytest.mark.usefixtures("bob")
def test_what_is_due_is_erased_and_nothing_else(service: Service, move_clock: MoveClock) -> None:
    service.register(name="Cy", email="cy@example.org")
    for person in (ADA, BOB):
        run(service, "erase", person, "--yes")
    run(service, "hold", ADA, *HOLD)
    assert said(service, "erase", "--due", "--yes", "--json") == {"erased": 0}
    move_clock(15 * A_DAY)
    assert said(service, "erase", "--due", "--yes", "--json") == {"erased": 1}
    assert {row["email"] for row in service.rows("accounts")} == {ADA, "cy@example.org"}
    assert said(service, "erase", "--due", "--yes", "--json") == {"erased": 0}


@any_database
def test_without_a_ledger_nothing_is_erased_and_the_command_says_so(service: Service, tmp_path: Path) -> None:
    (tmp_path / "erasures.jsonl").mkdir()
    failed = run(service, "erase", ADA, "--now", "--yes", status=1)
    assert failed.stderr.startswith(f"Error: {tmp_path / 'erasures.jsonl'}: the ledger cannot be written")
    assert [row["email"] for row in service.rows("accounts")] == [ADA]
    run(service, "requests", "--overdue", status=1)
    (tmp_path / "erasures.jsonl").rmdir()
    assert said(service, "erase", "--due", "--yes", "--json") == {"erased": 1}


@any_database
def test_what_shall_be_erased_must_be_clear(service: Service) -> None:
    for given in ((), (ADA, "--due"), ("--due", "--now"), (ADA, "--due", "--now")):
        assert "name an account" in refused(service, "erase", *given, "--yes", status=2)


# Whether you are sure


@any_database
@pytest.mark.usefixtures("bob")
@pytest.mark.parametrize("command", ["close WHO", "erase WHO", "erase WHO --now", "erase --due"])
def test_what_destroys_is_asked_and_without_a_yes_nothing_is_done(
    service: Service, move_clock: MoveClock, command: str
) -> None:
    run(service, "erase", BOB, "--yes")
    move_clock(15 * A_DAY)
    before = stored(service)
    for answer, heard in (("n\n", True), ("\n", True), ("", False), ("no idea\n", False)):
        done = run(service, *command.replace("WHO", ADA).split(), answer=answer, status=1)
        assert stored(service) == before
        assert "[y/N]" in done.stderr
        advice = "" if heard else ": where nobody can be asked, give --yes"
        assert done.stderr.endswith(f"Error: nothing was done{advice}\n")


@any_database
@pytest.mark.parametrize(
    ("command", "question"),
    [
        ("close WHO", f"Close the account of {ADA}?"),
        ("erase WHO", f"Close the account of {ADA} and have it erased after 14 days?"),
        ("erase WHO --now", f"Close the account of {ADA} and have it erased for good, now?"),
        ("erase --due", "Erase for good what is due (0 accounts)?"),
    ],
)
def test_the_question_says_what_is_done_and_a_yes_does_it(service: Service, command: str, question: str) -> None:
    done = run(service, *command.replace("WHO", ADA).split(), "--json", answer="y\n")
    assert done.stderr.startswith(f"{question} [y/N]: ")
    assert service.rows("accounts") == [] if "--now" in command else len(service.rows("accounts")) == 1
    assert json.loads(done.stdout.removeprefix("y\n"))


# hold and release


def test_a_hold_is_placed_noted_and_seen_by_the_person_in_the_copy(service: Service, ada: Person) -> None:
    placed = said(service, "hold", ADA, *HOLD, "--json")
    assert set(placed) == {"hold", "until"}
    assert placed["until"] == "2099-01-01T00:00:00Z"
    assert acts(service) == [("held", {"until": "2099-01-01"})]
    own = service.http.get("/v1/account/export", headers=ada.headers).json
    (holds,) = [table["rows"] for table in own["stored"] if table["table"] == "holds"]
    assert [(row["id"], row["basis"], row["until"]) for row in holds] == [
        (placed["hold"], "Order 12 C 3/26", "2099-01-01T00:00:00Z")
    ]
    assert service.deliver() == []


def test_lifting_takes_every_hold_and_tells_whoever_waits_to_be_erased(service: Service, move_clock: MoveClock) -> None:
    run(service, "erase", ADA, "--yes")
    run(service, "hold", ADA, *HOLD)
    run(service, "hold", ADA, *ORDER, "--until", "2088-01-01")
    service.deliver()
    assert said(service, "release", ADA, "--json") == {"released": 2}
    assert acts(service)[-1] == ("released", {"holds": 2})
    assert told(service.deliver()) == {(ADA, CLOSED)}
    assert "there is no legal hold" in refused(service, "release", ADA)
    move_clock(15 * A_DAY)
    assert erase_due(service) == 1


@any_database
def test_a_hold_that_has_ended_is_none_to_lift(service: Service, move_clock: MoveClock) -> None:
    run(service, "hold", ADA, *ORDER, "--until", day(clock.now() + 2 * A_DAY))
    move_clock(3 * A_DAY)
    assert "there is no legal hold" in refused(service, "release", ADA)


@any_database
def test_a_hold_needs_a_day_to_come(service: Service) -> None:
    for until in ("2020-01-01", "1970-01-01", "0001-01-01"):
        assert "a day in the future" in refused(service, "hold", ADA, *ORDER, "--until", until)


@any_database
def test_a_day_that_is_none_is_a_wrong_call(service: Service) -> None:
    for until in ("31.12.2099", "2099-13-01", "2099-02-30", "tomorrow", "", "99999-01-01", "2099"):
        assert "write a day such as 2026-12-31" in refused(service, "hold", ADA, *ORDER, "--until", until, status=2)


@any_database
def test_a_hold_ends_when_its_day_begins_in_utc(service: Service, move_clock: MoveClock) -> None:
    now = clock.now()
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
    move_clock(noon - now)
    assert "a day in the future" in refused(service, "hold", ADA, *ORDER, "--until", day(noon))
    tomorrow = noon.replace(hour=0) + A_DAY
    assert said(service, "hold", ADA, *ORDER, "--until", day(tomorrow), "--json")["until"] == rfc3339(tomorrow)


# disclose


def test_a_disclosure_writes_all_that_is_held_and_is_seen_by_the_person(
    service: Service, ada: Person, tmp_path: Path
) -> None:
    run(service, "disclose", ADA, *DISCLOSE, "--output", str(tmp_path / "handed-over.json"))
    handed_over = json.loads((tmp_path / "handed-over.json").read_text("utf-8"))
    own = service.http.get("/v1/account/export", headers=ada.headers).json
    tables = {table["table"]: table["rows"] for table in handed_over["stored"]}
    assert list(tables) == [table["table"] for table in own["stored"]]
    assert tables["accounts"][0]["email"] == ADA
    (row,) = next(table["rows"] for table in own["stored"] if table["table"] == "disclosures")
    assert (row["authority"], row["basis"]) == ("Police of Springfield", "Order 12 C 3/26")
    assert acts(service) == [("disclosed", {})]
    assert service.deliver() == []


def test_the_record_outlives_the_account_and_names_nobody(service: Service, move_clock: MoveClock) -> None:
    account = str(account_id(service, ADA))
    run(service, "disclose", ADA, *DISCLOSE)
    run(service, "erase", ADA, "--now", "--yes")
    (row,) = service.rows("disclosures")
    assert uuid.UUID(str(row["account_id"])) == uuid.UUID(account)
    assert "lovelace" not in json.dumps(row, default=str).lower()
    assert ADA not in json.dumps(row, default=str)
    kept = said(service, "audit", account, "--json")[0]["details"]["kept"]
    assert (kept[0]["store"], kept[0]["rows"]) == ("disclosures", 1)
    move_clock(KEEP_RECORDS + A_DAY)
    with service.app.app_context():
        audit.tidy()
    assert service.rows("disclosures") == service.rows("audit") == []


@any_database
def test_what_cannot_be_written_is_not_recorded_as_handed_over(service: Service, tmp_path: Path) -> None:
    for output in (tmp_path / "missing" / "ada.json", tmp_path):
        line = refused(service, "disclose", ADA, *DISCLOSE, "--output", str(output), status=2)
        assert f"'{output}' cannot be written" in line
        refused(service, "export", ADA, "--output", str(output), status=2)


@any_database
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is always full")
def test_a_disk_that_is_full_is_said_together_with_what_was_recorded(service: Service) -> None:
    assert run(service, "export", ADA, "--output", "/dev/full", status=1).stderr.startswith(
        "Error: '/dev/full' cannot be written: "
    )
    failed = run(service, "disclose", ADA, *DISCLOSE, "--output", "/dev/full", status=1)
    assert "the disclosure is recorded: write the data with `tiles data export`" in failed.stderr
    assert len(service.rows("disclosures")) == 1


@any_database
def test_a_text_that_names_the_person_or_says_nothing_is_refused(service: Service, tmp_path: Path) -> None:
    file = ("--output", str(tmp_path / "disclosed.json"))
    for text in ("about Ada Lovelace", "ADA LOVELACE", f"re: {ADA}", "re: Ada@Example.Org", " ", "", "x" * 501):
        refused(service, "hold", ADA, "--basis", text, "--until", "2099-01-01")
        refused(service, "disclose", ADA, "--authority", "Police", "--basis", text, *file)
        refused(service, "disclose", ADA, "--authority", text, "--basis", "Order 12", *file)
    assert not (tmp_path / "disclosed.json").exists()


@any_database
def test_each_text_may_have_500_characters(service: Service) -> None:
    run(service, "hold", ADA, "--basis", "x" * 500, "--until", "2099-01-01")
    run(service, "disclose", ADA, "--authority", "x" * 500, "--basis", "x" * 500)


@any_database
def test_a_text_that_no_terminal_should_show_is_refused(service: Service) -> None:
    for text in ("Order\n12", "Order \x1b[31m12", "Order \udcff 12", "Order \N{RIGHT-TO-LEFT OVERRIDE}12"):
        refused(service, "hold", ADA, "--basis", text, "--until", "2099-01-01")
        refused(service, "disclose", ADA, "--authority", text, "--basis", "Order 12")


# requests


def test_requests_show_their_age_and_when_they_are_due(service: Service, move_clock: MoveClock) -> None:
    account = str(account_id(service, ADA))
    erase_after = said(service, "erase", ADA, "--yes", "--json")["erase_after"]
    move_clock(3 * A_DAY + timedelta(hours=1))
    assert said(service, "requests", "--json") == [
        {
            "account": account,
            "asked_at": rfc3339(parsed(erase_after) - 14 * A_DAY),
            "age_days": 3,
            "due": erase_after,
            "held_until": None,
            "overdue": False,
        }
    ]
    header, row = run(service, "requests").stdout.splitlines()
    assert header.split("  ")[0] == "account"
    assert row.startswith(f"{account}  ")
    assert row.endswith("  none        no")


def test_what_is_late_ends_the_command_with_1_and_nothing_late_with_0(service: Service, move_clock: MoveClock) -> None:
    run(service, "erase", ADA, "--yes")
    assert run(service, "requests", "--overdue").stdout == "Nothing is late.\n"
    assert json.loads(run(service, "requests", "--overdue", "--json").stdout) == []
    move_clock(15 * A_DAY)
    late = run(service, "requests", "--overdue", "--json", status=1)
    (request,) = json.loads(late.stdout)
    assert request["overdue"] is True
    assert "tiles mail work" in late.stderr
    # Without the option it is a list like any other.
    assert json.loads(run(service, "requests", "--json").stdout) == [request]
    assert finish_erasing(service) == 1
    assert json.loads(run(service, "requests", "--overdue", "--json").stdout) == []


def test_a_closed_account_whose_time_is_over_is_late_though_nobody_asked(
    service: Service, move_clock: MoveClock
) -> None:
    run(service, "close", ADA, "--yes")
    move_clock(364 * A_DAY)
    assert said(service, "requests", "--json") == []
    move_clock(2 * A_DAY)
    (request,) = json.loads(run(service, "requests", "--overdue", "--json", status=1).stdout)
    assert (request["asked_at"], request["age_days"], request["overdue"]) == (None, None, True)


def test_a_hold_puts_off_when_an_erasure_is_late(service: Service, move_clock: MoveClock) -> None:
    run(service, "erase", ADA, "--yes")
    run(service, "hold", ADA, *ORDER, "--until", day(clock.now() + 40 * A_DAY))
    move_clock(38 * A_DAY)
    run(service, "requests", "--overdue")
    move_clock(3 * A_DAY)
    run(service, "requests", "--overdue", status=1)


@pytest.mark.usefixtures("bob")
@any_database
def test_the_one_due_first_is_first(service: Service, move_clock: MoveClock) -> None:
    ids = [str(account_id(service, email)) for email in (ADA, BOB)]
    for email in (ADA, BOB):
        run(service, "erase", email, "--yes")
        move_clock(A_DAY)
    assert [request["account"] for request in said(service, "requests", "--json")] == ids


@any_database
def test_a_watchdog_sees_by_the_exit_code_that_something_is_late(
    service: Service, tmp_path: Path, database_url: str
) -> None:
    command = ("data", "requests", "--overdue")
    assert run_tiles(tmp_path, *command, database_url=database_url).returncode == 0
    run(service, "erase", ADA, "--yes")
    with sqlite3.connect(tmp_path / "tiles.sqlite3") as connection:
        connection.execute("UPDATE accounts SET erase_after = '2026-01-01 00:00:00'")
    connection.close()
    late = run_tiles(tmp_path, *command, database_url=database_url)
    assert late.returncode == 1
    assert "2026-01-01T00:00:00Z" in late.stdout


# replay-erasures, verify-receipt


def test_replaying_tells_how_many_had_come_back(service: Service) -> None:
    quiet = run(service, "replay-erasures", "--json")
    assert json.loads(quiet.stdout) == {"in_ledger": 0, "erased_again": 0}
    assert "names no erasure; is it the right one?" in quiet.stderr
    (row,) = service.rows("accounts")
    run(service, "erase", ADA, "--now", "--yes")
    service.deliver()
    restored = {name: value for name, value in row.items() if name in {"name", "email", "password_hash"}}
    with service.app.app_context(), transaction() as session:
        session.add(Account(**restored, id=uuid.UUID(str(row["id"])), credentials_id=uuid.uuid4(), email_updates=True,
                            created_at=clock.now()))  # fmt: skip
    for again in (1, 0):
        done = run(service, "replay-erasures", "--json")
        assert json.loads(done.stdout) == {"in_ledger": 1, "erased_again": again}
        assert done.stderr == ""
    assert service.rows("accounts") == []
    assert service.deliver() == []


@any_database
def test_a_receipt_is_read_from_a_file_or_from_standard_input_however_it_was_wrapped(
    service: Service, tmp_path: Path
) -> None:
    run(service, "erase", ADA, "--now", "--yes")
    mail = the_mail(service.deliver(), ADA, ERASED)
    receipt = receipt_of(mail)
    found = said(service, "verify-receipt", _file(tmp_path, receipt), "--json")
    assert set(found) == {"account", "requested_at", "erased_at", "removed", "kept"}
    wrapped = "\r\n".join(receipt[start : start + 72] for start in range(0, len(receipt), 72))
    for text in (wrapped, f"\ufeff{receipt}\n", f"  {receipt}  "):
        assert said(service, "verify-receipt", _file(tmp_path, text), "--json") == found
    assert json.loads(run(service, "verify-receipt", "-", "--json", answer=receipt).stdout) == found
    lines = run(service, "verify-receipt", _file(tmp_path, receipt)).stdout.splitlines()
    assert any(line.endswith("accounts: 1") for line in lines)
    assert any("ledger: 1, for keeping a restored backup" in line for line in lines)


def _file(folder: Path, text: str | bytes) -> str:
    path = folder / "receipt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@any_database
def test_what_is_no_receipt_is_refused_with_what_to_give(service: Service, ada: Person, tmp_path: Path) -> None:
    run(service, "erase", ADA, "--now", "--yes")
    mail = the_mail(service.deliver(), ADA, ERASED)
    receipt = receipt_of(mail)
    other = "B" if receipt[20] == "A" else "A"
    altered = receipt[:20] + other + receipt[21:]
    for text in (altered, receipt[:-2], "", "nonsense", b"\xff\xfe", mail.as_bytes(), ada.token):
        line = refused(service, "verify-receipt", _file(tmp_path, text))
        assert "no receipt of this service, or it was altered" in line
        assert "the receipt alone" in line


# audit


@pytest.mark.usefixtures("bob")
def test_every_act_is_noted_with_who_did_it_the_newest_first(service: Service) -> None:
    run(service, "find", ADA)
    run(service, "export", ADA)
    run(service, "hold", ADA, *HOLD)
    run(service, "release", ADA)
    run(service, "disclose", ADA, *DISCLOSE)
    run(service, "erase", ADA, "--yes")
    run(service, "find", BOB)
    done = ["erasure-requested", "closed", "disclosed", "released", "held", "exported", "found"]
    assert [entry["act"] for entry in said(service, "audit", ADA, "--json")] == done
    assert [entry["act"] for entry in said(service, "audit", "--json")] == ["found", *done]
    assert {entry["actor"] for entry in said(service, "audit", "--json")} == {"data manager"}
    header, first, *_ = run(service, "audit").stdout.splitlines()
    assert header.split() == ["at", "actor", "act", "account", "id", "details"]
    assert "data manager  found" in first


def test_after_erasure_only_the_id_finds_the_entries_and_none_names_the_person(service: Service) -> None:
    account = str(account_id(service, ADA))
    for command in (("find",), ("export",), ("hold", *HOLD), ("release",), ("disclose", *DISCLOSE)):
        run(service, command[0], ADA, *command[1:])
    run(service, "erase", ADA, "--now", "--yes")
    assert (
        run(service, "audit", ADA).stdout == "There is no entry. Those of an erased account are found by its id only.\n"
    )
    found = run(service, "audit", account, "--json").stdout
    assert json.loads(found)[0]["act"] == "erased"
    assert {entry["account_id"] for entry in json.loads(found)} == {account}
    table = run(service, "audit", account).stdout
    removed, kept = (sum(store["rows"] for store in json.loads(found)[0]["details"][part]) for part in PARTS)
    assert f", removed {removed} rows, kept {kept} rows\n" in table
    for text in (found, table, json.dumps(service.rows("audit"), default=str)):
        for mark in ("lovelace", "ada@", "example.org"):
            assert mark not in text.lower()


@any_database
def test_looking_at_the_audit_or_at_what_waits_is_no_act(service: Service) -> None:
    for command in (("audit",), ("audit", ADA), ("requests",), ("requests", "--overdue"), ("replay-erasures",)):
        run(service, *command)
    assert service.rows("audit") == []


# Which account is meant


NEEDS_ONE = [("export",), ("close", "--yes"), ("erase", "--yes"), ("erase", "--now", "--yes"), ("hold", *HOLD),
             ("release",), ("disclose", *DISCLOSE)]  # fmt: skip


def command_for(command: tuple[str, ...], who: str) -> tuple[str, ...]:
    return (command[0], who, *command[1:])


def test_an_address_that_several_accounts_had_is_refused_with_their_ids(service: Service, ada: Person) -> None:
    old, new = twice(service, ada)
    for command in NEEDS_ONE:
        before = stored(service)
        done = run(service, *command_for(command, ADA), status=1)
        assert stored(service) == before
        assert done.stdout == ""
        first, *ids = done.stderr.splitlines()
        assert "several accounts have or had this address; name one by its id" in first
        assert sorted(line.split() for line in ids) == sorted([[old, "closed"], [new, "open"]])


def test_each_of_several_accounts_is_named_by_its_id(service: Service, ada: Person) -> None:
    old, new = twice(service, ada)
    assert {row["id"] for row in said(service, "find", ADA, "--json")} == {old, new}
    assert "closed already" in refused(service, "close", old, "--yes")
    assert said(service, "export", old)["stored"][0]["rows"][0]["id"] == old
    run(service, "hold", old, *HOLD)
    run(service, "release", old)
    run(service, "erase", old, "--now", "--yes")
    assert service.sign_in().status_code == 201
    assert [row["id"] for row in said(service, "find", ADA, "--json")] == [new]
    assert {entry["account_id"] for entry in said(service, "audit", ADA, "--json")} == {new}


@any_database
@pytest.mark.parametrize("command", NEEDS_ONE, ids=" ".join)
def test_an_account_that_is_not_there_is_said_in_a_line(service: Service, command: tuple[str, ...]) -> None:
    for who in ("nobody@example.org", NOBODY, NOBODY.upper()):
        line = refused(service, *command_for(command, who))
        assert line == "Error: there is no account with this address or id; erased ones are not known any more"


@any_database
@pytest.mark.parametrize("command", [("find",), ("audit",), *NEEDS_ONE], ids=" ".join)
def test_what_is_neither_an_address_nor_an_id_is_said_in_a_line(service: Service, command: tuple[str, ...]) -> None:
    for who in ("nonsense", "", "ada@", "Ada Lovelace", "%", "\udcff@example.org", "\xe4d\xe4@example.org", "x" * 5000):
        line = refused(service, *command_for(command, who))
        assert line == "Error: name the account by its email address or its id"


# Help


@any_database
def test_the_help_names_every_command_on_a_line_of_its_own_uncut(service: Service) -> None:
    shown = run(service, "--help").stdout
    group = tiles.commands["data"]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        first = command.help.partition("\n")[0]
        assert f"\n  {name:<{max(map(len, group.commands))}}  {first}\n" in shown  # type: ignore[attr-defined]
