"""A setting about mails that the start accepts is one that every mail can be sent with."""

import logging
import random
from collections.abc import Callable
from email.header import decode_header, make_header
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from conftest import make_settings
from pydantic import ValidationError
from support import MailServer, Service, any_database, assert_problem, wait_for, working
from test_check import probe

from backend.mail import delivery, transport
from backend.values import named

Make = Callable[..., Service]

pytestmark = any_database

NAMES = [
    "TILES",
    "Müller & Söhne",
    'Ünïcödé, "quoted" (and more)',
    "a\\b",
    "=?utf-8?q?no_encoded_word?",
    "日本語" * 60,
    "שלום עולם " * 20 + "!",
    "فارسی\u200cنویسی",
    "\N{FOX FACE}" * 100,
    "e\N{COMBINING ACUTE ACCENT}" * 90,
    "Polizeipräsidium Südosthessen, Kriminaldirektion, Kommissariat 11",
    "long " * 60 + "name",
    "unbroken" * 50,
]


def ask(service: Service, email: str = "ada@example.org") -> None:
    assert service.http.post("/v1/registrations", json={"name": "Ada", "email": email}).status_code == 202


def header_of(service: Service, name: str) -> str:
    """Return a header of the last mail as it travelled, unfolded."""
    content = service.mail_server.envelopes[-1].content
    assert isinstance(content, bytes)
    head = content.decode("ascii").split("\r\n\r\n")[0].replace("\r\n ", " ")
    (value,) = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith(f"{name}: ")]
    return value


@pytest.mark.parametrize("name", NAMES)
def test_a_senders_name_in_any_script_and_of_any_length_arrives_readable(make_service: Make, name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    service = make_service(mail_default_sender=f'"{quoted}" <tiles@example.org>')
    ask(service)
    service.mail()
    encoded, address = parseaddr(header_of(service, "From"))
    assert (str(make_header(decode_header(encoded))), address) == (name, "tiles@example.org")
    assert service.mail_server.envelopes[-1].mail_from == "tiles@example.org"
    # RFC 2047 section 2, RFC 5322 section 2.1.1.
    assert all(len(word) <= 75 for word in encoded.split(" ") if word.startswith("=?"))
    content = service.mail_server.envelopes[-1].content
    assert isinstance(content, bytes)
    assert max(len(line) for line in content.split(b"\r\n") if line.startswith((b"From", b" "))) <= 78


def test_a_name_that_was_encoded_already_is_not_encoded_twice(make_service: Make) -> None:
    service = make_service(mail_default_sender="=?utf-8?b?TcO8bGxlcg==?= <tiles@bücher.example>")
    ask(service)
    assert service.mail()["From"].addresses[0].display_name == "Müller"
    assert service.mail_server.envelopes[-1].mail_from == "tiles@xn--bcher-kva.example"


@pytest.mark.parametrize("value", ["Bell\a <a@example.org>", "Bcc:\r\nx <a@example.org>", "\udcff <a@example.org>"])
@pytest.mark.parametrize("setting", ["mail_default_sender", "mail_username", "mail_password"])
def test_what_no_header_and_no_command_can_carry_is_refused_at_the_start(
    tmp_path: Path, database_url: str, setting: str, value: str
) -> None:
    others = {"mail_username": "tiles", "mail_password": "open sesame", "mail_server": "127.0.0.1"}
    with pytest.raises(ValidationError, match="control characters"):
        make_settings(tmp_path, database_url, **others | {setting: value})


@pytest.mark.parametrize("host", ["a..b", ".example.org", f"{'x' * 64}.org"])
def test_a_mail_servers_name_that_no_resolver_takes_is_refused_at_the_start(
    tmp_path: Path, database_url: str, host: str
) -> None:
    with pytest.raises(ValidationError, match="host name"):
        make_settings(tmp_path, database_url, mail_server=host)


def test_an_unsubscribe_link_and_a_long_address_stay_whole(make_service: Make) -> None:
    service = make_service(public_url=f"https://{'.'.join(['a' * 60] * 4)}")
    address = f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}"
    ask(service, address)
    message = service.mail()
    assert header_of(service, "To") == address
    assert header_of(service, "Message-ID") == message["Message-ID"]


class Refuses(MailServer):
    """Refuses every mail at one stage."""

    def __init__(self, stage: str, reply: str, **options: Any) -> None:
        super().__init__(**options)
        self.stage, self.reply = stage, reply
        self.asked: list[tuple[str, str]] = []

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked.append(("MAIL", address))
        if self.stage == "MAIL":
            return self.reply
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked.append(("RCPT", address))
        self.refuse = self.reply if self.stage == "RCPT" else None
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.refuse_data = self.reply if self.stage == "DATA" else None
        return await super().handle_DATA(server, session, envelope)


def test_the_check_goes_as_far_as_a_mail_does_and_sends_none(make_service: Make) -> None:
    with Refuses("nowhere", "") as peer:
        service = make_service(mail_port=peer.port, data_manager_email="privacy@example.org")
        assert probe(service, "mail-server") == {}
    assert peer.asked == [("MAIL", "tiles@accounts.tiles.test"), ("RCPT", "privacy@example.org")]
    assert peer.messages == []


@pytest.mark.parametrize("stage", ["MAIL", "RCPT"])
def test_the_check_finds_what_every_mail_would_be_refused_for(make_service: Make, stage: str) -> None:
    with Refuses(stage, "553 5.7.1 Sender address rejected: not owned by user") as peer:
        assert probe(make_service(mail_port=peer.port), "mail-server") == {"mail-server": "error"}


def test_the_check_takes_no_offence_at_a_server_that_asks_to_be_tried_again(make_service: Make) -> None:
    with Refuses("RCPT", "451 4.7.1 Greylisted") as peer:
        assert probe(make_service(mail_port=peer.port), "mail-server") == {}


def test_the_check_finds_what_no_mail_can_be_made_with(make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "written_sender", lambda _: 1 / 0)
    assert probe(make_service(), "mail-server") == {"mail-server": "error"}


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("MAIL", "553 5.7.1 Sender address rejected"),
        ("RCPT", "554 5.7.1 Relay access denied"),
        ("RCPT", "550 relaying denied"),
        ("DATA", "550 5.4.5 Daily sending quota exceeded"),
        ("DATA", "554 5.7.1 Message looks like spam"),
    ],
)
def test_what_every_mail_fails_with_makes_it_unready_until_one_leaves(
    make_service: Make, move_clock: Callable[..., None], stage: str, reply: str
) -> None:
    with Refuses(stage, reply) as peer:
        service = make_service(mail_port=peer.port)
        assert service.http.get("/readyz").status_code == 200
        with working(service.app):
            ask(service)
            wait_for(lambda: service.http.get("/readyz").status_code == 503)
        assert_problem(service.http.get("/readyz"), 503, "overloaded")
        assert probe(service, "queue") == {"mails-blocked": "error"}
        peer.stage = "nowhere"
        move_clock(delivery.FIRST_RETRY * 2)
        with service.app.app_context():
            delivery.deliver()
        assert len(peer.messages) == 1
        assert service.http.get("/readyz").status_code == 200
        assert probe(service, "queue") == {}


def test_a_mail_that_cannot_be_made_makes_it_unready_and_is_logged_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transport, "written_sender", lambda _: 1 / 0)
    for number in range(5):
        ask(service, f"person{number}@example.org")
    assert service.deliver() == []
    assert service.http.get("/readyz").status_code == 503
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


def test_what_every_mail_fails_with_is_logged_once_a_minute(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Refuses("RCPT", "554 5.7.1 Relay access denied") as peer:
        service = make_service(mail_port=peer.port)
        for number in range(10):
            ask(service, f"person{number}@example.org")
        with working(service.app):
            wait_for(lambda: [row["attempts"] for row in service.rows("mails")] == [1] * 10)
            assert caplog.text.count("mails do not leave (smtp-554)") == 1
            monkeypatch.setattr(delivery, "SAY_AGAIN_SECONDS", 0.0)
            wait_for(lambda: caplog.text.count("mails do not leave (smtp-554)") > 1)
    assert "person" not in caplog.text


def test_headers_of_generated_names_are_ascii_lines_that_decode_to_the_name(service: Service) -> None:
    letters = random.Random(1)
    for _ in range(300):
        name = "".join(
            letters.choice("aé日ض\N{FOX FACE}\u0301.,;:\"'\\()<>@=?_- ") for _ in range(letters.randint(1, 120))
        )
        name = name.strip() or "x"
        with service.app.app_context():
            header, address = transport.written_sender(named(name, "tiles@example.org"))
        encoded, parsed = parseaddr(header.replace("\r\n", ""))
        assert (str(make_header(decode_header(encoded))), parsed, address) == (name, address, "tiles@example.org")
