"""Refusals: one about the mailbox abandons the email; one about the service makes it wait for the operator."""

import json
import logging
from collections import Counter
from datetime import timedelta

import pytest
from checking import probe
from mailing import LATER, Make, MoveClock, Scripted, ask, ask_many, at, counts, recipients, retry, through, tried
from peers import wait_for
from support import Service, any_database, assert_problem, invoke, working

from backend.database import engine
from backend.mail import delivery, messages, queue

MAILBOX = [
    ("RCPT", "550 5.1.1 No such user"),
    ("RCPT", "550 5.1.10 Domain takes no mail"),
    ("RCPT", "553 5.1.3 Bad address"),
    ("RCPT", "550-5.1.1 No such user\r\n550 5.1.1 really"),
    ("RCPT", "550 5.2.1 Mailbox disabled"),
    ("RCPT", "552 5.2.2 Mailbox full"),
    ("DATA", "550 5.1.1 No such user"),
]
OURS = [
    ("RCPT", "550 5.7.1 Relaying denied"),
    ("RCPT", "550 5.1.8 Sender address rejected: domain not found"),
    ("RCPT", "553 5.1.7 Bad sender address"),
    ("RCPT", "550 5.4.5 Daily sending quota exceeded"),
    ("RCPT", "550 5.2.3 Message too large"),
    ("RCPT", "552 Too much mail data"),
    ("RCPT", "554 Transaction failed"),
    ("RCPT", "571 Delivery not authorized"),
    ("RCPT", "550 relaying denied"),
    ("DATA", "550 looks like spam"),
    ("DATA", "554 5.6.0 Content rejected"),
    ("DATA", "552 5.3.4 Message too big"),
]
RELAY = "554 5.7.1 Relay access denied"


def refuse_each(service: Service, replies: list[tuple[str, str]]) -> None:
    """Send an email for each reply; the mail server refuses each with its reply."""
    script = dict(zip(zip([stage for stage, _ in replies], ask_many(service, len(replies)), strict=True),
                      [reply for _, reply in replies], strict=True))  # fmt: skip
    with through(service, Scripted(lambda stage, address: script.get((stage, address)))):
        assert service.deliver() == []


def test_a_refusal_about_the_mailbox_abandons_an_email_at_once(service: Service) -> None:
    refuse_each(service, MAILBOX)
    assert counts(service) == {"abandoned": len(MAILBOX)}
    assert service.http.get("/readyz").status_code == 200


def test_an_email_that_is_too_large_for_the_server_stops_no_other(service: Service) -> None:
    too_large = "552 5.3.4 Message size exceeds fixed limit"
    ask_many(service, 3)
    sizes = iter([too_large, None, None])
    with through(service, Scripted(lambda stage, _: next(sizes, None) if stage == "MAIL" else None)) as peer:
        service.deliver()
        assert len(peer.messages) == 2
    assert counts(service) == {"retrying": 1}


def test_a_refusal_about_us_waits_for_the_operator(service: Service) -> None:
    refuse_each(service, OURS)
    assert counts(service) == {"retrying": len(OURS)}
    assert service.run(queue.blocked) == Counter(f"smtp-{reply[:3]}" for _, reply in OURS)
    assert service.http.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("stage", "reply"),
    [("MAIL", "553 5.7.1 Sender address rejected"), ("RCPT", RELAY), ("DATA", "554 5.7.1 Message looks like spam")],
)
def test_a_failure_of_every_email_makes_the_service_unready_until_one_is_sent(
    service: Service, stage: str, reply: str
) -> None:
    with through(service, Scripted(at(stage, reply))) as peer:
        assert service.http.get("/readyz").status_code == 200
        with working(service.app):
            ask(service)
            wait_for(lambda: service.http.get("/readyz").status_code == 503)
        assert_problem(service.http.get("/readyz"), 503, "overloaded")
        assert probe(service, "queue") == {"mails-blocked": "error"}
        assert isinstance(peer, Scripted)
        peer.script = at("nowhere", "")
        # A server that refuses the sender counts as unavailable, so no email is at fault.
        assert retry(service) == (0 if stage == "MAIL" else 1)
        service.deliver()
        assert len(peer.messages) == 1
    assert service.http.get("/readyz").status_code == 200
    assert probe(service, "queue") == {}


def test_a_long_queue_that_leaves_makes_the_service_ready_after_its_first_batch(service: Service) -> None:
    statuses = []

    def note(stage: str, _address: str) -> None:
        if stage == "MAIL":
            statuses.append(service.http.get("/readyz").status_code)

    with through(service, Scripted(at("RCPT", RELAY))) as peer:
        ask(service)
        service.deliver()
        assert isinstance(peer, Scripted)
        peer.script = note
        ask_many(service, queue.BATCH + 1)
        service.deliver()
    assert statuses == [503] * queue.BATCH + [200]


@pytest.mark.parametrize("reply", ["550 no such user", "553 mailbox name not allowed"])
def test_a_bare_refusal_of_one_recipient_among_others_abandons_that_email(service: Service, reply: str) -> None:
    with through(service, Scripted(at("RCPT", reply, "person1@example.org"))) as peer:
        ask_many(service, 3)
        service.deliver()
    assert recipients(peer) == ["person0@example.org", "person2@example.org"]
    assert counts(service) == {"abandoned": 1}
    assert service.http.get("/readyz").status_code == 200


def test_an_email_refused_while_others_are_sent_is_shown_and_keeps_the_service_ready(
    service: Service, move_clock: MoveClock
) -> None:
    with through(service, Scripted(at("RCPT", "550 5.7.1 Blocked by policy", "person1@example.org"))) as peer:
        ask_many(service, 2)
        service.deliver()
        assert counts(service) == {"retrying": 1}
        assert service.http.get("/readyz").status_code == 200
        assert probe(service, "queue") == {"mails-refused": "warning"}
        status = json.loads(invoke(service, "mail", "status", "--json").stdout)
        assert status["refused"] == {"smtp-550": 1}
        assert isinstance(peer, Scripted)
        peer.script = at("nowhere", "")
        move_clock(timedelta(minutes=1))
        assert [message["To"] for message in service.deliver()] == ["person1@example.org"]
    assert probe(service, "queue") == {}


@any_database
def test_a_failure_of_all_emails_is_logged_once_a_minute(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.mail_server.refuse = RELAY
    ask_many(service, 10)
    with working(service.app):
        wait_for(lambda: [row["attempts"] for row in service.rows("mails")] == [1] * 10)
        assert caplog.text.count("emails do not leave (smtp-554)") == 1
        monkeypatch.setattr(delivery, "LOG_AGAIN_SECONDS", 0.0)
        wait_for(lambda: caplog.text.count("emails do not leave (smtp-554)") > 1)
    assert "person" not in caplog.text


@any_database
def test_an_email_that_cannot_be_made_makes_the_service_unready_and_is_logged_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(messages, "compose", lambda *_: 1 / 0)
    ask_many(service, 5)
    assert service.deliver() == []
    assert service.http.get("/readyz").status_code == 503
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    assert counts(service) == {"retrying": 5}


# Rows that cannot be read

BROKEN = ["kind = 'of_a_later_release'", "kind = ''", "email = NULL", "email = 'no address'"]
BROKEN_ON_SQLITE = ["created_at = 'nonsense'", "created_at = 17", "about = x'00ff'", "email = x'00ff'",
                    "attempts = 'many', email = 'no address'", "id = 'nonsense'"]  # fmt: skip
BROKEN_ON_POSTGRESQL = ["created_at = '+infinity'"]


def queue_damaged(service: Service, *changes: str) -> None:
    """Queue an email for each change, and change its row."""
    for address, change in zip(ask_many(service, len(changes)), changes, strict=True):
        with service.app.app_context(), engine.transaction() as session:
            session.execute(engine.text(f"UPDATE mails SET {change} WHERE email = '{address}'"))


@pytest.mark.parametrize("limits", ["off", ""])
def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_are_sent(
    make_service: Make, database_url: str, limits: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(rate_limits=limits)
    special = BROKEN_ON_SQLITE if database_url.startswith("sqlite") else BROKEN_ON_POSTGRESQL
    queue_damaged(service, *BROKEN, *special)
    ask(service, "bob@example.org")
    assert [message["To"] for message in service.deliver()] == ["bob@example.org"]
    assert tried(service) == 0
    assert service.run(queue.failures, given_up=True) == {"unreadable": len(BROKEN + special)}
    assert service.http.get("/readyz").status_code == 200
    assert probe(service, "queue") == {"mails-given-up": "warning"}
    assert "example.org" not in caplog.text
    assert "later_release" not in caplog.text


@any_database
def test_an_invalid_due_date_delays_no_email(service: Service) -> None:
    queue_damaged(service, "due_at = 'nonsense'")
    assert len(service.deliver()) == 1


def test_an_email_of_a_later_release_is_shown_and_sent_once_that_release_is_installed(service: Service) -> None:
    queue_damaged(service, "kind = 'of_a_later_release'")
    service.deliver()
    status = json.loads(invoke(service, "mail", "status", "--json").stdout)
    assert status["unreadable"] == 1
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("UPDATE mails SET kind = 'registration'"))
    assert retry(service) == 1
    assert service.mail()["To"] == "person0@example.org"


@any_database
@pytest.mark.parametrize(
    ("stage", "reply", "findings"),
    [
        ("nowhere", "", {}),
        ("MAIL", "553 5.7.1 Sender address rejected: not owned by user", {"mail-server": "error"}),
        ("RCPT", "553 5.7.1 Sender address rejected: not owned by user", {"mail-server": "error"}),
        # A server that greylists asks unknown clients to try again.
        ("RCPT", LATER, {}),
    ],
)
def test_the_check_finds_why_every_email_would_be_refused_and_sends_none(
    make_service: Make, stage: str, reply: str, findings: dict[str, str]
) -> None:
    commands: list[tuple[str, str]] = []

    def script(at_stage: str, address: str) -> str | None:
        commands.append((at_stage, address))
        return reply if at_stage == stage else None

    with Scripted(script) as peer:
        service = make_service(mail_port=peer.port, data_manager_email="privacy@example.org")
        assert probe(service, "mail-server") == findings
    expected = [("MAIL", "tiles@accounts.tiles.test"), ("RCPT", "privacy@example.org")]
    assert commands[1:] == (expected[:1] if stage == "MAIL" else expected)
    assert peer.messages == []


@any_database
def test_the_check_finds_that_no_email_can_be_made(make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "compose", lambda *_: 1 / 0)
    assert probe(make_service(), "mail-server") == {"mail-server": "error"}
