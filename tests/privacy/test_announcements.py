"""Announcements: to everybody who wants emails, once each, queued batch by batch."""

import hashlib
import json
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from email.message import EmailMessage
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from journeys import MakeService, MoveClock, at_once, close, turning_away
from sqlalchemy import event, insert
from support import TILES, Person, Service, any_database, environment, html_of, invoke, text_of, wait_for

from backend import clock
from backend.database import engine as db
from backend.database.models import Account
from backend.desk import operations
from backend.errors import Impossible
from backend.mail import queue
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.privacy.announcements import Progress
from backend.serving import worker

NEWS = "Hello,\n\nthere are new tiles.\n"
BATCH = 8


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "BATCH", BATCH)


class Interrupted(Exception):
    """Ends the process at this point."""


def announce(service: Service, subject: str = "News", text: str = NEWS) -> Progress:
    return service.run(announcements.announce, News(subject, text))


def progress(service: Service, begun: Progress) -> Progress:
    return service.run(announcements.progress, begun.announcement)


def queue_some(service: Service) -> int:
    return service.run(announcements.queue_some)


def queue_all(service: Service) -> list[int]:
    """Queue every email, and return how many each batch had."""
    batches = []
    while batch := queue_some(service):
        batches.append(batch)
    return batches


def work_off(service: Service) -> list[EmailMessage]:
    """Let the worker queue and send until nothing is left to do; return the emails that arrived."""
    before = len(service.mail_server.messages)
    with service.app.app_context():
        while worker.deliver():
            pass
    return service.mail_server.messages[before:]


def recipients(messages: list[EmailMessage]) -> list[str]:
    return sorted(message["To"] for message in messages)


def add_recipients(service: Service, number: int) -> list[str]:
    """Insert accounts that want emails; return the addresses."""
    rows = [
        {"id": uuid.uuid4(), "name": None, "email": f"person{index:04}@example.org", "password_hash": "none",
         "credentials_id": uuid.uuid4(), "email_updates": True, "created_at": clock.now()}
        for index in range(number)
    ]  # fmt: skip
    with service.app.app_context(), db.transaction() as session:
        session.execute(insert(Account), rows)
    return [row["email"] for row in rows]


def queued(service: Service) -> list[uuid.UUID]:
    """Return the account of each queued email of an announcement."""
    return [uuid.UUID(str(row["account_id"])) for row in service.rows("mails") if row["kind"] == "announcement"]


def switch(service: Service, person: Person, *, email_updates: bool) -> None:
    response = service.http.patch("/v1/account", json={"email_updates": email_updates}, headers=person.headers)
    assert response.status_code == 200


# Recipients


def test_an_announcement_goes_to_everybody_who_wants_emails_and_to_nobody_else(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    switch(service, bob, email_updates=False)
    service.register(name="Cy", email="cy@example.org")
    service.ask_to_register(email="dee@example.org")
    service.run(operations.close, "cy@example.org")
    service.deliver()
    assert announce(service).recipients == 1
    (message,) = work_off(service)
    assert (message["To"], message["Subject"]) == (ada.email, "News")
    assert text_of(message).startswith("Hello,\n\nthere are new tiles.\n\n")
    assert "there are new tiles." in html_of(message)
    switch(service, bob, email_updates=True)
    announce(service, "Second")
    assert recipients(work_off(service)) == [ada.email, bob.email]


def test_a_person_who_unsubscribes_or_closes_while_the_email_is_queued_gets_none(service: Service, ada: Person) -> None:
    bob, cy, dee = (service.register(name=name, email=f"{name}@example.org") for name in ("bob", "cy", "dee"))
    announce(service)
    assert queue_some(service) == 4
    switch(service, bob, email_updates=False)
    with service.app.app_context():
        operations.close(cy.email)
        operations.erase(dee.email, at_once=True)
        assert worker.erasure.erase_due() == 1
    news = [message for message in work_off(service) if message["Subject"] == "News"]
    assert recipients(news) == [ada.email]
    assert service.rows("mails") == []


def test_an_announcement_without_recipients_finishes_at_once(service: Service) -> None:
    begun = announce(service)
    assert (begun.queued, begun.recipients, begun.finished) == (0, 0, False)
    assert work_off(service) == []
    assert progress(service, begun) == Progress(begun.announcement, 0, 0, finished=True)


# Batches


def test_emails_are_queued_batch_by_batch_and_counted(service: Service) -> None:
    total = 2 * BATCH + 7
    add_recipients(service, total)
    begun = announce(service)
    assert begun == Progress(begun.announcement, 0, total, finished=False)
    first = queue_some(service)
    assert progress(service, begun) == Progress(begun.announcement, first, total, finished=False)
    # Batches follow the accounts' random ids, so each has about the same size.
    assert len(batches := [first, *queue_all(service)]) == 2
    assert sum(batches) == total == len(queued(service))
    assert progress(service, begun) == Progress(begun.announcement, total, total, finished=True)
    assert set(Counter(queued(service)).values()) == {1}


def test_one_round_of_sending_sends_every_announcement_the_oldest_first(service: Service) -> None:
    add_recipients(service, BATCH + 1)
    first, second = announce(service, "First"), announce(service, "Second")
    queue_some(service)
    assert (progress(service, first).queued, progress(service, second).queued) == (BATCH + 1, 0)
    subjects = [message["Subject"] for message in work_off(service)]
    assert subjects == ["First"] * (BATCH + 1) + ["Second"] * (BATCH + 1)


@pytest.mark.long
@pytest.mark.parametrize("refused", [False, True], ids=["emails", "put off by the mail server"])
def test_a_reset_does_not_wait_behind_an_announcement(
    service: Service, move_clock: MoveClock, *, refused: bool
) -> None:
    people = add_recipients(service, 3 * queue.BATCH)
    announce(service)
    if refused:
        service.mail_server.refuse = "451 4.7.1 too many mails, try again later"
        work_off(service)
        service.mail_server.refuse = None
        move_clock(queue.FIRST_RETRY * 2)
    else:
        queue_all(service)
    service.http.post("/v1/password-resets", json={"email": people[0]})
    emails = service.deliver()[: queue.BATCH + 1]
    assert [message["To"] for message in emails if "password" in message["Subject"]] == [people[0]]
    work_off(service)
    assert len(service.mail_server.messages) == len(people) + 1


@any_database
def test_while_the_mail_server_is_away_no_more_emails_are_queued(service: Service, make_service: MakeService) -> None:
    add_recipients(service, 2 * BATCH)
    announce(service)
    batch_size = queue_some(service)
    away = make_service(mail_server="127.0.0.1", mail_port=1)
    with away.app.app_context():
        for _ in range(3):
            with pytest.raises(worker.ServerUnavailable):
                worker.deliver()
    assert len(queued(service)) == batch_size < 2 * BATCH
    assert len(work_off(service)) == 2 * BATCH


@any_database
def test_an_unreachable_mailbox_delays_no_other(service: Service) -> None:
    people = add_recipients(service, BATCH + 5)
    begun = announce(service)
    with turning_away(service.mail_server, people[3]):
        assert len(work_off(service)) == BATCH + 4
    assert progress(service, begun).finished
    assert len(queued(service)) == 1


def test_no_more_emails_are_queued_while_many_wait_for_a_retry(
    service: Service, move_clock: MoveClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "MOST_PUT_OFF", 2 * BATCH)
    everybody = add_recipients(service, 6 * BATCH)
    announce(service)
    service.mail_server.refuse = "451 4.3.0 Try again later"
    assert work_off(service) == []
    assert 2 * BATCH <= len(queued(service)) < 4 * BATCH
    service.mail_server.refuse = None
    move_clock(timedelta(minutes=1))
    assert recipients(work_off(service)) == everybody


# Interruptions


@contextmanager
def interrupted(service: Service, after: int) -> Iterator[None]:
    """Simulate the end of the process before a statement: neither it nor any later one reaches the database."""
    statements: list[str] = []

    def end(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)
        if len(statements) > after:
            raise Interrupted

    with service.app.app_context():
        engine = db.db.engine
    event.listen(engine, "before_cursor_execute", end)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", end)


def test_an_interruption_at_any_point_skips_nobody_and_repeats_nobody(service: Service) -> None:
    total = BATCH + 3
    add_recipients(service, total)
    for number in count():
        begun = announce(service, f"News {number}")
        before, is_complete = len(queued(service)), False
        try:
            with interrupted(service, number):
                queue_all(service)
                is_complete = True
        except Interrupted:
            queue_all(service)
        assert len(queued(service)) == before + total
        assert progress(service, begun) == Progress(begun.announcement, total, total, finished=True)
        if is_complete:
            break
    assert number >= 5
    assert set(Counter(queued(service)).values()) == {number + 1}


@any_database
def test_a_killed_worker_leaves_the_rest_to_the_next(service: Service, tmp_path: Path, database_url: str) -> None:
    people = add_recipients(service, 150)
    begun = announce(service)
    settings = {"mail_server": service.mail_server.host, "mail_port": service.mail_server.port}
    with subprocess.Popen(
        [TILES, "mail", "work"], env=environment(tmp_path, database_url=database_url, **settings)
    ) as process:
        wait_for(lambda: progress(service, begun).queued)
        process.send_signal(signal.SIGKILL)
    queue_all(service)
    assert progress(service, begun).queued == 150
    reached = {message["To"] for message in service.mail_server.messages}
    emails = {uuid.UUID(str(row["id"])): row["email"] for row in service.rows("accounts")}
    assert reached | {emails[account] for account in queued(service)} == set(people)


@pytest.mark.long
def test_several_concurrent_workers_email_everybody_once(service: Service, make_service: MakeService) -> None:
    people = add_recipients(service, 3 * BATCH + 1)
    begun = announce(service)

    def work(own: Service) -> Callable[[], None]:
        def until_finished() -> None:
            while not progress(service, begun).finished:
                own.run(worker.deliver)

        return until_finished

    at_once(*(work(make_service()) for _ in range(4)))
    work_off(service)
    assert recipients(service.mail_server.messages) == people
    assert progress(service, begun).queued == len(people)


def test_of_several_concurrent_workers_one_queues_a_batch(service: Service) -> None:
    add_recipients(service, BATCH)
    begun = announce(service)
    assert max(at_once(*[lambda: queue_some(service)] * 8)) == BATCH
    queue_all(service)
    assert progress(service, begun).queued == len(queued(service)) == BATCH


# Repetitions


def test_announcing_the_same_text_again_sends_nothing(service: Service, ada: Person) -> None:
    begun, *others = at_once(*[lambda: announce(service, " News ")] * 8)
    assert {other.announcement for other in others} == {begun.announcement}
    assert recipients(work_off(service)) == [ada.email]
    assert announce(service) == Progress(begun.announcement, 1, 1, finished=True)
    assert work_off(service) == []
    for subject, text in (("Other news", NEWS), ("News", NEWS + "More.\n")):
        assert announce(service, subject, text).announcement != begun.announcement
        assert len(work_off(service)) == 1


@pytest.fixture
def quiet(service: Service) -> Person:
    """A person who switched emails about TILES off."""
    bob = service.register(email="bob@example.org")
    assert service.http.patch("/v1/account", json={"email_updates": False}, headers=bob.headers).status_code == 200
    return bob


def test_a_material_change_reaches_everybody_with_an_account_and_says_so(
    service: Service, ada: Person, quiet: Person
) -> None:
    carl = service.register(email="carl@example.org")
    close(service, carl.headers)
    service.deliver()
    with service.app.app_context():
        for version, month in (("2026-01", 1), ("2027-01", 2)):
            policy.publish(version=version, effective_on=date(2099, month, 1), text=f"Text of {version}")
        summary = "We keep one thing less.\n\nNothing else changes."
        begun = announcements.announce(News(version="2027-01", text=summary, material=True))
    assert begun.recipients == 2
    messages = work_off(service)
    assert sorted(message["To"] for message in messages) == [ada.email, quiet.email]
    for message in messages:
        assert message["Subject"] == "The TILES privacy policy changes on 1 February 2099"
        assert message["List-Unsubscribe"] is None
        for part in (text_of(message), html_of(message)):
            assert "We keep one thing less." in part
            assert "Nothing else changes." in part
            assert "to everybody with a TILES" in part
            assert "unsubscribe" not in part
            assert "SHA-256" not in part
            assert hashlib.sha256(b"Text of 2027-01").hexdigest() not in part
    with service.app.app_context():
        again = announcements.announce(News(version="2027-01", text=summary, material=True))
        assert again.announcement == begun.announcement
        others: list[dict[str, Any]] = [{"text": summary}, {"text": "Other.", "material": True}, {}]
        for changes in others:
            with pytest.raises(Impossible, match="announced already"):
                announcements.announce(News(version="2027-01", **changes))
    assert work_off(service) == []


def test_another_change_leaves_those_alone_who_switched_emails_off(
    service: Service, ada: Person, quiet: Person
) -> None:
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=date(2099, 1, 1), text="We store two things.")
        announcements.announce(News(version="2026-01", text="A comma moved."))
    (message,) = work_off(service)
    assert message["To"] == ada.email != quiet.email
    assert "A comma moved." in text_of(message)
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


# The command


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
