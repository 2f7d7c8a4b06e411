"""A slow mail server: each reply has a deadline, a claim is kept meanwhile, and nothing else waits for it."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from raw_smtp import RawPeer, Reply, drip, hang_up, silence
from sqlalchemy.exc import OperationalError
from support import MailServer, Person, Service, any_database, wait_for, working
from test_mail_queue import ask, ask_many, counts, mail_workers, status, tried

from backend.desk import operations
from backend.mail import delivery, queue, smtp
from backend.mail.transport import ServerUnavailable
from backend.serving import worker

Make = Callable[..., Service]
MoveClock = Callable[[timedelta], None]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what takes minutes take parts of a second."""
    for name, seconds in (("REPLY_SECONDS", 0.6), ("FINAL_REPLY_SECONDS", 1.2), ("WAIT_SECONDS", 0.05)):
        monkeypatch.setattr(smtp, name, seconds)


def test_the_deadlines_are_those_of_the_standard() -> None:
    # RFC 5321 section 4.5.3.2; nothing is changed yet where this module was loaded.
    source = Path(smtp.__file__).read_text("utf-8")
    assert "\nREPLY_SECONDS = 300.0\nFINAL_REPLY_SECONDS = 600.0\n" in source
    assert timedelta(minutes=10) == queue.UNKNOWN_FATE


@any_database
@pytest.mark.parametrize("reply", [drip(), silence, drip(b"250-x\r\n" * 2000, 0.01)], ids=["drip", "silent", "endless"])
@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail"])
def test_a_reply_that_is_not_whole_at_its_deadline_is_waited_for_no_longer(
    make_service: Make, stage: str, reply: Reply
) -> None:
    with RawPeer(**{stage: reply}) as peer:
        service = make_service(mail_port=peer.port)
        ask_many(service, 3)
        begun = time.monotonic()
        with pytest.raises(ServerUnavailable, match="timeout"):
            service.deliver()
        assert 0.5 < time.monotonic() - begun < 3
    assert status(service) == counts(waiting=3)


@any_database
@pytest.mark.parametrize("reply", [drip(), silence], ids=["drip", "silent"])
@pytest.mark.parametrize("stage", ["rcpt", "data", "content"])
def test_a_mail_that_the_server_drips_over_is_put_off_at_the_deadline(
    make_service: Make, stage: str, reply: Reply
) -> None:
    with RawPeer(**{stage: reply}) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        begun = time.monotonic()
        assert tried(service) == 1
        assert (1.1 if stage == "content" else 0.5) < time.monotonic() - begun < 4
    assert [(row["attempts"], row["failure"]) for row in service.rows("mails")] == [(1, "timeout")]


@any_database
@pytest.mark.parametrize("fate", [hang_up, silence], ids=["broken off", "silent"])
def test_a_mail_whose_fate_is_unknown_waits_ten_minutes(make_service: Make, move_clock: MoveClock, fate: Reply) -> None:
    with RawPeer(content=fate) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        assert tried(service) == 1
        peer.replies.pop("content")
        move_clock(timedelta(minutes=9, seconds=55))
        assert tried(service) == 0
        move_clock(timedelta(seconds=6))
        assert tried(service) == 1
        assert peer.mails == 2
    assert service.rows("mails") == []


@any_database
def test_a_mail_that_the_server_never_had_whole_waits_seconds(make_service: Make, move_clock: MoveClock) -> None:
    with RawPeer(data=hang_up) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        assert tried(service) == 1
        peer.replies["data"] = b"354 go on"
        move_clock(timedelta(seconds=16))
        assert tried(service) == 1
    assert service.rows("mails") == []


def test_a_claim_is_renewed_while_the_server_makes_its_worker_wait(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "CLAIM", timedelta(seconds=1))
    monkeypatch.setattr(delivery, "CLAIM", timedelta(seconds=1))
    monkeypatch.setattr(delivery, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(smtp, "REPLY_SECONDS", 3.0)
    with RawPeer(rcpt=silence) as slow, MailServer() as quick:
        service, other = make_service(mail_port=slow.port), make_service(mail_port=quick.port)
        ask_many(service, 3)
        sending = threading.Thread(target=tried, args=(service,))
        sending.start()
        wait_for(lambda: any(line.startswith("rcpt") for line in slow.heard))
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert tried(other) == 0
            time.sleep(0.1)
        sending.join()
        assert quick.messages == []


def test_a_mail_that_a_killed_worker_may_have_sent_waits_and_the_others_leave_within_a_minute(
    service: Service, tmp_path: Path, database_url: str, move_clock: MoveClock
) -> None:
    addresses = ask_many(service, 3)
    with RawPeer(content=silence) as peer, mail_workers(1, tmp_path, database_url, peer) as (doomed,):  # type: ignore[arg-type]
        wait_for(lambda: peer.mails)
        (unsure,) = [line.split("<")[1].rstrip(">") for line in peer.heard if line.startswith("rcpt")]
        # After a second without an answer the worker notes that the mail's fate is unknown.
        time.sleep(2.5)
        doomed.end(signal.SIGKILL)
    assert service.deliver() == []
    move_clock(timedelta(seconds=55))
    assert sorted(message["To"] for message in service.deliver()) == sorted(set(addresses) - {unsure})
    move_clock(timedelta(minutes=8))
    assert service.deliver() == []
    move_clock(timedelta(minutes=2))
    assert [message["To"] for message in service.deliver()] == [unsure]


@pytest.mark.parametrize("stage", ["greeting", "content"])
def test_a_mail_server_that_hangs_delays_neither_erasing_nor_tidying(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(worker, "TIDY_SECONDS", 0.1)
    monkeypatch.setattr(worker, "SELDOM_PAUSES", 0)
    monkeypatch.setattr(smtp, "REPLY_SECONDS", 90.0)
    monkeypatch.setattr(smtp, "FINAL_REPLY_SECONDS", 90.0)
    tidied: list[float] = []
    tidy = worker.mail.tidy
    monkeypatch.setattr(worker.mail, "tidy", lambda: (tidied.append(time.monotonic()), tidy()))
    service = make_service()
    ada = service.register()
    with RawPeer(**{stage: drip(seconds=0.5)}) as peer:
        slow = make_service(mail_port=peer.port)
        with working(slow.app):
            ask(slow, "bob@example.org")
            wait_for(lambda: peer.connections)
            with slow.app.app_context():
                operations.erase(ada.email, at_once=True)
            wait_for(lambda: not slow.rows("accounts"), seconds=30)
            since = len(tidied)
            wait_for(lambda: len(tidied) > since, seconds=30)
            monkeypatch.setattr(delivery, "STOP_SECONDS", 0.1)


@any_database
def test_an_erasure_that_hangs_delays_no_mail(service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_worker_that_is_told_to_stop_ends_soon_though_the_mail_server_hangs(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, stage: str, attempts: int
) -> None:
    for name in ("REPLY_SECONDS", "FINAL_REPLY_SECONDS"):
        monkeypatch.setattr(smtp, name, 60.0)
    monkeypatch.setattr(delivery, "STOP_SECONDS", 0.5)
    with RawPeer(**{stage: silence}) as peer:
        service = make_service(mail_port=peer.port)
        with working(service.app):
            ask_many(service, 3)
            wait_for(lambda: peer.connections and (stage == "greeting" or len(peer.heard) > 1))
            time.sleep(0.3)
            begun = time.monotonic()
        assert time.monotonic() - begun < 4
    # What was not tried is free for others at once, and nothing was counted against it.
    rows = service.rows("mails")
    assert sum(row["attempts"] for row in rows) == attempts
    assert {row["claim"] for row in rows} == {None}
    assert worker.STOP_SECONDS > 8


def test_stopping_by_a_signal_ends_within_what_a_service_manager_grants(
    service: Service, tmp_path: Path, database_url: str
) -> None:
    ask_many(service, 3)
    with RawPeer(content=silence) as peer, mail_workers(1, tmp_path, database_url, peer) as (started,):  # type: ignore[arg-type]
        wait_for(lambda: peer.mails)
        begun = time.monotonic()
        assert started.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 15


@any_database
def test_a_database_that_is_away_while_the_mail_server_thinks_blames_no_mail(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OperationalError(None, None, Exception("away"))

    monkeypatch.setattr(delivery, "renew", away)
    monkeypatch.setattr(smtp, "FINAL_REPLY_SECONDS", 5.0)

    def think(connection: socket.socket) -> None:
        time.sleep(0.5)
        connection.sendall(b"250 OK\r\n")

    with RawPeer(content=think) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        assert tried(service) == 1
    assert service.rows("mails") == []


def test_a_server_that_never_says_goodbye_is_not_waited_for(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "QUIT_SECONDS", 0.3)
    monkeypatch.setattr(smtp, "REPLY_SECONDS", 90.0)
    with RawPeer(quit=silence) as peer:
        service = make_service(mail_port=peer.port)
        ask(service)
        begun = time.monotonic()
        assert tried(service) == 1
        assert time.monotonic() - begun < 3
    assert service.rows("mails") == []


def test_a_worker_that_was_frozen_sends_nothing_that_another_may_have_taken(
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
    # It let go of two, and took them again.
    assert peer.mails == 3
    assert service.rows("mails") == []
