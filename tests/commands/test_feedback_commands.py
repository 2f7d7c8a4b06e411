"""`tiles feedback list|export`, for the person at the terminal and for a script."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from journeys import MoveClock
from support import Person, Service, any_database, invoke


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
def test_the_export_holds_every_message_whole(service: Service, tmp_path: Path) -> None:
    messages = ["word " * 700 + "end", "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab", "Fewer."]
    for message in messages:
        send(service, message)
    file = tmp_path / "feedback.json"
    assert invoke(service, "feedback", "export", "--output", str(file)).output == ""
    written = json.loads(file.read_text("utf-8"))
    assert {entry["message"] for entry in written["feedback"]} == set(messages)
    assert written == json.loads(invoke(service, "feedback", "export").stdout)
    assert written["feedback"] == json.loads(invoke(service, "feedback", "list", "--json").stdout)


@any_database
def test_without_feedback_a_person_is_told_so_and_a_script_gets_an_empty_list(service: Service) -> None:
    empty = invoke(service, "feedback", "list")
    assert (empty.stdout, empty.stderr) == ("", "Nobody has written yet.\n")
    assert json.loads(invoke(service, "feedback", "list", "--json").stdout) == []
    assert json.loads(invoke(service, "feedback", "export").stdout) == {"feedback": []}
