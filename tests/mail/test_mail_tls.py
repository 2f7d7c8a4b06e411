"""Sending over TLS: only to the configured server, and never in clear text instead."""

import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
import trustme
from apps import make_settings
from mailing import Doorkeeper, Make, Scripted, ask, counts
from peers import MailServer, wait_for
from pydantic import ValidationError
from support import Service, any_database, working
from tls_peer import SSL, TLS, Use, server

from backend.mail import smtp
from backend.mail.refusals import ServerUnavailable
from backend.serving import worker

HOST = "127.0.0.1"
LOGIN = {"mail_username": "tiles", "mail_password": "open sesame"}
BOTH = pytest.mark.parametrize("use", [TLS, SSL], ids=["STARTTLS", "SMTPS"])

# The database does not affect the connection.
pytestmark = [any_database, pytest.mark.usefixtures("authority")]


@pytest.fixture
def through(make_service: Make) -> Callable[..., Service]:
    """Make the service with another mail server, used over TLS."""

    def make(peer: MailServer | Between, **settings: Any) -> Service:
        service = make_service(mail_port=peer.port, **settings)
        service.mail_server = peer
        ask(service)
        return service

    return make


def assert_refused(service: Service, code: str) -> None:
    """Check that nothing was sent or lost, and that no attempt was counted."""
    with pytest.raises(ServerUnavailable, match=f"^{code}$"):
        service.deliver()
    assert counts(service) == {"waiting": 1}
    assert service.mail_server.messages == []


def day(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


BAD_CERTIFICATES: dict[str, tuple[str, dict[str, Any], int]] = {
    # The common name no longer counts as a name (RFC 9525 section 2).
    "common name": ("mail.example.org", {"common_name": "localhost"}, 62),
    "host": ("mail.example.org", {}, 62),
    "address": ("127.0.0.2", {}, 64),
    "expired": (HOST, {"not_after": day(-1)}, 10),
    "not yet valid": (HOST, {"not_before": day(1)}, 9),
}


@BOTH
@pytest.mark.parametrize("fault", BAD_CERTIFICATES)
def test_a_certificate_that_does_not_prove_the_server_is_refused(
    through: Make, authority: trustme.CA, use: Use, fault: str
) -> None:
    host, options, code = BAD_CERTIFICATES[fault]
    with server(authority.issue_cert(host, **options), use) as peer:
        configured = "localhost" if host == "mail.example.org" else HOST
        assert_refused(through(peer, mail_server=configured, **use), f"certificate-{code}")


@BOTH
def test_an_email_waits_for_a_certificate_of_a_trusted_authority(
    through: Make, authority: trustme.CA, use: Use
) -> None:
    doorkeeper = Doorkeeper(*LOGIN.values())
    with server(trustme.CA().issue_cert(HOST), use, authenticator=doorkeeper) as peer:
        service = through(peer, **LOGIN, **use)
        assert_refused(service, "certificate-20")
    assert doorkeeper.tried == []
    with server(authority.issue_cert(HOST), use, authenticator=doorkeeper) as peer:
        service.app.extensions["mail"].port, service.mail_server = peer.port, peer
        assert service.mail()["To"] == "ada@example.org"
    assert doorkeeper.tried == [("tiles", "open sesame")]


def test_a_server_without_starttls_is_refused_and_receives_nothing_in_clear_text(through: Make) -> None:
    heard: list[str] = []

    def listen(stage: str, _: str) -> None:
        heard.append(stage)

    with Scripted(listen, authenticator=lambda *_: heard.append("AUTH"), auth_require_tls=False) as peer:
        assert_refused(through(peer, **LOGIN, **TLS), "not-supported")
    assert set(heard) == {"EHLO"}


def test_the_worker_waits_while_the_server_is_untrusted_and_logs_why_without_names(
    through: Make, authority: trustme.CA, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LONGEST_PAUSE_SECONDS", 0.5)
    caplog.set_level(logging.DEBUG)
    with server(trustme.CA().issue_cert(HOST), TLS) as peer, server(authority.issue_cert(HOST), TLS) as renewed:
        service = through(peer, **TLS)
        with working(service.app):
            wait_for(lambda: "the mail server is away (certificate-20)" in caplog.text)
            assert [row["attempts"] for row in service.rows("mails")] == [0]
            service.app.extensions["mail"].port = renewed.port
            wait_for(lambda: renewed.messages)
    assert peer.messages == []
    ours = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("mail.log")).lower()
    assert "certificate-20" in ours
    assert not re.search(r"\bada\b", ours)
    assert "example" not in ours


# An attacker between the service and the mail server


class Between:
    """Replies in place of the mail server, and records the data before and after the TLS handshake."""

    def __init__(self, certificate: trustme.LeafCert, use: Use = TLS, **replies: str) -> None:
        self.use, self.context = use, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self.context)
        self.replies = {
            "clear": "250-between\r\n250 STARTTLS",
            "starttls": "220 go on",
            "safe": "250 between",
        } | replies
        self.clear: list[str] = []
        self.safe: list[str] = []
        self.messages: list[str] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._answer)

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):
            if self.use == SSL or self._talk(connection, self.clear, self.replies["clear"], "220 between"):
                with self.context.wrap_socket(connection, server_side=True) as secured:
                    self._talk(secured, self.safe, self.replies["safe"], "220 between" if self.use == SSL else "")

    def _talk(self, connection: socket.socket, heard: list[str], hello: str, greeting: str) -> bool:
        """Reply until the client disconnects; return True if TLS is to begin."""
        connection.sendall(f"{greeting}\r\n".encode() if greeting else b"")
        with connection.makefile("rb") as lines:
            for line in lines:
                heard.append(line.decode("latin-1").strip())
                command = heard[-1].upper().split(" ")[0]
                starttls = self.replies["starttls"]
                replies = {"EHLO": hello, "STARTTLS": starttls, "DATA": "354 go on", "AUTH": "235 come in"}
                connection.sendall(f"{replies.get(command, '250 OK')}\r\n".encode())
                if command == "STARTTLS" and starttls.startswith("220"):
                    return True
                if command == "DATA":
                    self.messages.append(b"".join(iter(lines.readline, b".\r\n")).decode())
                    connection.sendall(b"250 OK\r\n")
        return False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(20)
        self._listener.close()


def only(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """Allow one side only one version of TLS, even a broken one."""
    # Python warns about broken versions.
    with pytest.warns(DeprecationWarning, match=version):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize(("use", "version"), [(TLS, "TLSv1"), (SSL, "TLSv1_1")], ids=["STARTTLS", "SMTPS"])
def test_a_server_that_speaks_only_a_broken_version_of_tls_is_refused(
    through: Make, authority: trustme.CA, use: Use, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The service refuses it even if the machine's OpenSSL would accept it.
    lenient = ssl.create_default_context

    def create_default_context(*purpose: ssl.Purpose) -> ssl.SSLContext:
        context = lenient(*purpose)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        return context

    monkeypatch.setattr("backend.mail.smtp.ssl.create_default_context", create_default_context)
    with Between(authority.issue_cert(HOST), use) as peer:
        only(peer.context, version)
        assert_refused(through(peer, **use), "tls")
    assert peer.safe == []


def assert_kept_to_itself(peer: Between) -> None:
    """Check that nothing but EHLO and STARTTLS was sent in clear."""
    assert [line.split(" ")[0] for line in peer.clear] == ["ehlo", "STARTTLS"]


@pytest.mark.parametrize(
    "replies",
    [
        {"starttls": "220 go on\r\n250-between\r\n250 AUTH PLAIN"},
        {"clear": "250-between\r\n250-AUTH PLAIN\r\n250 STARTTLS"},
    ],
    ids=["after the reply to STARTTLS", "before STARTTLS"],
)
def test_replies_in_clear_text_are_discarded_when_tls_begins(
    through: Make, authority: trustme.CA, replies: dict[str, str]
) -> None:
    with Between(authority.issue_cert(HOST), **replies) as peer:
        assert_refused(through(peer, **LOGIN, **TLS), "not-supported")
    assert_kept_to_itself(peer)
    assert [line.split(" ")[0] for line in peer.safe] == ["ehlo"]


def test_a_reply_injected_before_tls_is_ignored(through: Make, authority: trustme.CA) -> None:
    smuggled = "220 go on\r\n250 between\r\n550 no such mailbox\r\n550 no such mailbox"
    with Between(authority.issue_cert(HOST), starttls=smuggled) as peer:
        service = through(peer, **TLS)
        service.deliver()
    assert_kept_to_itself(peer)
    assert [line.split(" ")[0] for line in peer.safe][:4] == ["ehlo", "mail", "rcpt", "data"]
    assert len(peer.messages) == 1
    assert service.rows("mails") == []


@pytest.mark.parametrize(
    ("starttls", "code"),
    [("454 4.7.0 not now", "smtp-454"), ("250 OK", "smtp-250"), ("502 what?", "smtp-502"), ("no answer", "smtp--1")],
)
def test_a_server_that_offers_starttls_and_does_not_begin_it_receives_nothing(
    through: Make, authority: trustme.CA, starttls: str, code: str
) -> None:
    with Between(authority.issue_cert(HOST), starttls=starttls) as peer:
        assert_refused(through(peer, **LOGIN, **TLS), code)
    assert_kept_to_itself(peer)


def test_settings_that_would_send_the_password_in_clear_are_refused(tmp_path: Path, database_url: str) -> None:
    settings = {"mail_server": "mail.example.org", "mail_username": "tiles", "mail_password": "open sesame"}
    with pytest.raises(ValidationError, match="TILES_MAIL_USE_TLS") as refused:
        make_settings(tmp_path, database_url, **settings)
    assert "sesame" not in str(refused.value)
    for use in (TLS, SSL):
        make_settings(tmp_path, database_url, **settings, **use)


def test_the_wait_for_a_silent_handshake_ends(make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_SECONDS", "REPLY_SECONDS"):
        monkeypatch.setattr(smtp, name, 0.3)
    with socket.create_server((HOST, 0)) as silent:
        service = make_service(mail_port=silent.getsockname()[1], **SSL)
        ask(service)
        assert_refused(service, "timeout")
