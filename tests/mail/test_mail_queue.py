"""The mail queue: an accepted email is delivered, or abandoned where the operator sees it."""

import json
import random
import socket
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from journeys import account_id
from mailing import (
    HANG_UP,
    LATER,
    NEVER,
    Make,
    MoveClock,
    Scripted,
    ask,
    ask_many,
    at,
    counts,
    mail_workers,
    recipients,
    retry,
    through,
    tidy,
    tried,
)
from peers import free_port, token_of, wait_for
from raw_smtp import RawPeer, silence
from support import Person, Service, any_database, invoke, working

from backend import clock
from backend.mail import delivery, queue
from backend.mail.refusals import ServerUnavailable
from backend.privacy import ledger
from backend.serving import worker


@pytest.mark.parametrize("stage", ["refuse", "refuse_data"])
def test_an_email_that_is_refused_for_now_is_delivered_later(
    service: Service, move_clock: MoveClock, stage: str
) -> None:
    setattr(service.mail_server, stage, LATER)
    ask(service)
    assert service.deliver() == []
    assert counts(service) == {"retrying": 1}
    setattr(service.mail_server, stage, None)
    assert service.deliver() == []
    move_clock(timedelta(minutes=1))
    assert service.mail()["To"] == "ada@example.org"
    assert service.rows("mails") == []


def test_an_email_leaves_an_idle_service_before_the_next_round(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 60.0)
    with working(service.app):
        ask(service)
        wait_for(lambda: service.mail_server.messages)


def test_a_new_email_does_not_wait_behind_many_that_are_retried(service: Service, move_clock: MoveClock) -> None:
    service.mail_server.refuse = LATER
    retried = ask_many(service, 2 * queue.BATCH)
    service.deliver()
    service.mail_server.refuse = None
    move_clock(timedelta(minutes=1))
    ask(service)
    arrived = [str(message["To"]) for message in service.deliver()]
    assert "ada@example.org" in arrived[: queue.BATCH]
    assert sorted(arrived) == sorted([*retried, "ada@example.org"])


@any_database
def test_a_system_clock_that_is_set_back_delays_no_untried_email(service: Service, move_clock: MoveClock) -> None:
    ask(service)
    move_clock(timedelta(minutes=-30))
    assert service.mail()["To"] == "ada@example.org"


@pytest.mark.parametrize("reply", [LATER, "554 5.7.1 Relay access denied"])
def test_each_pause_is_twice_the_one_before_up_to_an_hour(service: Service, move_clock: MoveClock, reply: str) -> None:
    service.mail_server.refuse = reply
    ask(service)
    assert tried(service) == 1
    for seconds in (15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        move_clock(timedelta(seconds=seconds - 5))
        assert tried(service) == 0
        move_clock(timedelta(seconds=5))
        assert tried(service) == 1


def test_promise_7_an_email_that_is_refused_for_good_is_shown_until_the_operator_retries(
    service: Service, move_clock: MoveClock
) -> None:
    service.mail_server.refuse = NEVER
    ask(service)
    assert service.deliver() == []
    move_clock(timedelta(hours=2))
    assert tried(service) == 0
    assert [row["failure"] for row in service.rows("mails")] == ["smtp-550"]
    status = json.loads(invoke(service, "mail", "status", "--json").stdout)
    assert status == {"waiting": 0, "retrying": 0, "abandoned": 1, "oldest_seconds": 0}
    service.mail_server.refuse = None
    assert retry(service) == 1
    assert service.mail()["To"] == "ada@example.org"
    assert service.rows("mails") == []


def test_promise_7_an_outage_counts_no_attempt_and_loses_nothing(
    make_service: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cut_off = make_service(mail_port=free_port())
    addresses = ask_many(cut_off, 12)
    for _ in range(3):
        with pytest.raises(ServerUnavailable, match="connection-refused"):
            tried(cut_off)
    assert counts(cut_off) == {"waiting": 12}
    assert {row["attempts"] for row in cut_off.rows("mails")} == {0}
    assert "person" not in caplog.text
    service = make_service()
    service.deliver()
    assert recipients(service.mail_server) == sorted(addresses)


@any_database
def test_an_email_whose_connection_broke_goes_out_again_as_the_same_email_and_makes_one_account(
    service: Service, move_clock: MoveClock
) -> None:
    replies = iter([HANG_UP])
    with through(service, Scripted(lambda stage, _: next(replies, None) if stage == "ACCEPTED" else None)) as peer:
        ask(service)
        service.deliver()
        assert counts(service) == {"retrying": 1}
        # The server may still be about to deliver it (RFC 5321 section 4.5.3.2.6).
        move_clock(timedelta(minutes=9))
        assert service.deliver() == []
        move_clock(timedelta(minutes=2))
        service.deliver()
    first, again = peer.messages
    assert first["Message-ID"] == again["Message-ID"]
    assert service.rows("mails") == []
    assert service.confirm(token_of(first)).status_code == 201
    assert service.confirm(token_of(again)).json["code"] == "invalid-token"


def test_an_email_is_looked_up_when_it_is_sent(service: Service, ada: Person) -> None:
    people = {ada.email: ada, "bob@example.org": service.register(name="Bob", email="bob@example.org")}
    for email in people:
        service.http.post("/v1/password-resets", json={"email": email})
    addresses: list[str] = []

    def close_the_other(stage: str, address: str) -> None:
        if stage == "DATA" and not addresses:
            addresses.append(address)
            (other,) = people.keys() - {address}
            closing = {"password": people[other].password}
            closed = service.http.post("/v1/account/close", json=closing, headers=people[other].headers)
            assert closed.status_code == 200

    with through(service, Scripted(close_the_other)) as peer:
        service.deliver()
    resets = [message for message in peer.messages if message["Subject"] == "Reset your TILES password"]
    assert [message["To"] for message in resets] == addresses


@pytest.mark.parametrize("reply", [LATER, "554 5.7.1 Relay access denied"])
def test_an_email_is_abandoned_after_two_days_and_deleted_a_week_later(
    service: Service, move_clock: MoveClock, reply: str
) -> None:
    service.mail_server.refuse = reply
    ask(service)
    service.deliver()
    minute = timedelta(minutes=1)
    for wait, expected in (
        (timedelta(days=2) - minute, {"retrying": 1}),
        (2 * minute, {"abandoned": 1}),
        (timedelta(days=7) - minute, {"abandoned": 1}),
        (2 * minute, {}),
    ):
        move_clock(wait)
        tidy(service)
        assert counts(service) == expected
    assert service.http.get("/readyz").status_code == 200
    assert service.rows("mails") == []


def test_workers_in_several_threads_send_each_email_once(service: Service) -> None:
    addresses = ask_many(service, 24)
    together = threading.Barrier(4)

    def work() -> None:
        with service.app.app_context():
            together.wait()
            delivery.deliver()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(recipients(service.mail_server)) == Counter(addresses)
    assert service.rows("mails") == []


# test_many_processes.py shows it on PostgreSQL.
@any_database
@pytest.mark.long
def test_worker_processes_send_each_email_once(service: Service, tmp_path: Path, database_url: str) -> None:
    addresses = ask_many(service, 30)

    def slowly(stage: str, _: str) -> None:
        if stage == "DATA":
            time.sleep(0.02)

    with Scripted(slowly) as slow, mail_workers(2, tmp_path, database_url, slow.port) as workers:
        wait_for(lambda: not service.rows("mails"))
        for worker in workers:
            worker.terminate()
        assert [worker.wait(20) for worker in workers] == [0, 0]
    assert Counter(recipients(slow)) == Counter(addresses)


@pytest.mark.long
def test_a_mail_worker_erases_again_what_a_backup_brought_back(
    service: Service, ada: Person, tmp_path: Path, database_url: str
) -> None:
    with service.app.app_context(), ledger.opened() as append:
        append({account_id(service, ada.email): clock.now()})
    with mail_workers(1, tmp_path, database_url, free_port()):
        wait_for(lambda: not service.rows("accounts"))


def test_the_emails_of_a_dead_worker_are_sent_when_its_claim_has_expired(
    service: Service, tmp_path: Path, database_url: str, move_clock: MoveClock
) -> None:
    addresses = ask_many(service, 3)
    with RawPeer(rcpt=silence) as stuck, mail_workers(1, tmp_path, database_url, stuck.port) as (doomed,):
        wait_for(lambda: any(line.startswith("rcpt") for line in stuck.heard))
        doomed.kill()
        doomed.wait(20)
    assert service.deliver() == []
    move_clock(queue.CLAIM + timedelta(seconds=1))
    service.deliver()
    assert recipients(service.mail_server) == addresses


@any_database
def test_many_emails_take_one_connection_and_no_name_server(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups, getfqdn = list[int](), socket.getfqdn

    def ask_for_name(host: str = "") -> str:
        lookups[-1] += 1
        return getfqdn(host)

    monkeypatch.setattr(socket, "getfqdn", ask_for_name)
    for count in (1, 30):
        ask_many(service, count)
        lookups.append(0)
        assert len(service.deliver()) == count
    assert service.mail_server.connections == 2
    # Client and server each call getfqdn once per connection.
    assert lookups[0] == lookups[1]


@any_database
def test_promise_2_no_byte_of_a_sent_registration_is_left_while_others_wait(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite leaves copies of rows that move to another page, in spite of PRAGMA secure_delete. Names of these lengths,
    # with emails sent in their order, make rows move.
    monkeypatch.setattr(random, "shuffle", lambda _: None)
    for number in range(64):
        ask(service, f"person{number:03}@example.org", f"Ada{number:03}".ljust(5 + 79 * number % 92, "y"))
    words = [f"{word}{number:03}".encode() for number in range(0, 64, 2) for word in ("Ada", "person")]

    def words_left() -> list[bytes]:
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        return [word for word in words if word in stored]

    odd = [f"person{number:03}@example.org" for number in range(1, 64, 2)]
    with through(service, Scripted(at("RCPT", LATER, *odd))) as peer, working(service.app):
        wait_for(lambda: len(peer.messages) == 32 and not words_left(), seconds=10)
