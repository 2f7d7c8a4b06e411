"""Signing in to the mail server: in UTF-8, whatever the server offers, and a failure says what to do."""

import logging
from collections.abc import Callable

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from raw_smtp import RawPeer
from support import MailServer, Service, any_database, wait_for, working
from test_check import probe

from backend.mail.transport import ServerUnavailable

Make = Callable[..., Service]

pytestmark = any_database

USER, PASSWORD = "jörg@bücher.example", "Öffne dich, 芝麻! \N{FOX FACE}"


class Doorkeeper:
    """Lets in whoever knows the password, and remembers what was tried."""

    def __init__(self, *known: str) -> None:
        self.known, self.tried = known, list[tuple[str, ...]]()

    def __call__(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.tried.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.tried[-1] == self.known, handled=False)


def ask(service: Service) -> None:
    assert service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"}).status_code == 202


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_name_and_a_password_beyond_ascii_are_sent_as_utf_8(make_service: Make, mechanism: str) -> None:
    (other,) = {"PLAIN", "LOGIN"} - {mechanism}
    doorkeeper = Doorkeeper(USER, PASSWORD)
    options = {"authenticator": doorkeeper, "auth_require_tls": False}
    with MailServer(**options, auth_exclude_mechanism=[other]) as peer:
        service = make_service(mail_port=peer.port, mail_username=USER, mail_password=PASSWORD)
        assert probe(service, "mail-server") == {}
        ask(service)
        service.deliver()
    assert len(peer.messages) == 1
    assert set(doorkeeper.tried) == {(USER, PASSWORD)}


@pytest.mark.parametrize(
    ("mechanism", "answer", "code"),
    [
        (b"PLAIN", b"535 5.7.8 Wrong", "smtp-535"),
        (b"PLAIN", b"454 4.7.0 Later", "smtp-454"),
        (b"LOGIN", b"334 a", "client-Error"),
        (b"LOGIN", b"334 VXNlcm5hbWU6", "smtp-250"),
        (b"CRAM-MD5", b"334 PDEyMzRAdGlsZXMudGVzdD4=", "smtp-250"),
        (b"XOAUTH2", b"", "no-sign-in"),
    ],
)
def test_whatever_goes_wrong_the_worker_lives_blames_no_mail_and_says_what_to_do(
    make_service: Make, caplog: pytest.LogCaptureFixture, mechanism: bytes, answer: bytes, code: str
) -> None:
    caplog.set_level(logging.INFO)
    with RawPeer(ehlo=b"250-raw\r\n250 AUTH " + mechanism, auth=answer) as peer:
        service = make_service(mail_port=peer.port, mail_username=USER, mail_password=PASSWORD)
        ask(service)
        with pytest.raises(ServerUnavailable, match=f"^{code}$"):
            service.deliver()
        with working(service.app):
            wait_for(lambda: f"the mail server is away ({code}): " in caplog.text)
    assert [row["attempts"] for row in service.rows("mails")] == [0]
    (line,) = [record.getMessage() for record in caplog.records if "is away" in record.getMessage()]
    assert line.partition("; ")[2]
    assert "fne dich" not in caplog.text
    assert "cher" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_wrong_password_makes_the_service_unready(make_service: Make) -> None:
    with MailServer(authenticator=Doorkeeper("nobody"), auth_require_tls=False) as peer:
        service = make_service(mail_port=peer.port, mail_username=USER, mail_password=PASSWORD)
        ask(service)
        with pytest.raises(ServerUnavailable, match="smtp-535"):
            service.deliver()
    assert service.http.get("/readyz").status_code == 503
    assert probe(service, "queue") == {"mails-blocked": "error"}
