"""Announcements: to everybody who wants emails, once each, queued batch by batch."""

import hashlib
import json
from collections import Counter
from datetime import date, timedelta
from typing import Any

import pytest
from announcing import (
    BATCH,
    NEWS,
    add_recipients,
    announce,
    progress,
    queue_all,
    queue_some,
    queued,
    recipients,
    switch,
    work_off,
)
from journeys import MakeService, MoveClock, at_once, close, turning_away
from peers import html_of, text_of
from support import Person, Service, any_database, invoke

from backend.desk import operations
from backend.errors import Impossible
from backend.mail import queue
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.privacy.announcements import Progress
from backend.serving import worker

pytestmark = pytest.mark.usefixtures("small_batches")


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


def test_sending_by_command_counts_each_email_of_an_announcement_once(service: Service, ada: Person) -> None:
    announce(service)
    done = invoke(service, "mail", "deliver", "--json")
    assert json.loads(done.stdout) == {"tried": 1}
    assert recipients(service.mail_server.messages)[-1:] == [ada.email]


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
