"""Announcements by command: confirmed, tested on one address, listed, stopped; and their audit entries."""

import json
import os
import pty
import subprocess
import uuid
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from apps import KEY
from forking import TILES
from journeys import MoveClock, refusals
from peers import html_of, text_of
from server_process import environment
from support import Person, Service, any_database, invoke

from backend.accounts import audit
from backend.errors import Impossible
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.serving import worker

TEXT = "Hello,\n\nthere are new tiles.\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "news.txt").write_text(TEXT)
    return str(tmp_path / "news.txt")


def announce(service: Service, subject: str = "News", text: str = TEXT) -> uuid.UUID:
    with service.app.app_context():
        return announcements.announce(News(subject, text)).announcement


def queue_some(service: Service) -> int:
    return service.run(announcements.queue_some)


def stop(service: Service, announcement: uuid.UUID) -> int:
    return service.run(announcements.stop, announcement)


def acts(service: Service) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the audit's acts about no account, the oldest first, with their actors and details."""
    with service.app.app_context():
        entries = [entry for entry in audit.entries() if entry.account_id is None]
    return [(entry.act, entry.actor, entry.details) for entry in reversed(entries)]


# Confirming


def at_a_terminal(service: Service, file: str, subject: str, typed: str) -> str:
    """Announce at a terminal, and return its output."""
    settings = service.app.extensions["tiles.settings"]
    variables = environment(settings.instance_path, database_url=settings.database_url, secret_keys=KEY)
    ours, theirs = pty.openpty()
    with subprocess.Popen([TILES, "announce", file, "--subject", subject], env=variables, stdin=theirs, stdout=theirs,
                          stderr=theirs) as process:  # fmt: skip
        os.close(theirs)
        os.write(ours, typed.encode())
        output = b""
        with suppress(OSError):
            while part := os.read(ours, 1000):
                output += part
        os.close(ours)
        process.wait(30)
    return output.decode()


@any_database
def test_at_a_terminal_announcing_asks_first_with_the_number_of_people(
    service: Service, ada: Person, file: str
) -> None:
    for typed, number in (("\n", 0), ("y\n", 1)):
        assert "Email this to 1 person?" in at_a_terminal(service, file, "News", typed)
        assert len(service.rows("announcements")) == number
    # A repeated command is the same announcement, so it does not ask.
    assert "Email this" not in at_a_terminal(service, file, "News", "")
    assert ada.email not in str(acts(service))


@any_database
@pytest.mark.usefixtures("ada")
def test_announcing_from_a_script_does_not_ask(service: Service, file: str) -> None:
    assert invoke(service, "announce", file, "--subject", "News", typed="").stderr == ""
    assert len(service.rows("announcements")) == 1


# A test email


@any_database
def test_a_test_goes_to_one_address_as_people_would_get_it_and_leaves_nothing_behind(
    service: Service, ada: Person, file: str
) -> None:
    invoke(service, "announce", file, "--subject", "News", "--test", "grace@Example.org")
    (message,) = service.deliver()
    assert message["To"] == "grace@example.org"
    announce(service)
    service.run(announcements.queue_some)
    (real,) = service.deliver()
    assert real["To"] == ada.email

    def without_link(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if "/unsubscribe/" not in line)

    assert message["Subject"] == real["Subject"]
    for part in (text_of, html_of):
        assert without_link(part(message)) == without_link(part(real))
    assert message["List-Unsubscribe"]
    path = message["List-Unsubscribe"].strip("<>").partition("accounts.tiles.test")[2]
    assert service.http.post(path).status_code == 200
    assert service.account(ada.headers).json["email_updates"]
    service.run(announcements.forget_tests)
    assert [row["subject"] for row in service.rows("announcements")] == ["News"]
    assert [act for act, _, _ in acts(service)] == ["announced"]


def test_the_text_of_a_test_stays_until_its_email_has_left_and_is_on_no_list(service: Service, ada: Person) -> None:
    with service.app.app_context():
        announcements.send_test(News("News", TEXT), ada.email)
        announcements.forget_tests()
        assert announcements.queue_some() == 0
        assert announcements.listed().rows == []
    (row,) = service.rows("announcements")
    with service.app.app_context(), pytest.raises(Impossible, match="no such announcement"):
        announcements.stop(uuid.UUID(str(row["id"])))
    assert TEXT.strip() in text_of(service.mail())
    with service.app.app_context():
        for _ in worker.tidy():
            pass
    assert service.rows("announcements") == []


def test_a_test_does_not_wait_behind_an_announcement(service: Service, ada: Person) -> None:
    announce(service)
    assert queue_some(service) == 1
    service.run(announcements.send_test, News("Second", TEXT), ada.email)
    assert [message["Subject"] for message in service.deliver()] == ["Second", "News"]


def test_a_test_of_a_policy_version_or_of_something_wrong_is_as_the_announcement(
    service: Service, tmp_path: Path, file: str
) -> None:
    service.run(policy.publish, version="2026-01", effective_on=date(2099, 1, 1), text="We store two things.")
    invoke(service, "announce", "--policy", "2026-01", "--test", "grace@example.org")
    assert "1 January 2099" in service.mail()["Subject"]
    (tmp_path / "empty.txt").write_text(" ")
    for arguments, reason in (
        ((str(tmp_path / "empty.txt"), "--subject", "News"), "the text is empty"),
        (("--policy", "2026-02"), "is not published"),
    ):
        assert reason in invoke(service, "announce", *arguments, "--test", "grace@example.org", status=1).stderr
    wrong = invoke(service, "announce", file, "--subject", "News", "--test", "grace", status=1)
    assert "write an email address" in wrong.stderr
    assert service.rows("mails") == []


# Stopping


@any_database
def test_a_stopped_announcement_makes_no_email_and_sends_none_that_waits(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    announcement, second = announce(service), announce(service, "Second")
    assert queue_some(service) == 2
    declined = invoke(service, "announce", "--stop", str(announcement), typed="n\n", status=1)
    assert "“News”?" in declined.stderr
    stopped = invoke(service, "announce", "--stop", str(announcement), "--yes", "--json")
    assert json.loads(stopped.stdout) == {"announcement": str(announcement), "not_sent": 2}
    again = invoke(service, "announce", "--stop", str(announcement), "--yes", status=1)
    assert "was stopped already" in again.stderr
    with service.app.app_context():
        while worker.deliver():
            pass
    sent = [(message["To"], message["Subject"]) for message in service.mail_server.messages[-2:]]
    assert sorted(sent) == [(ada.email, "Second"), (bob.email, "Second")]
    assert service.rows("mails") == []
    # The same text again is the same announcement, and stays stopped.
    assert announce(service) == announcement
    assert queue_some(service) == 0
    assert "have left" in invoke(service, "announce", "--stop", str(second), "--yes", status=1).stderr
    assert "no such" in invoke(service, "announce", "--stop", str(uuid.uuid4()), "--yes", status=1).stderr


def test_an_announcement_that_is_stopped_while_a_batch_is_made_stays_stopped(service: Service, ada: Person) -> None:
    announcement = announce(service)
    with service.app.app_context():
        chosen = announcements._oldest_unfinished()  # noqa: SLF001 - the worker stands between its two steps
        announcements.stop(announcement)
        assert chosen
        assert announcements._queue_part(chosen) == 0  # noqa: SLF001
    assert [row["kind"] for row in service.rows("mails")] == []
    assert ada.email not in [message["To"] for message in service.deliver()]


@pytest.mark.usefixtures("ada")
def test_of_two_concurrent_stops_of_an_announcement_the_second_is_refused(service: Service) -> None:
    announcement = announce(service)

    assert refusals(lambda: stop(service, announcement)) == ["", "this announcement was stopped already"]
    assert [act for act, _, _ in acts(service)].count("announcement-stopped") == 1


# The list and the audit


def test_the_list_shows_the_state_of_each(service: Service, ada: Person, move_clock: MoveClock) -> None:
    assert invoke(service, "announce", "--list").stdout == "Nothing was announced.\n"
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=date(2099, 1, 1), text="We store two things.")
        announcements.announce(News(version="2026-01"))
    move_clock(timedelta(seconds=1))
    queue_some(service)
    stopped = announce(service, "Stopped")
    move_clock(timedelta(seconds=1))
    stop(service, stopped)
    announce(service, "Running")
    lines = invoke(service, "announce", "--list").stdout.splitlines()[1:]
    states = [(line.split()[3], line.split()[4:]) for line in lines]
    assert states == [
        ("running", ["Running"]), ("stopped", ["Stopped"]), ("finished", ["Policy", "version", "2026-01"])
    ]  # fmt: skip
    assert ada.email not in str(lines)
    printed = json.loads(invoke(service, "announce", "--list", "--json").stdout)
    assert printed[0].keys() == {"announcement", "begun", "queued", "state", "title"}


@any_database
def test_publishing_withdrawing_announcing_and_stopping_are_written_to_the_audit_once(
    service: Service, ada: Person
) -> None:
    with service.app.app_context():
        for _ in range(2):
            policy.publish(version="2026-01", effective_on=date(2099, 1, 1), text="We store two things.")
            begun = announcements.announce(News(version="2026-01"))
        announcements.stop(begun.announcement)
        policy.withdraw("2026-01")
    announcement = str(begun.announcement)
    assert acts(service) == [
        ("policy-published", "data manager", {"version": "2026-01", "effective_on": "2099-01-01"}),
        ("announced", "data manager", {"announcement": announcement, "recipients": 1}),
        ("announcement-stopped", "data manager", {"announcement": announcement, "queued": 0, "waited": 0}),
        ("policy-withdrawn", "data manager", {"version": "2026-01"}),
    ]
    assert ada.name not in str(acts(service))
