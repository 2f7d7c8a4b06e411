"""A server that ends a session after some emails is available: the next email is sent at once in a new session."""

from collections import Counter

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from mailing import HANG_UP, Make, Scripted, ask_many, at, counts, recipients, through, tried
from raw_smtp import RawPeer
from support import Service, any_database

from backend.mail.refusals import ServerUnavailable

pytestmark = any_database


class Limited(Scripted):
    """Accepts a number of emails in a session, and then ends it at one stage."""

    def __init__(self, most: int, stage: str, reply: str) -> None:
        super().__init__(self._script)
        self.most, self.stage, self.reply, self.accepted = most, stage, reply, 0

    def _script(self, stage: str, _: str) -> str | None:
        if stage == "EHLO":
            self.accepted = 0
        if stage == self.stage and self.accepted >= self.most:
            return self.reply
        self.accepted += stage == "ACCEPTED"
        return None

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = await super().handle_DATA(server, session, envelope)
        if self.stage == "between" and self.accepted >= self.most:
            assert server.transport
            server.transport.write(b"250 OK\r\n")
            server.transport.close()
        return reply


@pytest.mark.parametrize(
    ("most", "stage", "reply"),
    [
        (1, "MAIL", "421 4.7.0 Too many messages in this session"),
        (7, "MAIL", "452 4.5.3 Too many messages"),
        (1, "MAIL", "451 4.7.1 Reconnect, please"),
        (7, "RCPT", "421 Bye"),
        (1, "RCPT", "452 4.5.3 Too many recipients"),
        (7, "DATA", "452 4.3.1 Come again"),
        (1, "DATA", "421 4.3.2 Bye"),
        (7, "MAIL", HANG_UP),
        (1, "RCPT", HANG_UP),
        (7, "between", ""),
    ],
)
def test_a_session_that_ends_after_some_emails_counts_as_no_failed_attempt(
    service: Service, most: int, stage: str, reply: str
) -> None:
    with through(service, Limited(most, stage, reply)) as peer:
        addresses = ask_many(service, 8)
        assert tried(service) == 8
    assert Counter(recipients(peer)) == Counter(addresses)
    assert service.rows("mails") == []
    assert peer.connections == -(-8 // most)


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("MAIL", "421 4.3.2 Going down"),
        ("MAIL", "452 4.3.1 Insufficient system storage"),
        ("MAIL", "550 5.7.1 Not from you"),
        ("EHLO", "550 5.7.1 Not from you"),
    ],
)
def test_a_server_that_accepts_no_email_at_all_is_unavailable_and_blames_no_email(
    service: Service, stage: str, reply: str
) -> None:
    with through(service, Scripted(at(stage, reply))) as peer:
        ask_many(service, 3)
        with pytest.raises(ServerUnavailable):
            tried(service)
    assert peer.connections == 1
    assert counts(service) == {"waiting": 3}
    assert {row["attempts"] for row in service.rows("mails")} == {0}


@pytest.mark.parametrize("reply", [HANG_UP, "421 4.7.0 Too many emails, bye"])
def test_one_recipient_that_ends_the_session_delays_no_other(service: Service, reply: str) -> None:
    with through(service, Scripted(at("RCPT", reply, "person1@example.org"))) as peer:
        ask_many(service, 5)
        tried(service)
    assert len(peer.messages) == 4
    assert counts(service) == {"retrying": 1}


def test_a_refused_data_command_resets_the_session(make_service: Make) -> None:
    with RawPeer(data=b"552 5.3.4 Too big") as peer:
        service = make_service(mail_port=peer.port)
        ask_many(service, 2)
        assert tried(service) == 2
    assert counts(service) == {"retrying": 2}
    commands = [line.split(" ")[0].lower() for line in peer.heard]
    assert commands.index("rset") < len(commands) - 1 - commands[::-1].index("mail")
