"""`tiles announce` prints its progress and refuses what cannot be announced."""

import json
import signal
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from announcing import NEWS, add_recipients, work_off
from click.testing import Result
from forking import TILES
from peers import text_of, wait_for
from server_process import environment
from support import Person, Service, any_database, invoke

from backend.privacy import policy


def test_the_command_wants_a_summary_of_a_material_change(service: Service, tmp_path: Path) -> None:
    service.run(policy.publish, version="2026-01", effective_on=date(2099, 1, 1), text="We store two things.")
    material = ("--policy", "2026-01", "--material")
    assert "write a summary" in run(service, *material, status=1).stderr
    assert "write a summary" in run(service, *material, "--summary", text_file(tmp_path, " "), status=1).stderr
    for options in (("--material",), ("--summary", text_file(tmp_path))):
        assert "give FILE" in run(service, text_file(tmp_path), "--subject", "News", *options, status=2).stderr
    assert service.rows("announcements") == []
    run(service, *material, "--summary", text_file(tmp_path, "Less."), status=0)
    (row,) = service.rows("announcements")
    assert (bool(row["to_everybody"]), row["text"]) == (True, "Less.")


def run(service: Service, *arguments: str, status: int = 0) -> Result:
    return invoke(service, "announce", "--yes", *arguments, status=status)


def text_file(folder: Path, text: str | bytes = NEWS) -> str:
    file = folder / "news.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


@any_database
def test_the_command_shows_the_progress_and_ignores_a_byte_order_mark(
    service: Service, ada: Person, tmp_path: Path
) -> None:
    command = (text_file(tmp_path), "--subject", "News", "--json")
    begun = json.loads(run(service, *command).stdout)
    assert begun == {"announcement": begun["announcement"], "queued": 0, "recipients": 1, "finished": False}
    for text in (f"\ufeff{NEWS}", NEWS.replace("\n", "\r\n")):
        text_file(tmp_path, text)
        assert json.loads(run(service, *command).stdout) == begun
    (message,) = work_off(service)
    assert message["To"] == ada.email
    assert text_of(message).startswith("Hello,")
    assert json.loads(run(service, *command).stdout) == begun | {"queued": 1, "finished": True}
    assert [line.split() for line in run(service, *command[:-1]).stdout.splitlines()][1:] == [
        ["queued", "1"],
        ["recipients", "1"],
        ["finished", "yes"],
    ]


@any_database
def test_an_invalid_announcement_is_refused_in_a_line(service: Service, tmp_path: Path) -> None:
    cases = [
        ("News", "", "the text is empty"),
        ("News", " \n\n", "the text is empty"),
        ("News", b"\xff\xfe", "not text in UTF-8"),
        ("News", "a\0b", "not plain text"),
        ("News", "a\x1b[31mb", "not plain text"),
        ("", NEWS, "a subject of one line"),
        ("News\nBcc: eve@example.org", NEWS, "a subject of one line"),
        ("x" * 501, NEWS, "a subject of one line"),
        ("News \udcff", NEWS, "a subject of one line"),
    ]
    for subject, text, reason in cases:
        refused = run(service, text_file(tmp_path, text), "--subject", subject, status=1)
        assert reason in refused.stderr
        assert refused.stderr.count("\n") == 1
    for version in ("2099-01", "", "a b", "\udcff"):
        assert "is not published" in run(service, "--policy", version, status=1).stderr
    file = text_file(tmp_path)
    for words in ((), (file,), ("--subject", "News"), (file, "--policy", "1"), ("--subject", "News", "--policy", "1"),
                  (file, "--subject", "News", "--policy", "1")):  # fmt: skip
        assert "give FILE and --subject, or --policy alone" in run(service, *words, status=2).stderr
    assert service.rows("announcements") == []


@pytest.fixture
def following(service: Service, tmp_path: Path, database_url: str) -> Iterator[subprocess.Popen[str]]:
    """The command that announces to 20 people and shows the progress until it is finished."""
    add_recipients(service, 20)
    command = [TILES, "announce", text_file(tmp_path), "--subject", "News", "--follow", "--json", "--yes"]
    with subprocess.Popen(
        command, env=environment(tmp_path, database_url=database_url), stdout=-1, stderr=-1, text=True
    ) as process:
        wait_for(lambda: service.rows("announcements"))
        yield process
        process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    return json.loads(stdout), stderr


@any_database
def test_following_shows_the_progress_until_it_is_finished(
    service: Service, following: "subprocess.Popen[str]"
) -> None:
    assert following.poll() is None
    assert len(work_off(service)) == 20
    output, stderr = ended(following)
    del output["announcement"]
    assert output == {"queued": 20, "recipients": 20, "finished": True}
    # Only a terminal gets a progress bar.
    assert stderr == ""


@any_database
def test_ctrl_c_stops_the_progress_display_and_not_the_announcement(
    service: Service, following: "subprocess.Popen[str]"
) -> None:
    # Wait until the command sleeps between two checks; before that it is still starting.
    states: list[str] = []

    def sleeps() -> bool:
        states.append(Path(f"/proc/{following.pid}/stat").read_text().rpartition(")")[2].split()[0])
        return states[-5:] == ["S"] * 5

    wait_for(sleeps)
    following.send_signal(signal.SIGINT)
    output, stderr = ended(following)
    assert output["finished"] is False
    assert stderr == "The service goes on with it.\n"
    assert len(work_off(service)) == 20
