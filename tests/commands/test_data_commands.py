"""`tiles data`: the effect of each command, its output, audit entry, question and refusals."""

import json
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from journeys import (
    CLOSED,
    ERASED,
    MoveClock,
    account_id,
    cancel,
    close,
    erase_due,
    finish_erasing,
    in_ledger,
    receipt_of,
    the_mail,
    to_and_subject,
)
from peers import token_of
from support import NOBODY, Person, Service, any_database, assert_problem, invoke

from backend import clock
from backend.accounts import audit
from backend.database.engine import transaction
from backend.database.models import KEEP_RECORDS, Account

ADA, BOB = "ada@example.org", "bob@example.org"
A_DAY = timedelta(days=1)
ORDER = ("--basis", "Order 12 C 3/26")
HOLD = (*ORDER, "--until", "2099-01-01")
DISCLOSE = (*ORDER, "--authority", "Police of Springfield")
TABLES = ("accounts", "sessions", "mails", "feedback", "holds", "disclosures", "audit")
NEEDS_ONE = [("export",), ("close", "--yes"), ("erase", "--yes"), ("erase", "--now", "--yes"), ("hold", *HOLD),
             ("release",), ("disclose", *DISCLOSE)]  # fmt: skip

pytestmark = pytest.mark.usefixtures("ada")


def printed(service: Service, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """Run a command that succeeds, and return the JSON that it prints."""
    return json.loads(invoke(service, "data", *arguments).stdout)


def refused(service: Service, *arguments: str, status: int = 1) -> str:
    """Run a command that is refused and changes nothing; return the line with the reason."""
    before = stored(service)
    done = invoke(service, "data", *arguments, status=status)
    assert stored(service) == before
    assert done.stdout in {"", "[]\n"}
    last = done.stderr.rstrip("\n").splitlines()[-1]
    assert status == 2 or f"{last}\n" == done.stderr
    assert last.startswith("Error: ")
    return last


def stored(service: Service) -> list[list[dict[str, Any]]]:
    return [service.rows(table) for table in TABLES]


def acts(service: Service) -> list[tuple[str, Any]]:
    """Return the data manager's acts and their details, the oldest first."""
    entries = printed(service, "audit", "--json")
    return [(entry["act"], entry["details"]) for entry in reversed(entries) if entry["actor"] == "data manager"]


def day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def rfc3339(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def parsed(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


@pytest.fixture
def bob(service: Service) -> Person:
    return service.register(name="Bob", email=BOB)


# find, export


def test_an_account_is_found_by_its_address_in_any_case_and_by_its_id(service: Service, ada: Person) -> None:
    (row,) = printed(service, "find", "ADA@Example.ORG", "--json")
    account = service.account(ada.headers).json
    assert row == {
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
    assert printed(service, "find", row["id"], "--json") == [row]
    lines = invoke(service, "data", "find", ADA).stdout.splitlines()
    assert [line.split("  ", 1)[0] for line in lines][:4] == ["id", "name", "email", "email updates"]
    assert "name                  Ada Lovelace" in lines
    assert "closed at             none" in lines
    assert acts(service) == [("found", {})] * 3
    invoke(service, "data", "hold", ADA, *HOLD)
    invoke(service, "data", "erase", ADA, "--yes")
    (row,) = printed(service, "find", ADA, "--json")
    assert row["held_until"] == "2099-01-01T00:00:00Z"
    assert parsed(row["erase_after"]) == parsed(row["erasure_requested_at"]) + 14 * A_DAY
    assert row["closed_at"] == row["erasure_requested_at"]


@any_database
def test_an_account_that_does_not_exist_or_is_not_named_is_reported_in_a_line(service: Service) -> None:
    for account in ("nobody@example.org", NOBODY, NOBODY.upper()):
        for command, *options in (("find",), *NEEDS_ONE):
            line = refused(service, command, account, *options)
            assert line == "Error: there is no account with this address or id; erased ones are not known any more"
        assert json.loads(invoke(service, "data", "find", account, "--json", status=1).stdout) == []
    invalid = ("nonsense", "", "ada@", "Ada Lovelace", "%", "\udcff@example.org", "\xe4d\xe4@example.org", "x" * 5000)
    for account in invalid:
        for command, *options in (("find",), ("audit",), *NEEDS_ONE):
            line = refused(service, command, account, *options)
            assert line == "Error: name the account by its email address or its id"


def test_an_address_that_several_accounts_had_is_refused_with_their_ids_which_name_one(
    service: Service, ada: Person
) -> None:
    old = str(account_id(service, ADA))
    assert close(service, ada.headers).status_code == 200
    service.deliver()
    service.register(name="Ada", email="Ada@Example.org")
    (new,) = [row["id"] for row in printed(service, "find", ADA, "--json") if row["closed_at"] is None]
    for command, *options in NEEDS_ONE:
        before = stored(service)
        done = invoke(service, "data", command, ADA, *options, status=1)
        assert stored(service) == before
        assert done.stdout == ""
        first, *ids = done.stderr.splitlines()
        assert "several accounts have or had this address; name one by its id" in first
        assert sorted(line.split() for line in ids) == sorted([[old, "closed"], [new, "open"]])
    assert {row["id"] for row in printed(service, "find", ADA, "--json")} == {old, new}
    assert "closed already" in refused(service, "close", old, "--yes")
    assert printed(service, "export", old)["stored"][0]["rows"][0]["id"] == old
    invoke(service, "data", "hold", old, *HOLD)
    invoke(service, "data", "release", old)
    invoke(service, "data", "erase", old, "--now", "--yes")
    assert service.sign_in().status_code == 201
    assert [row["id"] for row in printed(service, "find", ADA, "--json")] == [new]
    assert {entry["account_id"] for entry in printed(service, "audit", ADA, "--json")} == {new}


def test_the_copy_equals_the_persons_own_export(service: Service, ada: Person, tmp_path: Path) -> None:
    service.http.post("/v1/feedback", json={"message": "More tiles, please."}, headers=ada.headers)
    invoke(service, "data", "export", ADA, "--output", str(tmp_path / "ada.json"))
    copy = json.loads((tmp_path / "ada.json").read_text("utf-8"))
    own = service.http.get("/v1/account/export", headers=ada.headers).json
    for document in (copy, own):
        document.pop("exported_at")
    assert copy == own
    assert '"More tiles, please."' in json.dumps(copy)
    assert acts(service) == [("exported", {})]
    # Without a file it is printed, for a closed account too.
    invoke(service, "data", "close", ADA, "--yes")
    assert printed(service, "export", ADA)["stored"][0]["rows"][0]["email"] == ADA


# close, erase


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
    assert done.stderr == "Note: it is erased, and the receipt is mailed\n"
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


# hold, release


def test_a_hold_is_placed_recorded_and_seen_by_the_person_in_the_copy(service: Service, ada: Person) -> None:
    placed = printed(service, "hold", ADA, *HOLD, "--json")
    assert set(placed) == {"hold", "until"}
    assert placed["until"] == "2099-01-01T00:00:00Z"
    assert acts(service) == [("held", {"until": "2099-01-01", "basis": "Order 12 C 3/26"})]
    own = service.http.get("/v1/account/export", headers=ada.headers).json
    (holds,) = [table["rows"] for table in own["stored"] if table["table"] == "holds"]
    assert [(row["id"], row["basis"], row["until"]) for row in holds] == [
        (placed["hold"], "Order 12 C 3/26", "2099-01-01T00:00:00Z")
    ]
    assert service.deliver() == []


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


@any_database
def test_a_hold_needs_a_day_in_the_future_and_ends_when_it_begins_in_utc(
    service: Service, move_clock: MoveClock
) -> None:
    now = clock.now()
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
    move_clock(noon - now)
    for until in ("2020-01-01", "1970-01-01", "0001-01-01", day(noon)):
        assert "a day in the future" in refused(service, "hold", ADA, *ORDER, "--until", until)
    for until in ("", "31.12.2099", "2099-02-30", "tomorrow", "99999-01-01", "2099-1-3", "20990131", "2099-W05-1"):
        assert "write a day such as 2027-01-31" in refused(service, "hold", ADA, *ORDER, "--until", until, status=2)
    tomorrow = noon.replace(hour=0) + A_DAY
    assert printed(service, "hold", ADA, *ORDER, "--until", day(tomorrow), "--json")["until"] == rfc3339(tomorrow)


# disclose


def test_a_disclosure_writes_name_and_address_at_most_and_its_record_outlives_the_account(
    service: Service, ada: Person, move_clock: MoveClock, tmp_path: Path
) -> None:
    account = str(account_id(service, ADA))
    invoke(service, "data", "disclose", ADA, *DISCLOSE, "--output", str(tmp_path / "disclosed.json"))
    disclosed = json.loads((tmp_path / "disclosed.json").read_text("utf-8"))
    assert disclosed["data"] == {"name": ada.name, "email": ADA}
    assert disclosed.keys() == {"authority", "basis", "disclosed_at", "data"}
    own = service.http.get("/v1/account/export", headers=ada.headers).json
    (row,) = next(table["rows"] for table in own["stored"] if table["table"] == "disclosures")
    assert (row["authority"], row["basis"]) == ("Police of Springfield", "Order 12 C 3/26")
    details = {"authority": row["authority"], "basis": row["basis"], "fields": ["name", "email"]}
    assert acts(service) == [("disclosed", details)]
    assert service.deliver() == []

    invoke(service, "data", "erase", ADA, "--now", "--yes")
    (row,) = service.rows("disclosures")
    assert uuid.UUID(str(row["account_id"])) == uuid.UUID(account)
    assert "lovelace" not in json.dumps(row, default=str).lower()
    assert ADA not in json.dumps(row, default=str)
    kept_stores = printed(service, "audit", account, "--json")[0]["details"]["kept"]
    assert (kept_stores[0]["store"], kept_stores[0]["rows"]) == ("disclosures", 1)
    move_clock(KEEP_RECORDS + A_DAY)
    service.run(audit.tidy)
    assert service.rows("disclosures") == service.rows("audit") == []


@any_database
def test_a_document_that_cannot_be_written_is_not_recorded_as_disclosed(service: Service, tmp_path: Path) -> None:
    for output in (tmp_path / "missing" / "ada.json", tmp_path):
        line = refused(service, "disclose", ADA, *DISCLOSE, "--output", str(output), status=2)
        assert f"'{output}' cannot be written" in line
        refused(service, "export", ADA, "--output", str(output), status=2)
    # A full disk is noticed after the record: the message says that the disclosure is recorded.
    failed = invoke(service, "data", "export", ADA, "--output", "/dev/full", status=1)
    assert failed.stderr.startswith("Error: '/dev/full' cannot be written: ")
    failed = invoke(service, "data", "disclose", ADA, *DISCLOSE, "--output", "/dev/full", status=1)
    assert "the disclosure is recorded: read the data with `tiles data find`" in failed.stderr
    assert len(service.rows("disclosures")) == 1


@any_database
def test_a_text_that_names_the_person_says_nothing_or_breaks_a_terminal_is_refused(
    service: Service, tmp_path: Path
) -> None:
    file = ("--output", str(tmp_path / "disclosed.json"))
    naming = ["about Ada Lovelace", "ADA LOVELACE", f"re: {ADA}", "re: Ada@Example.Org", " ", "", "x" * 501]
    # A terminal would obey some of these characters, or turn the text around.
    for text in (*naming, "Order\n12", "Order \x1b[31m12", "Order \udcff 12", "Order \N{RIGHT-TO-LEFT OVERRIDE}12"):
        refused(service, "hold", ADA, "--basis", text, "--until", "2099-01-01")
        refused(service, "disclose", ADA, "--authority", "Police", "--basis", text, *file)
        refused(service, "disclose", ADA, "--authority", text, "--basis", "Order 12", *file)
    assert not (tmp_path / "disclosed.json").exists()
    invoke(service, "data", "hold", ADA, "--basis", "x" * 500, "--until", "2099-01-01")
    invoke(service, "data", "disclose", ADA, "--authority", "x" * 500, "--basis", "x" * 500)


# requests


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


# replay-erasures, verify-receipt


def test_replaying_reports_how_many_accounts_had_come_back(service: Service) -> None:
    quiet = invoke(service, "data", "replay-erasures", "--json")
    assert json.loads(quiet.stdout) == {"in_ledger": 0, "erased_again": 0}
    assert "names no erasure; is it the right one?" in quiet.stderr
    (row,) = service.rows("accounts")
    invoke(service, "data", "erase", ADA, "--now", "--yes")
    service.deliver()
    restored = {name: value for name, value in row.items() if name in {"name", "email", "password_hash"}}
    with service.app.app_context(), transaction() as session:
        session.add(Account(**restored, id=uuid.UUID(str(row["id"])), credentials_id=uuid.uuid4(), email_updates=True,
                            created_at=clock.now()))  # fmt: skip
    for again in (1, 0):
        done = invoke(service, "data", "replay-erasures", "--json")
        assert json.loads(done.stdout) == {"in_ledger": 1, "erased_again": again}
        assert done.stderr == ""
    assert service.rows("accounts") == []
    assert service.deliver() == []


@any_database
def test_a_receipt_is_read_from_a_file_or_from_standard_input_and_nothing_else_verifies(
    service: Service, tmp_path: Path
) -> None:
    def file(text: bytes) -> str:
        (tmp_path / "receipt").write_bytes(text)
        return str(tmp_path / "receipt")

    invoke(service, "data", "erase", ADA, "--now", "--yes")
    mail = the_mail(service.deliver(), ADA, ERASED)
    receipt = receipt_of(mail)
    verified = json.loads(invoke(service, "data", "verify-receipt", "-", "--json", typed=receipt).stdout)
    assert set(verified) == {"account", "requested_at", "erased_at", "removed", "kept"}
    wrapped = file(f"\ufeff{receipt[:72]}\r\n{receipt[72:]}".encode())
    assert printed(service, "verify-receipt", wrapped, "--json") == verified
    lines = invoke(service, "data", "verify-receipt", file(receipt.encode())).stdout.splitlines()
    assert any(line.endswith("accounts: 1") for line in lines)
    assert any("ledger: 1, for keeping a restored backup" in line for line in lines)
    for text in (receipt[:-2].encode(), b"", b"nonsense", b"\xff\xfe", mail.as_bytes()):
        line = refused(service, "verify-receipt", file(text))
        assert "no receipt of this service, or it was altered" in line
        assert "the receipt alone" in line


# audit


@pytest.mark.usefixtures("bob")
def test_every_act_is_audited_with_its_actor_the_newest_first(service: Service) -> None:
    account = str(account_id(service, ADA))
    for command, *options in (("find",), ("export",), ("hold", *HOLD), ("release",), ("disclose", *DISCLOSE)):
        invoke(service, "data", command, ADA, *options)
    invoke(service, "data", "erase", ADA, "--yes")
    invoke(service, "data", "find", BOB)
    done = ["erasure-requested", "closed", "disclosed", "released", "held", "exported", "found"]
    assert [entry["act"] for entry in printed(service, "audit", ADA, "--json")] == done
    assert [entry["act"] for entry in printed(service, "audit", "--json")] == ["found", *done]
    assert {entry["actor"] for entry in printed(service, "audit", "--json")} == {"data manager"}
    header, first, *_ = invoke(service, "data", "audit").stdout.splitlines()
    assert header.split() == ["at", "actor", "act", "account", "id", "details"]
    assert "data manager  found" in first

    # After erasure only the id finds the entries, and none names the person.
    invoke(service, "data", "erase", ADA, "--now", "--yes")
    no_entry = "There is no entry. Those of an erased account are found by its id only.\n"
    assert invoke(service, "data", "audit", ADA).stdout == no_entry
    text = invoke(service, "data", "audit", account, "--json").stdout
    assert json.loads(text)[0]["act"] == "erased"
    assert {entry["account_id"] for entry in json.loads(text)} == {account}
    details = json.loads(text)[0]["details"]
    removed, kept = (sum(store["rows"] for store in details[part]) for part in ("removed", "kept"))
    table = invoke(service, "data", "audit", account).stdout
    assert f", removed {removed} rows, kept {kept} rows\n" in table
    for output in (text, table, json.dumps(service.rows("audit"), default=str)):
        assert [mark for mark in ("lovelace", "ada@") if mark in output.lower()] == []


@any_database
def test_looking_at_the_audit_or_at_the_requests_is_no_act(service: Service) -> None:
    for command in (("audit",), ("audit", ADA), ("requests",), ("requests", "--overdue"), ("replay-erasures",)):
        invoke(service, "data", *command)
    assert service.rows("audit") == []
