"""`tiles policy`: publishing asks first, versions are shown verbatim, and an upcoming one can be withdrawn."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from journeys import MoveClock
from peers import text_of
from support import Person, Service, any_database, assert_problem, invoke

from backend import clock
from backend.errors import Impossible
from backend.mail.news import News
from backend.privacy import announcements

OLD, NEW = "We store a name & an email address.\n", "We store less.\n\nMuch less.\n"


def day(days: int) -> str:
    return f"{clock.now() + timedelta(days=days):%Y-%m-%d}"


def publish(service: Service, version: str, days: int, text: str | bytes, status: int = 0) -> Result:
    options = ("--version", version, "--effective", day(days), "--yes", "--json")
    return invoke(service, "policy", "publish", "-", *options, typed=text, status=status)


def listed(service: Service) -> dict[str, str]:
    """Return the state of each version, as a script reads it."""
    rows: list[dict[str, Any]] = json.loads(invoke(service, "policy", "list", "--json").stdout)
    return {row["version"]: row["state"] for row in rows}


@pytest.fixture
def upcoming(service: Service) -> None:
    """A version in force, and an upcoming one."""
    publish(service, "old", 0, OLD)
    publish(service, "new", 1, NEW)


# publish


def test_publishing_prints_the_version_its_day_and_its_hash_and_again_even_after_its_day(
    service: Service, move_clock: MoveClock, tmp_path: Path
) -> None:
    (tmp_path / "policy.txt").write_text(OLD, "utf-8")
    sha256 = hashlib.sha256(OLD.encode()).hexdigest()
    command = ("publish", str(tmp_path / "policy.txt"), "--version", "old", "--effective", day(0), "--yes")
    lines = invoke(service, "policy", *command).stdout.splitlines()
    assert [line.rpartition(" ")[2] for line in lines[:3]] == ["old", day(0), sha256]
    assert service.http.get("/v1/policy").json["sha256"] == sha256
    # The identical version needs no new confirmation, with any line breaks.
    for text in (OLD, f"\ufeff{OLD}", OLD.replace("\n", "\r\n")):
        assert json.loads(publish(service, "old", 0, text.encode()).stdout)["sha256"] == sha256
    before = service.rows("policies")
    move_clock(timedelta(days=400))
    publish(service, "old", -400, OLD)
    assert service.rows("policies") == before
    assert len(before) == 1


@any_database
def test_publishing_asks_first_and_publishes_nothing_without_a_yes(service: Service, tmp_path: Path) -> None:
    (tmp_path / "policy.txt").write_text(OLD)
    for typed, status in (("n\n", 1), ("\n", 1), ("", 1), ("y\n", 0)):
        command = ("publish", str(tmp_path / "policy.txt"), "--version", "old", "--effective", day(3))
        done = invoke(service, "policy", *command, typed=typed, status=status)
        assert f"Publish version old, in force from {day(3)}?" in done.stderr
        assert len(service.rows("policies")) == (status == 0)
        assert ("give --yes" in done.stderr) == (typed == "")


@any_database
def test_a_published_version_cannot_be_changed_and_an_invalid_one_is_refused_in_a_line(
    service: Service, tmp_path: Path
) -> None:
    publish(service, "old", 0, OLD)
    before = service.rows("policies")
    for version, days, text, reason in (
        ("old", 0, NEW, "choose a new name"),
        ("old", 1, OLD, "choose a new name"),
        ("a version", 1, NEW, "name the version"),
        ("v" * 41, 1, NEW, "name the version"),
        ("new", -1, NEW, "is over"),
        ("new", 1, OLD, "version old has this text already"),
        ("new", 9, f"\n \n{OLD}", "version old has this text already"),
        ("new", 1, b" \n", "the text is empty"),
        ("new", 1, b"\xff\xfe", "not text in UTF-8"),
        ("", 1, NEW, "name the version"),
        ("\udcff", 1, NEW, "name the version"),
    ):
        refused = publish(service, version, days, text, status=1)
        assert reason in refused.stderr
        assert refused.stderr.count("\n") == 1
    for date in ("2026-02-30", "", "20260101"):
        wrong = ("publish", "-", "--version", "new", "--effective", date)
        assert "write a day such as 2027-01-31" in invoke(service, "policy", *wrong, typed=NEW, status=2).stderr
    missing = ("publish", str(tmp_path / "missing"), "--version", "new", "--effective", day(1))
    assert "No such file or directory" in invoke(service, "policy", *missing, status=2).stderr
    assert service.rows("policies") == before


# withdraw


@pytest.mark.usefixtures("upcoming")
def test_a_withdrawn_version_never_comes_into_force_and_nobody_can_accept_it(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    accept = {"json": {"accepted_policy": "new"}, "headers": ada.headers}
    assert service.http.patch("/v1/account", **accept).status_code == 200
    declined = invoke(service, "policy", "withdraw", "new", typed="n\n", status=1)
    assert f"Withdraw version new, which would be in force from {day(1)}?" in declined.stderr
    assert listed(service) == {"old": "in force", "new": "upcoming"}
    invoke(service, "policy", "withdraw", "new", typed="y\n")
    assert listed(service) == {"old": "in force", "new": "withdrawn"}
    assert "Much less" not in service.http.get("/privacy").text
    assert NEW.rstrip() in invoke(service, "policy", "show", "new").stdout
    assert_problem(service.http.patch("/v1/account", **accept), 422, "invalid-request")
    # An account keeps the version that it accepted until it accepts another one.
    assert service.account(ada.headers).json["policy"] == {"accepted": "new", "current": "old"}
    accept["json"] = {"accepted_policy": "old"}
    assert service.http.patch("/v1/account", **accept).json["policy"]["accepted"] == "old"
    move_clock(timedelta(days=1))
    assert service.http.get("/v1/policy").json["version"] == "old"
    assert service.sign_in().json["account"]["policy"]["current"] == "old"
    for version, reason in (("old", "came into force"), ("none", "no version")):
        assert reason in invoke(service, "policy", "withdraw", version, "--yes", status=1).stderr


@pytest.mark.usefixtures("upcoming")
def test_a_withdrawn_name_stays_taken_and_its_text_and_day_are_free(service: Service) -> None:
    invoke(service, "policy", "withdraw", "new", "--yes")
    assert "withdrawn already" in invoke(service, "policy", "withdraw", "new", "--yes", status=1).stderr
    assert "choose a new name" in publish(service, "new", 1, NEW, status=1).stderr
    publish(service, "newer", 2, NEW)
    assert listed(service) == {"old": "in force", "new": "withdrawn", "newer": "upcoming"}


@pytest.mark.usefixtures("upcoming", "ada")
def test_mails_that_announce_it_are_not_sent_any_more(service: Service) -> None:
    service.register(name="Bob", email="bob@example.org")
    with service.app.app_context():
        announcements.announce(News(version="new"))
        assert announcements.queue_some() == 2
    invoke(service, "policy", "withdraw", "new", "--yes")
    assert service.deliver() == []
    assert service.rows("mails") == []
    with service.app.app_context():
        assert announcements.queue_some() == 0
        with pytest.raises(Impossible, match="is not published"):
            announcements.announce(News(version="new"))
        announcements.announce(News("News", "The new policy does not come."))
        announcements.queue_some()
    assert ["does not come" in text_of(message) for message in service.deliver()] == [True, True]


# list, show


@any_database
def test_versions_are_shown_with_their_texts_to_a_person_and_to_a_script(
    service: Service, move_clock: MoveClock
) -> None:
    assert invoke(service, "policy", "list").stdout == "No version was published.\n"
    assert json.loads(invoke(service, "policy", "list", "--json").stdout) == []
    for command in ("show", "withdraw"):
        assert invoke(service, "policy", command, "none", status=1).stderr.startswith("Error: there is no version")
    publish(service, "old", 0, OLD)
    publish(service, "new", 1, NEW)
    output = invoke(service, "policy", "show", "new").stdout
    assert output.endswith(f"\n\n{NEW}")
    assert f"effective on  {day(1)}" in output
    document = json.loads(invoke(service, "policy", "show", "new", "--json").stdout)
    assert (document["version"], document["effective_on"], document["text"]) == ("new", day(1), NEW)
    assert document.keys() - {"text"} == json.loads(invoke(service, "policy", "list", "--json").stdout)[1].keys()
    move_clock(timedelta(days=1))
    assert listed(service) == {"old": "replaced", "new": "in force"}
