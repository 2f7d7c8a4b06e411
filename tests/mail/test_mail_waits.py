"""A slow mail server: each reply has a deadline, the claim is renewed meanwhile, and no other job waits."""

import os
import socket
import threading
import time
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from mailing import Make, MoveClock, ask, ask_many, mail_workers, recipients, tried
from peers import MailServer, wait_for
from raw_smtp import RawPeer, Reply, drip, hang_up, silence
from sqlalchemy.exc import OperationalError
from support import Person, Service, any_database, working

from backend.desk import operations
from backend.mail import delivery, messages, queue, smtp
from backend.mail.refusals import ServerUnavailable
from backend.serving import worker


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten minutes to fractions of a second."""
    for name, seconds in (("REPLY_SECONDS", 0.4), ("FINAL_REPLY_SECONDS", 0.8), ("WAIT_SECONDS", 0.05)):
        monkeypatch.setattr(smtp, name, seconds)


@any_database
@pytest.mark.parametrize(
    ("stage", "reply", "attempts"),
    [("greeting", silence, 0), ("ehlo", drip(), 0), ("mail", drip(b"250-x\r\n" * 2000, 0.01), 0),
     ("rcpt", drip(), 1), ("data", silence, 1), ("content", drip(), 1)],
)  # fmt: skip
def test_the_wait_for_an_incomplete_reply_ends_at_its_deadline(
    make_service: Make, stage: str, reply: Reply, attempts: int
) -> None:
    with RawPeer(**{stage: reply}) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        begun = time.monotonic()
        with nullcontext() if attempts else pytest.raises(ServerUnavailable, match="timeout"):
            service.deliver()
        assert (0.7 if stage == "content" else 0.3) < time.monotonic() - begun < 60
    (row,) = service.rows("mails")
    assert (row["attempts"], row["failure"]) == (attempts, "timeout" if attempts else None)


@any_database
@pytest.mark.parametrize(
    ("stage", "fate", "seconds"),
    [("content", hang_up, 600), ("content", silence, 600), ("data", hang_up, 15)],
    ids=["broken off", "silent", "never whole"],
)
def test_an_email_whose_fate_is_unknown_waits_ten_minutes(
    make_service: Make, move_clock: MoveClock, stage: str, fate: Reply, seconds: int
) -> None:
    with RawPeer(**{stage: fate}) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        assert tried(service) == 1
        peer.replies |= {"content": b"250 OK", "data": b"354 go on"}
        move_clock(timedelta(seconds=seconds - 5))
        assert tried(service) == 0
        move_clock(timedelta(seconds=6))
        assert tried(service) == 1
        assert peer.mails == (2 if stage == "content" else 1)
    assert service.rows("mails") == []


def test_a_claim_is_renewed_while_its_worker_waits_for_the_server(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "CLAIM", timedelta(seconds=0.7))
    monkeypatch.setattr(delivery, "CLAIM", timedelta(seconds=0.7))
    monkeypatch.setattr(delivery, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(smtp, "REPLY_SECONDS", 2.0)
    with RawPeer(rcpt=silence) as slow, MailServer() as quick:
        service, other = make_service(mail_port=slow.port), make_service(mail_port=quick.port)
        ask_many(service, 3)
        sending = threading.Thread(target=tried, args=(service,))
        sending.start()
        wait_for(lambda: any(line.startswith("rcpt") for line in slow.heard))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert tried(other) == 0
            time.sleep(0.1)
        sending.join()
        assert quick.messages == []


@pytest.mark.long
def test_an_email_that_a_killed_worker_may_have_sent_waits_and_delays_no_other(
    service: Service, tmp_path: Path, database_url: str, move_clock: MoveClock
) -> None:
    addresses = ask_many(service, 3)
    with RawPeer(content=silence) as peer, mail_workers(1, tmp_path, database_url, peer.port) as (doomed,):
        wait_for(lambda: peer.mails)
        (unsure,) = [line.split("<")[1].rstrip(">") for line in peer.heard if line.startswith("rcpt")]
        # After a second without a reply the worker notes that the email's fate is unknown.
        time.sleep(2)
        doomed.kill()
        doomed.wait(20)
    assert service.deliver() == []
    move_clock(timedelta(seconds=55))
    service.deliver()
    assert recipients(service.mail_server) == sorted(set(addresses) - {unsure})
    move_clock(timedelta(minutes=8))
    assert service.deliver() == []
    move_clock(timedelta(minutes=2))
    assert [message["To"] for message in service.deliver()] == [unsure]


@pytest.mark.long
@any_database
@pytest.mark.parametrize("stage", ["greeting", "content"])
def test_a_mail_server_that_hangs_delays_neither_erasing_nor_tidying(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    for module, name, value in (
        (worker, "TIDY_SECONDS", 0.1), (smtp, "REPLY_SECONDS", 90.0), (smtp, "FINAL_REPLY_SECONDS", 90.0),
        (delivery, "STOP_SECONDS", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    tidied: list[float] = []
    tidy = worker.queue.tidy
    monkeypatch.setattr(worker.queue, "tidy", lambda: [tidied.append(time.monotonic()), *tidy()])
    ada = make_service().register()
    with RawPeer(**{stage: drip(seconds=0.5)}) as peer:
        slow = make_service(mail_port=peer.port)
        with working(slow.app):
            ask(slow, "bob@example.org")
            wait_for(lambda: peer.connections)
            slow.run(operations.erase, ada.email, at_once=True)
            wait_for(lambda: not slow.rows("accounts"), seconds=30)
            since = len(tidied)
            wait_for(lambda: len(tidied) > since, seconds=30)


@any_database
def test_an_erasure_that_hangs_delays_no_email(service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def erase_due() -> int:
        hangs.set()
        goes_on.wait(30)
        return 0

    monkeypatch.setattr(worker.erasure, "erase_due", erase_due)
    with working(service.app):
        try:
            assert hangs.wait(10)
            before = len(service.mail_server.messages)
            service.http.post("/v1/password-resets", json={"email": ada.email})
            wait_for(lambda: len(service.mail_server.messages) > before, seconds=5)
        finally:
            goes_on.set()


@any_database
@pytest.mark.parametrize(("stage", "attempts"), [("greeting", 0), ("mail", 0), ("rcpt", 0), ("content", 1)])
def test_a_worker_stops_soon_although_the_mail_server_hangs(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, stage: str, attempts: int
) -> None:
    for name in ("REPLY_SECONDS", "FINAL_REPLY_SECONDS"):
        monkeypatch.setattr(smtp, name, 60.0)
    monkeypatch.setattr(delivery, "STOP_SECONDS", 0.3)
    with RawPeer(**{stage: silence}) as peer:
        service = make_service(mail_port=peer.port)
        with working(service.app):
            ask_many(service, 3)
            reached = {"greeting": lambda: peer.connections, "content": lambda: peer.mails}
            wait_for(reached.get(stage, lambda: any(line.startswith(stage) for line in peer.heard)))
            begun = time.monotonic()
        assert time.monotonic() - begun < smtp.REPLY_SECONDS / 2
    # Untried emails are free for other workers at once, and no attempt was counted.
    rows = service.rows("mails")
    assert sum(row["attempts"] for row in rows) == attempts
    assert {row["claim"] for row in rows} == {None}
    assert worker.STOP_SECONDS > 8


@any_database
def test_a_database_outage_during_a_slow_reply_blames_no_email(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OperationalError(None, None, Exception("away"))

    monkeypatch.setattr(queue, "renew", away)
    monkeypatch.setattr(smtp, "FINAL_REPLY_SECONDS", 5.0)

    def think(connection: socket.socket) -> None:
        time.sleep(0.3)
        connection.sendall(b"250 OK\r\n")

    with RawPeer(content=think) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        assert tried(service) == 1
    assert service.rows("mails") == []


@any_database
def test_the_worker_does_not_wait_for_a_reply_to_quit(make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "QUIT_SECONDS", 0.3)
    monkeypatch.setattr(smtp, "REPLY_SECONDS", 90.0)
    with RawPeer(quit=silence) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        begun = time.monotonic()
        assert tried(service) == 1
        assert time.monotonic() - begun < smtp.REPLY_SECONDS / 2
    assert service.rows("mails") == []


def test_a_worker_that_was_frozen_sends_nothing_that_another_may_have_claimed(
    make_service: Make, move_clock: MoveClock
) -> None:
    with RawPeer() as peer:
        service = make_service(mail_port=peer.port)
        ask_many(service, 3)

        def freeze(connection: socket.socket) -> None:
            peer.replies.pop("content")
            move_clock(queue.CLAIM + timedelta(seconds=5))
            with suppress(OSError):
                connection.sendall(b"250 OK\r\n")

        peer.replies["content"] = freeze
        assert tried(service) == 3
    # The worker released two emails, and claimed them again.
    assert peer.mails == 3
    assert service.rows("mails") == []


@any_database
def test_emails_are_rendered_at_low_priority(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[int] = []
    compose = messages.compose

    def watch(*parts: object) -> bytes:
        policies.append(os.sched_getscheduler(0))
        return compose(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(messages, "compose", watch)
    delivery.use_low_priority(service.app)
    ask_many(service, 2)
    assert len(service.deliver()) == 2
    assert policies == [os.SCHED_IDLE] * 2
    assert os.sched_getscheduler(0) != os.SCHED_IDLE
