"""`tiles data`: finding, copying, holding and disclosing an account, and the audit of these acts."""

import json
import uuid
from pathlib import Path

import pytest
from data_commands import A_DAY, ADA, BOB, HOLD, ORDER, acts, day, parsed, printed, refused, rfc3339, stored
from journeys import ERASED, MoveClock, account_id, close, receipt_of, the_mail, tidy
from support import NOBODY, Person, Service, any_database, invoke

from backend import clock
from backend.database.models import KEEP_RECORDS

DISCLOSE = (*ORDER, "--authority", "Police of Springfield")
NEEDS_ONE = [("export",), ("close", "--yes"), ("erase", "--yes"), ("erase", "--now", "--yes"), ("hold", *HOLD),
             ("release",), ("disclose", *DISCLOSE)]  # fmt: skip

pytestmark = pytest.mark.usefixtures("ada")


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
    tidy(service)
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


def test_every_act_is_audited_with_its_actor_the_newest_first(service: Service) -> None:
    service.register(name="Bob", email=BOB)
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
