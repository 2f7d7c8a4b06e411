"""Whose refusal it is: what speaks of the mailbox gives a mail up, what speaks of us waits and is shown."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from support import MailServer, Service, run_tiles
from test_check import probe
from test_mail_queue import ask, counts, status, through, tried

from backend.mail import queue

MoveClock = Callable[[timedelta], None]

MAILBOX = [
    ("refuse", "550 5.1.1 No such user"),
    ("refuse", "550 5.1.10 Domain takes no mail"),
    ("refuse", "553 5.1.3 Bad address"),
    ("refuse", "550-5.1.1 No such user\r\n550 5.1.1 really"),
    ("refuse", "550 5.2.1 Mailbox disabled"),
    ("refuse", "552 5.2.2 Mailbox full"),
    ("refuse_data", "550 5.1.1 No such user"),
]
OURS = [
    ("refuse", "550 5.7.1 Relaying denied"),
    ("refuse", "554 5.7.1 Relay access denied"),
    ("refuse", "550 5.1.8 Sender address rejected: domain not found"),
    ("refuse", "553 5.1.7 Bad sender address"),
    ("refuse", "550 5.4.5 Daily sending quota exceeded"),
    ("refuse", "550 5.2.3 Message too large"),
    ("refuse", "552 Too much mail data"),
    ("refuse", "554 Transaction failed"),
    ("refuse", "571 Delivery not authorized"),
    ("refuse", "550 relaying denied"),
    ("refuse_data", "550 looks like spam"),
    ("refuse_data", "554 5.6.0 Content rejected"),
    ("refuse_data", "552 5.3.4 Message too big"),
]


@pytest.mark.parametrize(("stage", "reply"), MAILBOX)
def test_what_speaks_of_the_mailbox_gives_a_mail_up_at_once(service: Service, stage: str, reply: str) -> None:
    setattr(service.mail_server, stage, reply)
    ask(service)
    assert service.deliver() == []
    assert status(service) == counts(abandoned=1)
    assert service.http.get("/readyz").status_code == 200


@pytest.mark.parametrize(("stage", "reply"), OURS)
def test_what_speaks_of_us_waits_and_is_shown(
    service: Service, tmp_path: Path, database_url: str, stage: str, reply: str
) -> None:
    setattr(service.mail_server, stage, reply)
    ask(service)
    assert service.deliver() == []
    assert status(service) == counts(retrying=1)
    assert probe(service, "queue") == {"mails-blocked": "error"}
    assert service.http.get("/readyz").status_code == 503
    shown = json.loads(run_tiles(tmp_path, "mail", "status", "--json", database_url=database_url).stdout)
    assert shown["refused"] == {f"smtp-{reply[:3]}": 1}


def test_what_waits_for_us_is_tried_with_growing_pauses_for_two_days(service: Service, move_clock: MoveClock) -> None:
    service.mail_server.refuse = "554 5.7.1 Relay access denied"
    ask(service)
    assert tried(service) == 1
    pauses = [15, 30, 60, 120, 240, 480, 960, 1920] + [3600] * 46
    for seconds in pauses:
        move_clock(timedelta(seconds=seconds - 5))
        assert tried(service) == 0
        move_clock(timedelta(seconds=5))
        with service.app.app_context():
            queue.tidy()
        assert tried(service) == 1
    move_clock(timedelta(hours=2))
    with service.app.app_context():
        queue.tidy()
    assert status(service) == counts(abandoned=1)
    # Nothing waits for the operator any more; what was given up is found by the check.
    assert service.http.get("/readyz").status_code == 200
    assert probe(service, "queue") == {"mails-given-up": "warning"}


class Picky(MailServer):
    """Refuses some recipients."""

    def __init__(self, reply: str, *refused: str) -> None:
        super().__init__()
        self.reply, self.refused = reply, refused

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.refuse = self.reply if address in self.refused else None
        return await super().handle_RCPT(server, session, envelope, address, options)


@pytest.mark.parametrize("reply", ["550 no such user", "553 mailbox name not allowed"])
def test_a_bare_refusal_of_one_recipient_among_others_gives_that_mail_up(service: Service, reply: str) -> None:
    with through(service, Picky(reply, "b@example.org")):
        for email in ("a@example.org", "b@example.org", "c@example.org"):
            ask(service, email)
        assert sorted(message["To"] for message in service.deliver()) == ["a@example.org", "c@example.org"]
    assert status(service) == counts(abandoned=1)
    assert service.http.get("/readyz").status_code == 200


def test_a_mail_that_is_refused_while_others_leave_is_shown_and_leaves_the_service_ready(
    service: Service, tmp_path: Path, database_url: str, move_clock: MoveClock
) -> None:
    with through(service, Picky("550 5.7.1 Blocked by policy", "b@example.org")) as peer:
        for email in ("a@example.org", "b@example.org"):
            ask(service, email)
        service.deliver()
        assert status(service) == counts(retrying=1)
        assert service.http.get("/readyz").status_code == 200
        assert probe(service, "queue") == {"mails-refused": "warning"}
        shown = run_tiles(tmp_path, "mail", "status", database_url=database_url).stdout
        assert "refused" in shown
        peer.refused = ()
        move_clock(timedelta(minutes=1))
        assert [message["To"] for message in service.deliver()] == ["b@example.org"]
    assert probe(service, "queue") == {}


def test_retrying_by_hand_tries_what_was_refused_at_once(service: Service) -> None:
    service.mail_server.refuse = "554 5.7.1 Relay access denied"
    ask(service)
    service.deliver()
    service.mail_server.refuse = None
    with service.app.app_context():
        assert queue.retry() == 1
    assert service.http.get("/readyz").status_code == 200
    assert service.mail()["To"] == "ada@example.org"
