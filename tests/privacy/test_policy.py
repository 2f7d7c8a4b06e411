"""The privacy policy: published in versions, in force from a day, the same everywhere it is shown."""

import hashlib
import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from support import Person, Service, assert_problem, run_tiles

from backend import clock
from backend.errors import Impossible
from backend.privacy import policy

TEXT = "We store a name & an email address.\n\nNothing else.\n"


def publish(service: Service, version: str, effective_on: date, text: str = TEXT) -> policy.Published:
    with service.app.app_context():
        return policy.publish(version=version, effective_on=effective_on, text=text)


def test_before_the_first_version_there_is_none(service: Service) -> None:
    assert_problem(service.http.get("/v1/policy"), 404, "not-found")
    assert "policy in force" not in service.http.get("/privacy").text


def test_the_version_in_force_is_named_and_shown(service: Service) -> None:
    today = clock.now().date()
    publish(service, "2026-01", today)
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    assert service.http.get("/v1/policy").json == {
        "version": "2026-01",
        "effective_on": str(today),
        "sha256": sha256,
        "url": "https://accounts.tiles.test/privacy",
    }
    page = service.http.get("/privacy").text
    assert sha256 in page
    assert "<p>We store a name &amp; an email address.</p>" in page


def test_a_version_is_in_force_from_its_day(
    service: Service, ada: Person, move_clock: Callable[[timedelta], None]
) -> None:
    today = clock.now().date()
    publish(service, "old", today)
    publish(service, "new", today + timedelta(days=1), "We store even less.")
    assert service.http.get("/v1/policy").json["version"] == "old"
    move_clock(timedelta(days=1))
    assert service.http.get("/v1/policy").json["version"] == "new"
    assert service.account(ada.headers).json["policy"]["current"] == "new"


def test_a_version_that_is_announced_can_be_read_before_its_day(service: Service) -> None:
    today = clock.now().date()
    publish(service, "old", today)
    publish(service, "new", today + timedelta(days=1), "We store even less.")
    page = service.http.get("/privacy").text
    assert page.index("<p>Nothing else.</p>") < page.index("<p>We store even less.</p>")
    assert "Version old, in force" in page
    assert "Version new takes the place" in page


def test_publishing_the_same_again_changes_nothing_also_when_its_day_is_over(
    service: Service, move_clock: Callable[[timedelta], None]
) -> None:
    day = clock.now().date()
    first = publish(service, "2026-01", day)
    before = service.rows("policies")
    move_clock(timedelta(days=400))
    assert publish(service, "2026-01", day) == first
    assert service.rows("policies") == before


@pytest.mark.parametrize(
    ("version", "days", "text", "reason"),
    [
        ("2026-01", 0, "Another text.", "choose a new name"),
        ("2026-01", 1, TEXT, "choose a new name"),
        ("", 0, "New.", "name the version"),
        ("a version", 0, "New.", "name the version"),
        ("v" * 41, 0, "New.", "name the version"),
        ("2026-02", 0, " \n", "the text is empty"),
        ("2026-02", -1, "New.", "is over"),
        ("2026-02", 0, TEXT, "version 2026-01 has this text already"),
        ("2026-02", 9, TEXT.replace("\n\n", "\n \n\n") + "\n", "version 2026-01 has this text already"),
    ],
    ids=[
        "another text",
        "another day",
        "no name",
        "a space",
        "too long",
        "no text",
        "yesterday",
        "same text",
        "same text spaced",
    ],
)
def test_what_was_published_cannot_be_changed_nor_nonsense_be_published(
    service: Service, version: str, days: int, text: str, reason: str
) -> None:
    today = clock.now().date()
    publish(service, "2026-01", today)
    before = service.rows("policies")
    with pytest.raises(Impossible, match=reason):
        publish(service, version, today + timedelta(days=days), text)
    assert service.rows("policies") == before


def test_the_data_manager_publishes_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "policy.txt"
    file.write_text(TEXT, "utf-8")
    run_tiles(tmp_path / "instance", "db", "upgrade")
    today = clock.now().date()
    command = ("policy", "publish", str(file), "--version", "2026-01", "--effective", str(today), "--yes")
    published = run_tiles(tmp_path / "instance", *command, "--json")
    assert json.loads(published.stdout) == {
        "version": "2026-01",
        "effective_on": str(today),
        "sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
    }
    file.write_text("Another text.", "utf-8")
    refused = run_tiles(tmp_path / "instance", *command)
    assert refused.returncode == 1
    assert "choose a new name" in refused.stderr
