"""Signing in to the mail server: in UTF-8, and a failure says what to do."""

import logging

import pytest
from checking import probe
from mailing import Doorkeeper, Make, ask
from peers import MailServer, wait_for
from raw_smtp import RawPeer
from support import any_database, working

from backend.mail.refusals import ServerUnavailable

pytestmark = any_database

USER, PASSWORD = "jörg@bücher.example", "Öffne dich, 芝麻! \N{FOX FACE}"


@pytest.mark.parametrize("other", ["LOGIN", "PLAIN"])
def test_a_name_and_a_password_beyond_ascii_are_sent_as_utf_8(make_service: Make, other: str) -> None:
    doorkeeper = Doorkeeper(USER, PASSWORD)
    with MailServer(authenticator=doorkeeper, auth_require_tls=False, auth_exclude_mechanism=[other]) as peer:
        service = make_service(mail_port=peer.port, mail_username=USER, mail_password=PASSWORD)
        assert probe(service, "mail-server") == {}
        ask(service)
        service.deliver()
    assert len(peer.messages) == 1
    assert set(doorkeeper.tried) == {(USER, PASSWORD)}


@pytest.mark.parametrize(
    ("mechanism", "reply", "code"),
    [
        (b"PLAIN", b"535 5.7.8 Wrong", "smtp-535"),
        (b"PLAIN", b"454 4.7.0 Later", "smtp-454"),
        (b"LOGIN", b"334 a", "client-Error"),
        (b"LOGIN", b"334 VXNlcm5hbWU6", "smtp-250"),
        (b"CRAM-MD5", b"334 PDEyMzRAdGlsZXMudGVzdD4=", "smtp-250"),
        (b"XOAUTH2", b"", "no-sign-in"),
    ],
)
def test_a_failure_to_sign_in_blames_no_email_stops_no_worker_and_says_what_to_do(
    make_service: Make, caplog: pytest.LogCaptureFixture, mechanism: bytes, reply: bytes, code: str
) -> None:
    caplog.set_level(logging.INFO)
    with RawPeer(ehlo=b"250-raw\r\n250 AUTH " + mechanism, auth=reply) as peer:
        service = make_service(mail_port=peer.port, mail_username=USER, mail_password=PASSWORD)
        ask(service)
        with pytest.raises(ServerUnavailable, match=f"^{code}$"):
            service.deliver()
        with working(service.app):
            wait_for(lambda: f"the mail server is away ({code}): " in caplog.text)
    assert [row["attempts"] for row in service.rows("mails")] == [0]
    is_ours = code != "smtp-454"
    assert service.http.get("/readyz").status_code == (503 if is_ours else 200)
    assert probe(service, "queue") == ({"mails-blocked": "error"} if is_ours else {})
    (line,) = [record.getMessage() for record in caplog.records if "is away" in record.getMessage()]
    assert line.partition("; ")[2]
    for secret in ("fne dich", "cher", "Traceback"):
        assert secret not in caplog.text
