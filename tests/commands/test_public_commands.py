"""`tiles policy publish` and `tiles feedback list|export`, for the person at the terminal and for a script."""

import hashlib
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from flask.cli import ScriptInfo
from journeys import MoveClock
from support import Person, Service, any_database

from backend import clock
from backend.commands.serve import tiles
from backend.mail import queue

TEXT = "We store a name & an email address.\n\nNothing else.\n"
TODAY = f"{clock.now():%Y-%m-%d}"
PUBLISH = ("--version", "2026-01", "--effective", TODAY, "--yes")


def run(service: Service, *arguments: str, typed: str | bytes | None = None, status: int = 0) -> Result:
    info = ScriptInfo(create_app=lambda: service.app)
    done = CliRunner().invoke(tiles, list(arguments), obj=info, input=typed)
    assert done.exit_code == status, (arguments, done.output, done.exception)
    return done


def send(service: Service, message: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    response = service.http.post("/v1/feedback", json={"message": message}, headers=headers)
    assert response.status_code == 201
    answer: dict[str, Any] = response.json
    return answer


# policy publish


def test_publishing_says_what_was_published_and_shows_it(service: Service, tmp_path: Path) -> None:
    (tmp_path / "policy.txt").write_text(TEXT, "utf-8")
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    for _ in range(2):
        lines = run(service, "policy", "publish", str(tmp_path / "policy.txt"), *PUBLISH).stdout.splitlines()
        assert [line.rpartition(" ")[2] for line in lines] == ["2026-01", TODAY, sha256]
    assert len(service.rows("policies")) == 1
    assert service.http.get("/v1/policy").json["sha256"] == sha256


@any_database
def test_the_same_text_is_the_same_version_whatever_the_editor_made_of_its_ends(service: Service) -> None:
    for text in (TEXT, f"\ufeff{TEXT}", TEXT.replace("\n", "\r\n")):
        told = run(service, "policy", "publish", "-", *PUBLISH, "--json", typed=text.encode())
        assert json.loads(told.stdout)["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()


@any_database
def test_what_cannot_be_published_is_refused_in_a_line(service: Service) -> None:
    cases = [
        (b"", PUBLISH, "the text is empty"),
        (b" \n", PUBLISH, "the text is empty"),
        (b"\xff\xfe", PUBLISH, "not text in UTF-8"),
        (b"a\0b", PUBLISH, "not plain text"),
        (TEXT.encode(), ("--version", "a b", *PUBLISH[2:]), "name the version"),
        (TEXT.encode(), ("--version", "", *PUBLISH[2:]), "name the version"),
        (TEXT.encode(), ("--version", "\udcff", *PUBLISH[2:]), "name the version"),
    ]
    for typed, options, reason in cases:
        refused = run(service, "policy", "publish", "-", *options, typed=typed, status=1)
        assert reason in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert service.rows("policies") == []


@any_database
def test_a_day_or_a_file_that_is_none_is_a_wrong_call(service: Service, tmp_path: Path) -> None:
    for day in ("1 January", "2026-02-30", "", "20260101"):
        wrong = ("policy", "publish", "-", "--version", "2026-01", "--effective", day)
        assert "write a day such as 2026-12-31" in run(service, *wrong, typed=TEXT, status=2).stderr
    missing = run(service, "policy", "publish", str(tmp_path / "missing"), *PUBLISH, status=2)
    assert "No such file or directory" in missing.stderr
    assert service.rows("policies") == []


# feedback list, feedback export


def test_feedback_is_listed_the_newest_first_and_names_nobody(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    first = send(service, "More tiles,\n\nplease.", ada.headers)
    move_clock(queue.FIRST_RETRY)
    second = send(service, "Fewer.")
    done = run(service, "feedback", "list", "--json")
    assert json.loads(done.stdout) == [
        {"id": second["id"], "received_at": _second(second), "signed_in": False, "message": "Fewer."},
        {"id": first["id"], "received_at": _second(first), "signed_in": True, "message": "More tiles,\n\nplease."},
    ]
    assert run(service, "feedback", "list").stdout.splitlines() == [
        f"{_second(second)}  anonymous  Fewer.",
        f"{_second(first)}  signed in  More tiles, please.",
    ]
    assert ada.email not in done.stdout


def _second(answer: dict[str, Any]) -> str:
    moment: str = answer["received_at"]
    return f"{moment.partition('.')[0]}Z"


@any_database
def test_a_message_takes_one_line_of_the_list_and_cannot_write_over_it(service: Service) -> None:
    send(service, "word " * 40 + "end")
    send(service, "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab\N{LINE SEPARATOR}and on\tand on")
    backwards, long = run(service, "feedback", "list").stdout.splitlines()
    assert long.endswith(" word word…")
    assert len(long.partition("anonymous  ")[2]) == 80
    assert backwards.endswith("anonymous  drawkcab and on and on")


@any_database
def test_the_export_holds_every_message_whole(service: Service, tmp_path: Path) -> None:
    messages = ["word " * 700 + "end", "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab", "Fewer."]
    for message in messages:
        send(service, message)
    file = tmp_path / "feedback.json"
    assert run(service, "feedback", "export", "--output", str(file)).output == ""
    written = json.loads(file.read_text("utf-8"))
    assert {entry["message"] for entry in written["feedback"]} == set(messages)
    assert written == json.loads(run(service, "feedback", "export").stdout)
    assert written["feedback"] == json.loads(run(service, "feedback", "list", "--json").stdout)


@any_database
def test_where_nobody_has_written_a_person_is_told_so_and_a_script_gets_an_empty_list(service: Service) -> None:
    empty = run(service, "feedback", "list")
    assert (empty.stdout, empty.stderr) == ("", "Nobody has written yet.\n")
    assert json.loads(run(service, "feedback", "list", "--json").stdout) == []
    assert json.loads(run(service, "feedback", "export").stdout) == {"feedback": []}
