"""Sending over TLS: only to the server that was meant, and never in clear text instead."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from conftest import make_settings
from pydantic import ValidationError
from support import MailServer, Service, wait_for

from backend import mail, transport, worker
from backend.transport import ServerUnavailable

HOST = "127.0.0.1"
TLS = {"mail_use_tls": True}
SSL = {"mail_use_ssl": True}
BOTH = pytest.mark.parametrize("use", [TLS, SSL], ids=["STARTTLS", "SMTPS"])

Make = Callable[..., Service]

pytestmark = pytest.mark.usefixtures("authority")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database: it has no part in how a connection is made."""
    return sqlite_url


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that this machine trusts, and no other."""
    found = trustme.CA()
    found.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return found


def server(certificate: trustme.LeafCert, use: dict[str, bool], **options: Any) -> MailServer:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if use == SSL:
        # The library only counts STARTTLS as TLS.
        return MailServer(ssl_context=context, auth_require_tls=False, **options)
    return MailServer(tls_context=context, require_starttls=True, **options)


@pytest.fixture
def through(make_service: Make) -> Callable[..., Service]:
    """Make the service with another mail server, which it is told to use over TLS."""

    def make(peer: MailServer, **settings: Any) -> Service:
        service = make_service(mail_port=peer.port, **settings)
        service.mail_server = peer
        service.http.post("/v1/registrations", json={"name": "Ada Lovelace", "email": "ada@example.org"})
        return service

    return make


def assert_refused(service: Service, code: str) -> None:
    """Check that nothing was sent, that nothing is lost, and that no mail is to blame."""
    with pytest.raises(ServerUnavailable, match=f"^{code}$"):
        service.deliver()
    with service.app.app_context():
        found = asdict(mail.status())
    assert (found["waiting"], found["retrying"], found["abandoned"]) == (1, 0, 0)
    assert service.mail_server.messages == []


@BOTH
def test_a_mail_is_handed_to_a_server_whose_certificate_is_trusted(
    through: Make, authority: trustme.CA, use: dict[str, bool]
) -> None:
    with server(authority.issue_cert(HOST), use) as peer:
        assert through(peer, **use).mail()["To"] == "ada@example.org"


@BOTH
def test_a_certificate_of_an_unknown_authority_is_refused(through: Make, use: dict[str, bool]) -> None:
    with server(trustme.CA().issue_cert(HOST), use) as peer:
        assert_refused(through(peer, **use), "certificate-20")


@BOTH
def test_a_certificate_of_another_host_is_refused(through: Make, authority: trustme.CA, use: dict[str, bool]) -> None:
    with server(authority.issue_cert("mail.example.org"), use) as peer:
        assert_refused(through(peer, mail_server="localhost", **use), "certificate-62")


@BOTH
def test_a_certificate_of_another_address_is_refused(
    through: Make, authority: trustme.CA, use: dict[str, bool]
) -> None:
    with server(authority.issue_cert("127.0.0.2"), use) as peer:
        assert_refused(through(peer, **use), "certificate-64")


@BOTH
def test_an_expired_certificate_is_refused(through: Make, authority: trustme.CA, use: dict[str, bool]) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with server(authority.issue_cert(HOST, not_after=yesterday), use) as peer:
        assert_refused(through(peer, **use), "certificate-10")


@BOTH
def test_a_mail_that_waited_for_a_trusted_certificate_is_sent_then(
    through: Make, authority: trustme.CA, use: dict[str, bool]
) -> None:
    with server(trustme.CA().issue_cert(HOST), use) as peer:
        service = through(peer, **use)
        assert_refused(service, "certificate-20")
    with server(authority.issue_cert(HOST), use) as peer:
        service.app.extensions["mail"].port, service.mail_server = peer.port, peer
        assert service.mail()["To"] == "ada@example.org"


def test_a_server_without_starttls_is_refused_and_hears_nothing_in_clear(through: Make) -> None:
    heard: list[str] = []

    class Plain(MailServer):
        async def handle_MAIL(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            heard.append(address)
            return "250 OK"

    with Plain(authenticator=lambda *_: heard.append("AUTH"), auth_require_tls=False) as peer:
        assert_refused(through(peer, mail_username="tiles", mail_password="secret", **TLS), "not-supported")
    assert heard == []


def test_the_worker_waits_an_untrusted_server_out_and_its_log_says_why_and_names_nobody(
    through: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with server(trustme.CA().issue_cert(HOST), TLS) as peer:
        service = through(peer, **TLS)
        end = worker.start(service.app)
        try:
            wait_for(lambda: "the mail server is away (certificate-20)" in caplog.text)
        finally:
            end()
    assert "ada" not in caplog.text.lower()
    assert [row["attempts"] for row in service.rows("mails")] == [0]


class Doorkeeper:
    """Lets in whoever knows the password, and remembers what was tried."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, str]] = []

    def __call__(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.tried.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.tried[-1] == ("tiles", "open sesame"), handled=False)


@BOTH
def test_username_and_password_are_used_once_the_connection_is_safe(
    through: Make, authority: trustme.CA, use: dict[str, bool]
) -> None:
    doorkeeper = Doorkeeper()
    with server(authority.issue_cert(HOST), use, authenticator=doorkeeper) as peer:
        assert through(peer, mail_username="tiles", mail_password="open sesame", **use).mail()
    assert doorkeeper.tried == [("tiles", "open sesame")]


def test_a_wrong_password_blames_no_mail(through: Make, authority: trustme.CA) -> None:
    with server(authority.issue_cert(HOST), TLS, authenticator=Doorkeeper(), auth_required=True) as peer:
        assert_refused(through(peer, mail_username="tiles", mail_password="let me in", **TLS), "smtp-535")


def test_the_password_is_kept_from_a_server_whose_certificate_is_not_trusted(through: Make) -> None:
    doorkeeper = Doorkeeper()
    with server(trustme.CA().issue_cert(HOST), TLS, authenticator=doorkeeper) as peer:
        assert_refused(through(peer, mail_username="tiles", mail_password="open sesame", **TLS), "certificate-20")
    assert doorkeeper.tried == []


def test_settings_that_would_send_the_password_in_clear_are_refused(tmp_path: Path, database_url: str) -> None:
    given = {"mail_server": "mail.example.org", "mail_username": "tiles", "mail_password": "open sesame"}
    with pytest.raises(ValidationError, match="TILES_MAIL_USE_TLS") as refused:
        make_settings(tmp_path, database_url, **given)
    assert "sesame" not in str(refused.value)
    for use in (TLS, SSL):
        make_settings(tmp_path, database_url, **given, **use)


@pytest.mark.parametrize("use", [{}, TLS, SSL], ids=["clear", "STARTTLS", "SMTPS"])
def test_a_server_that_says_nothing_is_given_up_on_after_a_while(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, use: dict[str, bool]
) -> None:
    monkeypatch.setattr(transport, "SMTP_SECONDS", 0.3)
    with socket.create_server((HOST, 0)) as silent:
        service = make_service(mail_port=silent.getsockname()[1], **use)
        service.http.post("/v1/registrations", json={"name": "Ada Lovelace", "email": "ada@example.org"})
        assert_refused(service, "timeout")


def test_a_server_that_falls_silent_over_a_mail_puts_that_mail_off(
    through: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SMTP_SECONDS", 0.3)

    class Silent(MailServer):
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
            await asyncio.Event().wait()
            return "250 OK"

    with Silent() as peer:
        service = through(peer)
        assert service.deliver() == []
    assert [(row["attempts"], row["failure"]) for row in service.rows("mails")] == [(1, "timeout")]
