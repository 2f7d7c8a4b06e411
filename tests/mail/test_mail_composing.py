"""Emails on the wire: readable in every email program, with any name, address or setting."""

import random
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import default
from email.utils import parseaddr
from pathlib import Path

import pytest
from apps import make_settings
from mailing import Make, Scripted, ask
from peers import html_of, text_of, token_of
from pydantic import ValidationError
from server_process import run_tiles
from support import Service, any_database

from backend.mail.composing import compose, written_sender
from backend.mail.transport import Message
from backend.values import named

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


def content_of(service: Service) -> bytes:
    content = service.mail_server.envelopes[-1].content
    assert isinstance(content, bytes)
    return content


def header_of(content: bytes, name: str) -> str:
    """Return an unfolded header as it was sent."""
    head = content.decode("ascii").split("\r\n\r\n")[0].replace("\r\n ", " ")
    (value,) = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith(f"{name}: ")]
    return value


@any_database
def test_an_email_says_that_a_machine_wrote_it_and_has_a_text_and_an_html_part(service: Service) -> None:
    ask(service)
    (row,) = service.rows("mails")
    message = service.mail()
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["From"] == "TILES <tiles@accounts.tiles.test>"
    assert message["Date"]
    assert [part.get_content_type() for part in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    link = f"https://accounts.tiles.test/registration#{token_of(message)}"
    assert link in text_of(message)
    assert f'href="{link}"' in html_of(message)
    # The row's id becomes the account's.
    assert str(row["id"]).replace("-", "") not in str(message["Message-ID"]).replace("-", "")
    assert str(message["Message-ID"]).endswith("@accounts.tiles.test>")


@any_database
@pytest.mark.parametrize("name", NAMES)
def test_a_senders_name_in_any_script_and_of_any_length_arrives_readable(make_service: Make, name: str) -> None:
    service = make_service(mail_default_sender=named(name, "tiles@example.org"))
    ask(service)
    assert len(service.deliver()) == 1
    content = content_of(service)
    # Python 3.11's own parser of addresses keeps the space between two encoded words (RFC 2047 section 6.2).
    encoded, address = parseaddr(header_of(content, "From"))
    assert (str(make_header(decode_header(encoded))), address) == (name, "tiles@example.org")
    # RFC 2047 section 2, RFC 5322 section 2.1.1.
    assert all(len(word) <= 75 for word in encoded.split(" ") if word.startswith("=?"))
    head = content.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert max(len(line) for line in head if line.startswith((b"From", b" "))) <= 78


def test_generated_names_become_ascii_headers_that_decode_to_the_name() -> None:
    letters = random.Random(1)
    for _ in range(300):
        length = letters.randint(1, 120)
        name = "".join(letters.choice("aé日ض\N{FOX FACE}\u0301.,;:\"'\\()<>@=?_- ") for _ in range(length))
        name = name.strip() or "x"
        header, address = written_sender(named(name, "tiles@example.org"))
        encoded, parsed = parseaddr(header.replace("\r\n", ""))
        assert (str(make_header(decode_header(encoded))), parsed, address) == (name, address, "tiles@example.org")


@pytest.mark.parametrize("subject", ["=?utf-8?q?hi?=", "=?utf-8?b?aGk=?= there", "Tiles =?", "Für alle"])
def test_a_subject_arrives_as_it_was_written(subject: str) -> None:
    email = compose("tiles@example.org", {"Subject": subject}, "text", "<p>text</p>")
    assert message_from_bytes(email, policy=default)["Subject"] == subject


@any_database
def test_an_encoded_sender_is_not_encoded_twice(make_service: Make) -> None:
    service = make_service(mail_default_sender="=?utf-8?b?TcO8bGxlcg==?= <tiles@bücher.example>")
    ask(service)
    assert service.mail()["From"].addresses[0].display_name == "Müller"
    assert service.mail_server.envelopes[-1].mail_from == "tiles@xn--bcher-kva.example"


@any_database
def test_a_link_and_a_long_address_stay_whole_in_a_header(make_service: Make) -> None:
    service = make_service(public_url=f"https://{'.'.join(['a' * 60] * 4)}")
    address = f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}"
    ask(service, address)
    message = service.mail()
    assert header_of(content_of(service), "To") == address
    assert header_of(content_of(service), "Message-ID") == message["Message-ID"]
    link = f"<https://{'a' * 600}>"
    assert header_of(compose("a@b.example", {"List-Unsubscribe": link}, "", ""), "List-Unsubscribe") == link


@pytest.mark.parametrize("header", ["From", "To", "Subject", "X-Hello"])
def test_no_email_is_composed_from_a_header_with_a_line_break(header: str) -> None:
    for end in ("\n", "\r", "\r\n"):
        headers = {"From": "tiles@tiles.test", header: f"Hello{end}Bcc: eve@example.org"}
        with pytest.raises(ValueError, match="line break"):
            compose(headers.pop("From"), headers, "", "")


def test_a_message_in_a_log_shows_none_of_its_content() -> None:
    assert "Hello" not in repr(Message("Hello", "Hello", "Hello", b"Hello"))


@any_database
@pytest.mark.parametrize(
    "name",
    ["\N{FOX FACE}" * 200, "".join(chr(0x20000 + 167 * number) for number in range(200))],
    ids=["the same emoji", "different ideographs"],
)
def test_the_longest_name_gives_lines_that_smtp_allows_and_a_link_that_works(service: Service, name: str) -> None:
    ask(service, name=name)
    message = service.mail()
    assert max(len(line) for line in content_of(service).split(b"\r\n")) <= 998
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


# Settings

SENDER = {"mail_username": "tiles", "mail_password": "open sesame", "mail_server": "127.0.0.1"}
BAD_VALUES = ["Bell\a <a@example.org>", "Bcc:\r\nx <a@example.org>", "\udcff <a@example.org>"]


@any_database
@pytest.mark.parametrize(
    ("changes", "message"),
    [({setting: value}, "control characters") for setting in ("mail_default_sender", "mail_username", "mail_password")
     for value in BAD_VALUES]
    + [({"mail_server": host}, "host name") for host in ("a..b", ".example.org", f"{'x' * 64}.org")]
    + [({"mail_port": 465, **use}, "TILES_MAIL_USE_SSL") for use in ({}, {"mail_use_tls": True})],
)  # fmt: skip
def test_a_setting_that_no_email_can_be_sent_with_is_refused_at_the_start(
    tmp_path: Path, database_url: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        make_settings(tmp_path, database_url, **SENDER | changes)


def test_a_command_says_which_setting_is_wrong(tmp_path: Path) -> None:
    wrong = {"mail_server": "smtp.example.org", "mail_port": 465}
    assert "TILES_MAIL_USE_SSL" in run_tiles(tmp_path, "mail", "status", **wrong).stderr
    done = run_tiles(tmp_path, "check", "--json", **wrong)
    assert done.returncode == 1
    assert "TILES_MAIL_USE_SSL" in done.stdout


@any_database
@pytest.mark.parametrize(
    ("public_url", "name"),
    [
        ("https://accounts.tiles.test:8443", "accounts.tiles.test"),
        ("http://192.0.2.7:8000", "[192.0.2.7]"),
        ("http://[2001:db8::7]", "[IPv6:2001:db8::7]"),
    ],
)
def test_the_mail_server_is_greeted_by_the_public_urls_host(make_service: Make, public_url: str, name: str) -> None:
    with Scripted(lambda *_: None) as peer:
        service = make_service(mail_port=peer.port, public_url=public_url)
        ask(service)
        service.deliver()
    assert len(peer.messages) == 1
    assert peer.greeted_by == name
