"""`tiles policy`: what is public is asked for first, shown as it stands, and withdrawn until it is in force."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import ScriptInfo
from journeys import MoveClock, at_once
from support import Person, Service, any_database, assert_problem, text_of

from backend import clock
from backend.commands.serve import tiles
from backend.errors import Impossible
from backend.privacy import announcements, policy

OLD, NEW = "We store a name.\n", "We store less.\n\nMuch less.\n"


def day(days: int) -> str:
    return f"{clock.now() + timedelta(days=days):%Y-%m-%d}"


def run(service: Service, *arguments: str, typed: str = "", status: int = 0) -> Result:
    info = ScriptInfo(create_app=lambda: service.app)
    done = CliRunner().invoke(tiles, ["policy", *arguments], obj=info, input=typed)
    assert done.exit_code == status, (arguments, done.output, done.exception)
    return done


def publish(service: Service, version: str, days: int, text: str) -> None:
    options = ("--version", version, "--effective", day(days), "--yes")
    run(service, "publish", "-", *options, typed=text)


def listed(service: Service) -> dict[str, str]:
    """Return how each version stands, as a script reads it."""
    found: list[dict[str, Any]] = json.loads(run(service, "list", "--json").stdout)
    return {entry["version"]: entry["state"] for entry in found}


@pytest.fixture
def upcoming(service: Service) -> None:
    """A version in force, and one that is not yet."""
    publish(service, "old", 0, OLD)
    publish(service, "new", 1, NEW)


# publish


@any_database
@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("\n", 1), ("", 1), ("y\n", 0)])
def test_publishing_asks_first_and_publishes_nothing_without_a_yes(
    service: Service, tmp_path: Path, answer: str, status: int
) -> None:
    (tmp_path / "policy.txt").write_text(OLD)
    command = ("publish", str(tmp_path / "policy.txt"), "--version", "old", "--effective", day(3))
    done = run(service, *command, typed=answer, status=status)
    assert f"Publish version old, in force from {day(3)}?" in done.stderr
    assert len(service.rows("policies")) == (status == 0)
    assert ("give --yes" in done.stderr) == (answer == "")


@any_database
def test_a_day_that_is_over_and_a_text_that_is_published_are_refused_before_anything_is_asked(
    service: Service,
) -> None:
    publish(service, "old", 0, OLD)
    for options, text, reason in (
        (("--version", "new", "--effective", day(-1)), NEW, "is over"),
        (("--version", "new", "--effective", day(1)), OLD, "version old has this text already"),
    ):
        refused = run(service, "publish", "-", *options, typed=text, status=1)
        assert reason in refused.stderr
        assert "Publish" not in refused.stderr
    assert listed(service) == {"old": "in force"}


@any_database
def test_the_identical_version_is_not_asked_for_again(service: Service) -> None:
    publish(service, "old", 0, OLD)
    run(service, "publish", "-", "--version", "old", "--effective", day(0), typed=OLD)
    assert len(service.rows("policies")) == 1


def test_of_one_text_under_two_names_at_once_one_is_published(service: Service) -> None:
    def act(version: str) -> bool:
        with service.app.app_context():
            try:
                policy.publish(version=version, effective_on=clock.now().date(), text=OLD)
            except Impossible:
                return False
            return True

    assert sorted(at_once(lambda: act("one"), lambda: act("two"))) == [False, True]
    assert len(service.rows("policies")) == 1


# withdraw


@pytest.mark.usefixtures("upcoming")
def test_what_is_withdrawn_is_never_in_force_and_nobody_can_accept_it(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    asked = run(service, "withdraw", "new", typed="n\n", status=1)
    assert f"Withdraw version new, which would be in force from {day(1)}?" in asked.stderr
    assert listed(service) == {"old": "in force", "new": "upcoming"}
    run(service, "withdraw", "new", typed="y\n")
    assert listed(service) == {"old": "in force", "new": "withdrawn"}
    assert "Much less" not in service.http.get("/privacy").text
    body = {"accepted_policy": "new"}
    refused = service.http.patch("/v1/account", json=body, headers=ada.headers)
    assert_problem(refused, 422, "invalid-request")
    move_clock(timedelta(days=1))
    assert service.http.get("/v1/policy").json["version"] == "old"
    assert service.sign_in().json["account"]["policy"]["current"] == "old"


@pytest.mark.usefixtures("upcoming")
def test_what_is_or_was_in_force_is_not_withdrawn(service: Service, move_clock: MoveClock) -> None:
    move_clock(timedelta(days=1))
    for version, reason in (("new", "came into force"), ("old", "came into force"), ("none", "no version")):
        assert reason in run(service, "withdraw", version, "--yes", status=1).stderr
    assert listed(service) == {"old": "replaced", "new": "in force"}


@pytest.mark.usefixtures("upcoming")
def test_a_withdrawn_name_stays_taken_and_its_text_and_day_are_free(service: Service) -> None:
    run(service, "withdraw", "new", "--yes")
    assert "withdrawn already" in run(service, "withdraw", "new", "--yes", status=1).stderr
    again = ("publish", "-", "--version", "new", "--effective", day(1), "--yes")
    assert "choose a new name" in run(service, *again, typed=NEW, status=1).stderr
    publish(service, "newer", 2, NEW)
    assert listed(service) == {"old": "in force", "new": "withdrawn", "newer": "upcoming"}


@pytest.mark.usefixtures("upcoming")
def test_a_person_who_accepted_it_shows_so_until_another_is_accepted(service: Service, ada: Person) -> None:
    accept = {"json": {"accepted_policy": "new"}, "headers": ada.headers}
    assert service.http.patch("/v1/account", **accept).status_code == 200
    run(service, "withdraw", "new", "--yes")
    assert service.account(ada.headers).json["policy"] == {"accepted": "new", "current": "old"}
    assert NEW.rstrip() in run(service, "show", "new").stdout
    accept["json"] = {"accepted_policy": "old"}
    assert service.http.patch("/v1/account", **accept).json["policy"]["accepted"] == "old"


@pytest.mark.usefixtures("upcoming", "ada")
def test_mails_that_announce_it_are_not_sent_any_more(service: Service) -> None:
    service.register(name="Bob", email="bob@example.org")
    with service.app.app_context():
        announcements.announce_policy("new")
        assert announcements.queue_some() == 2
    run(service, "withdraw", "new", "--yes")
    assert service.deliver() == []
    assert service.rows("mails") == []
    with service.app.app_context():
        assert announcements.queue_some() == 0
        with pytest.raises(Impossible, match="tiles policy list"):
            announcements.announce_policy("new")
        announcements.announce(subject="News", text="The new policy does not come.")
        announcements.queue_some()
    assert ["does not come" in text_of(message) for message in service.deliver()] == [True, True]


# list, show


@any_database
def test_before_the_first_version_there_is_nothing_to_show(service: Service) -> None:
    assert run(service, "list").stdout == "No version was published.\n"
    assert json.loads(run(service, "list", "--json").stdout) == []
    for command in ("show", "withdraw"):
        assert run(service, command, "none", status=1).stderr.startswith("Error: there is no version")


@any_database
@pytest.mark.usefixtures("upcoming")
def test_a_version_is_shown_with_its_text_to_a_person_and_to_a_script(service: Service) -> None:
    shown = run(service, "show", "new").stdout
    assert shown.endswith(f"\n\n{NEW}")
    assert f"effective on  {day(1)}" in shown
    found = json.loads(run(service, "show", "new", "--json").stdout)
    assert (found["version"], found["effective_on"], found["text"]) == ("new", day(1), NEW)
    assert found.keys() - {"text"} == json.loads(run(service, "list", "--json").stdout)[1].keys()
