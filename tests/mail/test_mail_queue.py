"""The mail queue: what was accepted is delivered, or given up where it can be seen."""

import asyncio
import json
import random
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from flask_mail import BadHeaderError
from support import (
    TILES,
    MailServer,
    Person,
    Service,
    any_database,
    environment,
    free_port,
    html_of,
    run_tiles,
    text_of,
    token_of,
    wait_for,
    working,
)

from backend.mail import delivery, queue
from backend.mail.aside import ASIDE
from backend.mail.transport import Message, ServerUnavailable

MoveClock = Callable[[timedelta], None]
LATER = "451 4.3.0 Try again later"
NEVER = "550 5.1.1 No such mailbox"


def ask(service: Service, email: str = "ada@example.org", name: str = "Ada Lovelace") -> None:
    response = service.http.post("/v1/registrations", json={"name": name, "email": email})
    assert response.status_code == 202


def ask_many(service: Service, count: int) -> list[str]:
    addresses = [f"person{number}@example.org" for number in range(count)]
    for address in addresses:
        ask(service, address)
    return addresses


def tried(service: Service) -> int:
    with service.app.app_context():
        return delivery.deliver()


def status(service: Service) -> dict[str, int]:
    with service.app.app_context():
        return {name: count for name, count in asdict(queue.status()).items() if name != "oldest_seconds"}


def counts(*, waiting: int = 0, retrying: int = 0, abandoned: int = 0) -> dict[str, int]:
    return {"waiting": waiting, "retrying": retrying, "abandoned": abandoned}


@pytest.mark.parametrize("stage", ["refuse", "refuse_data"])
def test_a_mail_that_is_refused_for_now_is_delivered_later(service: Service, move_clock: MoveClock, stage: str) -> None:
    setattr(service.mail_server, stage, LATER)
    ask(service)
    assert service.deliver() == []
    assert status(service) == counts(retrying=1)
    setattr(service.mail_server, stage, None)
    assert service.deliver() == []
    move_clock(timedelta(minutes=1))
    assert service.mail()["To"] == "ada@example.org"
    assert service.rows("mails") == []


@any_database
def test_a_clock_that_is_put_back_keeps_nobodys_mail(service: Service, move_clock: MoveClock) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    move_clock(timedelta(minutes=-30))
    assert [message["To"] for message in service.deliver()] == ["ada@example.org"]


def test_each_wait_is_twice_the_one_before_up_to_an_hour(service: Service, move_clock: MoveClock) -> None:
    service.mail_server.refuse = LATER
    ask(service)
    assert tried(service) == 1
    for seconds in (15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        move_clock(timedelta(seconds=seconds - 5))
        assert tried(service) == 0
        move_clock(timedelta(seconds=5))
        assert tried(service) == 1


def test_a_mail_that_is_refused_for_good_is_given_up_where_it_can_be_seen(
    service: Service, move_clock: MoveClock, tmp_path: Path, database_url: str
) -> None:
    service.mail_server.refuse = NEVER
    ask(service)
    assert service.deliver() == []
    move_clock(timedelta(hours=2))
    assert tried(service) == 0
    assert status(service) == counts(abandoned=1)
    assert [row["failure"] for row in service.rows("mails")] == ["smtp-550"]
    shown = run_tiles(tmp_path, "mail", "status", "--json", database_url=database_url)
    assert json.loads(shown.stdout) == counts(abandoned=1) | {"oldest_seconds": 0}


def test_retrying_brings_back_what_was_given_up(service: Service) -> None:
    service.mail_server.refuse = NEVER
    ask(service)
    service.deliver()
    service.mail_server.refuse = None
    with service.app.app_context():
        assert queue.retry() == 1
    assert service.mail()["To"] == "ada@example.org"
    assert service.rows("mails") == []


@any_database
def test_one_refused_address_does_not_hold_up_the_others(service: Service) -> None:
    class Picky(MailServer):
        async def handle_RCPT(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            self.refuse = NEVER if address == "person3@example.org" else None
            return await super().handle_RCPT(server, session, envelope, address, options)

    with through(service, Picky()) as peer:
        addresses = ask_many(service, 6)
        service.deliver()
    assert sorted(message["To"] for message in peer.messages) == sorted(set(addresses) - {"person3@example.org"})
    assert peer.connections == 1


@contextmanager
def through(service: Service, server: MailServer) -> Iterator[MailServer]:
    """Let a service that is already made send through another mail server."""
    mailer = service.app.extensions["mail"]
    with server:
        service.mail_server, mailer.port = server, server.port
        yield server


@any_database
@pytest.mark.parametrize("message", ["421 4.7.0 Too many mails, bye", "421 Service shutting down"])
def test_a_server_that_takes_its_leave_gets_the_rest_on_a_new_connection(
    service: Service, move_clock: MoveClock, message: str
) -> None:
    addresses = ask_many(service, 3)
    service.mail_server.refuse = message
    assert service.deliver() == []
    service.mail_server.refuse = None
    move_clock(timedelta(minutes=1))
    assert sorted(sent["To"] for sent in service.deliver()) == addresses


def test_an_outage_counts_no_attempt_and_loses_nothing(
    make_service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    cut_off = make_service(mail_port=free_port())
    addresses = ask_many(cut_off, 12)
    for _ in range(3):
        with pytest.raises(ServerUnavailable, match="connection-refused"):
            tried(cut_off)
    assert status(cut_off) == counts(waiting=12)
    assert {row["attempts"] for row in cut_off.rows("mails")} == {0}
    assert "person" not in caplog.text
    assert sorted(message["To"] for message in make_service().deliver()) == sorted(addresses)


class Unsure(MailServer):
    """Takes the first mail, and is gone before it says so."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = await super().handle_DATA(server, session, envelope)
        if len(self.messages) == 1:
            assert server.transport
            server.transport.abort()
        return answer


@any_database
def test_a_mail_whose_connection_broke_is_sent_again_as_the_same_mail(service: Service, move_clock: MoveClock) -> None:
    with through(service, Unsure()) as peer:
        ask(service)
        service.deliver()
        assert status(service) == counts(retrying=1)
        # The server may still be about to deliver it (RFC 5321 section 4.5.3.2.6).
        move_clock(timedelta(minutes=9))
        assert service.deliver() == []
        move_clock(timedelta(minutes=2))
        service.deliver()
    first, again = peer.messages
    assert first["Message-ID"] == again["Message-ID"]
    assert service.rows("mails") == []


@any_database
def test_links_of_a_repeated_mail_make_one_account(service: Service, move_clock: MoveClock) -> None:
    with through(service, Unsure()) as peer:
        ask(service)
        service.deliver()
        move_clock(queue.UNKNOWN_FATE)
        service.deliver()
    first, again = (token_of(message) for message in peer.messages)
    assert service.confirm(first).status_code == 201
    assert service.confirm(again).json["code"] == "invalid-token"


class Thinking(MailServer):
    """Thinks about a mail for longer than what was made before it stays fresh."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Queue[str] = Queue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.first.put(envelope.rcpt_tos[0])
        await asyncio.sleep(delivery.FRESH_SECONDS + 0.3)
        return await super().handle_DATA(server, session, envelope)


def test_what_a_mail_says_is_looked_up_anew_when_it_had_to_wait_for_those_before_it(
    service: Service, ada: Person
) -> None:
    people = {ada.email: ada, "bob@example.org": service.register(name="Bob", email="bob@example.org")}
    for email in people:
        service.http.post("/v1/password-resets", json={"email": email})
    with through(service, Thinking()) as peer:
        sending = threading.Thread(target=service.deliver)
        sending.start()
        first = peer.first.get(timeout=10)
        (other,) = people.keys() - {first}
        closing = {"password": people[other].password}
        assert service.http.post("/v1/account/close", json=closing, headers=people[other].headers).status_code == 200
        sending.join()
    assert [message["To"] for message in peer.messages if message["Subject"] == "Reset your TILES password"] == [first]


class Refusing(MailServer):
    """Refuses us, whatever the mail."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        super().__init__()

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        greeted = await super().handle_EHLO(server, session, envelope, hostname, responses)
        return ["550 5.7.1 Not from you"] if self.stage == "EHLO" else greeted

    async def handle_HELO(self, server: SMTP, session: Session, envelope: Envelope, hostname: str) -> str:  # noqa: N802
        return "550 5.7.1 Not from you"

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        return "530 5.7.0 Authentication required"


@any_database
@pytest.mark.parametrize("stage", ["EHLO", "MAIL"])
def test_a_server_that_refuses_the_service_itself_blames_no_mail(service: Service, stage: str) -> None:
    with through(service, Refusing(stage)):
        ask_many(service, 2)
        with pytest.raises(ServerUnavailable):
            service.deliver()
    assert status(service) == counts(waiting=2)


def test_a_mail_that_waited_two_days_is_given_up_and_forgotten_a_week_later(
    service: Service, move_clock: MoveClock
) -> None:
    def tidy() -> None:
        with service.app.app_context():
            queue.tidy()

    service.mail_server.refuse = LATER
    ask(service)
    service.deliver()
    move_clock(timedelta(days=2, minutes=-1))
    tidy()
    assert status(service) == counts(retrying=1)
    move_clock(timedelta(minutes=2))
    tidy()
    assert status(service) == counts(abandoned=1)
    move_clock(timedelta(days=7, minutes=-1))
    tidy()
    assert status(service) == counts(abandoned=1)
    move_clock(timedelta(minutes=2))
    tidy()
    assert service.rows("mails") == []


@any_database
def test_many_mails_travel_over_one_connection(service: Service) -> None:
    ask_many(service, 30)
    assert len(service.deliver()) == 30
    assert service.mail_server.connections == 1


def test_workers_in_several_threads_send_each_mail_once(service: Service) -> None:
    addresses = ask_many(service, 60)
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
    assert Counter(message["To"] for message in service.mail_server.messages) == Counter(addresses)
    assert service.rows("mails") == []


class MailWorker:
    """A process of `tiles mail work`."""

    def __init__(self, folder: Path, database_url: str, server: MailServer) -> None:
        given = {"database_url": database_url, "mail_server": server.host, "mail_port": server.port}
        variables = environment(folder, **given)
        self.process = subprocess.Popen([TILES, "mail", "work"], env=variables, stderr=subprocess.DEVNULL)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def mail_workers(count: int, folder: Path, database_url: str, server: MailServer) -> Iterator[list[MailWorker]]:
    workers = [MailWorker(folder, database_url, server) for _ in range(count)]
    try:
        yield workers
    finally:
        for started in workers:
            started.end(signal.SIGKILL)


class Slow(MailServer):
    """Takes its time over every mail, so that workers which start together also work together."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        await asyncio.sleep(0.02)
        return await super().handle_DATA(server, session, envelope)


def test_worker_processes_send_each_mail_once(service: Service, tmp_path: Path, database_url: str) -> None:
    addresses = ask_many(service, 60)
    with Slow() as slow, mail_workers(2, tmp_path, database_url, slow) as workers:
        wait_for(lambda: not service.rows("mails"))
        assert [started.end(signal.SIGTERM) for started in workers] == [0, 0]
    assert Counter(message["To"] for message in slow.messages) == Counter(addresses)


class Stuck(MailServer):
    """Takes a mail and never answers."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        super().__init__()

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.reached.set()
        await asyncio.Event().wait()
        return "250 OK"


def test_what_a_dead_worker_had_taken_is_sent_when_its_claim_has_expired(
    service: Service, tmp_path: Path, database_url: str, move_clock: MoveClock
) -> None:
    addresses = ask_many(service, 3)
    with Stuck() as stuck, mail_workers(1, tmp_path, database_url, stuck) as (doomed,):
        assert stuck.reached.wait(20)
        doomed.end(signal.SIGKILL)
    assert service.deliver() == []
    move_clock(queue.CLAIM + timedelta(seconds=1))
    assert sorted(message["To"] for message in service.deliver()) == addresses


@any_database
def test_a_message_id_does_not_tell_the_id_that_the_account_will_have(service: Service) -> None:
    ask(service)
    (row,) = service.rows("mails")
    message_id = str(service.mail()["Message-ID"])
    assert str(row["id"]).replace("-", "") not in message_id.replace("-", "")
    assert message_id.endswith("@accounts.tiles.test>")


@any_database
def test_a_mail_says_that_a_machine_wrote_it_and_has_a_text_and_an_html_part(service: Service) -> None:
    ask(service)
    message = service.mail()
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["From"] == "TILES <tiles@accounts.tiles.test>"
    assert message["Date"]
    (alternatives,) = (part for part in message.walk() if part.get_content_type() == "multipart/alternative")
    assert [part.get_content_type() for part in alternatives.iter_parts()] == ["text/plain", "text/html"]
    link = f"https://accounts.tiles.test/registration#{token_of(message)}"
    assert link in text_of(message)
    assert f'href="{link}"' in html_of(message)


def test_name_servers_are_asked_for_a_connection_and_never_for_a_mail(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, getfqdn = list[int](), socket.getfqdn

    def ask_for_name(host: str = "") -> str:
        asked[-1] += 1
        return getfqdn(host)

    monkeypatch.setattr(socket, "getfqdn", ask_for_name)
    for count in (1, 3):
        addresses = ask_many(service, count)
        asked.append(0)
        assert sorted(message["To"] for message in service.deliver()) == addresses
    # The same for one mail and for three: what each side of a connection calls itself.
    assert asked[0] == asked[1]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("part", ["id", "sender", "recipient", "subject", "extra_headers"])
def test_a_mail_whose_headers_hold_the_end_of_a_line_is_never_written(service: Service, part: str, end: str) -> None:
    given = {"id": "<1@tiles.test>", "sender": "tiles@tiles.test", "recipient": "ada@example.org", "subject": "Hello"}
    value = f"Hello{end}Bcc: eve@example.org"
    changed = {part: {"X-Hello": value} if part == "extra_headers" else value}
    made: dict[str, Any] = {**given, "date": 0.0, "body": "", "html": "", "extra_headers": {}, **changed}
    with service.app.app_context(), pytest.raises(BadHeaderError):
        _ = Message(**made).content
    # What is in a mail is in no log by accident.
    assert "Hello" not in repr(Message(**made))


@any_database
@pytest.mark.parametrize(
    "name",
    ["\N{FOX FACE}" * 200, "".join(chr(0x20000 + 167 * number) for number in range(200))],
    ids=["the same emoji", "different ideographs"],
)
def test_the_longest_name_gives_a_mail_of_lines_that_smtp_allows_and_a_link_that_works(
    service: Service, name: str
) -> None:
    ask(service, name=name)
    message = service.mail()
    content = service.mail_server.envelopes[-1].content
    assert isinstance(content, bytes)
    assert max(len(line) for line in content.split(b"\r\n")) <= 998
    confirmed = service.confirm(token_of(message))
    assert confirmed.status_code == 201
    assert confirmed.json["account"]["name"] == name


@any_database
@pytest.mark.parametrize(
    ("domain", "ascii_domain"),
    [("bücher.example", "xn--bcher-kva.example"), ("straße.example", "xn--strae-oqa.example")],
)
def test_an_international_domain_is_reached_by_its_idna_2008_form(
    service: Service, domain: str, ascii_domain: str
) -> None:
    ask(service, f"a@{domain}")
    message = service.mail()
    assert service.mail_server.envelopes[-1].rcpt_tos == [f"a@{ascii_domain}"]
    assert service.confirm(token_of(message)).json["account"]["email"] == f"a@{domain}"


def test_a_waiting_mail_holds_neither_token_nor_link_nor_text(service: Service) -> None:
    ask(service)
    (row,) = service.rows("mails")
    told = {
        name: value
        for name, value in row.items()
        if isinstance(value, str) and name not in {"id", "created_at", "due_at"}
    }
    assert told == {"kind": "registration", "email": "ada@example.org", "name": "Ada Lovelace"}
    assert row["account_id"] is row["failure"] is row["claim"] is None


def test_a_reset_for_an_address_without_account_sends_nothing_and_leaves_no_row(service: Service) -> None:
    assert service.http.post("/v1/password-resets", json={"email": "nobody@example.org"}).status_code == 202
    assert len(service.rows("mails")) == 1
    assert service.deliver() == service.rows("mails") == []


def test_a_mail_to_nobody_waits_for_idle_moments_as_one_that_is_sent_does(service: Service) -> None:
    waiting = []

    class Idle:
        def do(self, work: Callable[[], object]) -> object:
            waiting.append(len(service.rows("mails")))
            return work()

    service.app.extensions[ASIDE] = Idle()
    for email in ("nobody@example.org", "noone@example.org"):
        assert service.http.post("/v1/password-resets", json={"email": email}).status_code == 202
    service.deliver()
    # Before each is looked up, when they are rendered, and before each is let go of.
    assert waiting == [2, 2, 2, 2, 1]
    assert service.rows("mails") == []


def test_a_reset_goes_to_the_address_as_registered(service: Service, ada: Person) -> None:
    service.ask_for_reset("ADA@Example.ORG")
    assert service.mail_server.envelopes[-1].rcpt_tos == [ada.email]


class PutsOffTheOdd(MailServer):
    """Takes mails to even addresses, and puts the others off."""

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.refuse = LATER if int(address[6:9]) % 2 else None
        return await super().handle_RCPT(server, session, envelope, address, options)


@any_database
def test_no_byte_of_a_mail_is_left_once_it_was_handed_over_though_others_wait(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite leaves copies of rows that moved to another page, whatever PRAGMA secure_delete says;
    # with names of these lengths, and mails sent in their order, it happens.
    monkeypatch.setattr(random, "shuffle", lambda _: None)
    for number in range(64):
        ask(service, f"person{number:03}@example.org", f"Ada{number:03}".ljust(5 + 79 * number % 92, "y"))
    words = [f"{word}{number:03}".encode() for number in range(0, 64, 2) for word in ("Ada", "person")]

    def left() -> list[bytes]:
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        return [word for word in words if word in stored]

    with through(service, PutsOffTheOdd()) as peer, working(service.app):
        wait_for(lambda: len(peer.messages) == 32 and not left(), seconds=10)
