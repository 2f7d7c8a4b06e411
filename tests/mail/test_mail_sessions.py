"""A server that ends a session after some mails is not away: the next mail goes out at once in a new one."""

from collections import Counter

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from support import MailServer, Service, any_database
from test_mail_queue import ask_many, counts, status, through, tried

from backend.mail.transport import ServerUnavailable

pytestmark = any_database


class Limited(MailServer):
    """Takes so many mails in a session, and then ends it in its way."""

    def __init__(self, most: int, stage: str, reply: str | None) -> None:
        super().__init__()
        self.most, self.stage, self.reply = most, stage, reply

    def _ends(self, server: SMTP, session: Session, stage: str) -> str | None:
        """Return the reply that ends the session, or break it off."""
        taken = getattr(session, "taken", 0)
        if stage != self.stage or taken < self.most:
            return None
        if self.reply is None:
            assert server.transport
            server.transport.abort()
            return "421 gone"
        return self.reply

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if ended := self._ends(server, session, "MAIL"):
            return ended
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        ended = self._ends(server, session, "RCPT")
        return ended or await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if ended := self._ends(server, session, "DATA"):
            return ended
        session.taken = getattr(session, "taken", 0) + 1  # type: ignore[attr-defined]
        answer = await super().handle_DATA(server, session, envelope)
        if self.stage == "between" and session.taken >= self.most:  # type: ignore[attr-defined]
            assert server.transport
            server.transport.write(b"250 OK\r\n")
            server.transport.close()
        return answer


@pytest.mark.parametrize("most", [1, 2, 7])
@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("MAIL", "421 4.7.0 Too many messages in this session"),
        ("MAIL", "452 4.5.3 Too many messages"),
        ("MAIL", "451 4.7.1 Reconnect, please"),
        ("RCPT", "421 Bye"),
        ("RCPT", "452 4.5.3 Too many recipients"),
        ("DATA", "452 4.3.1 Come again"),
        ("DATA", "421 4.3.2 Bye"),
        ("MAIL", None),
        ("RCPT", None),
        ("between", None),
    ],
)
def test_a_session_that_ends_after_some_mails_counts_against_nobody(
    service: Service, most: int, stage: str, reply: str | None
) -> None:
    with through(service, Limited(most, stage, reply)) as peer:
        addresses = ask_many(service, 8)
        assert tried(service) == 8
    assert Counter(message["To"] for message in peer.messages) == Counter(addresses)
    assert service.rows("mails") == []
    assert peer.connections == -(-8 // most)


@pytest.mark.parametrize("reply", ["421 4.3.2 Going down", "452 4.3.1 Insufficient system storage"])
def test_a_server_that_takes_no_mail_at_all_is_away(service: Service, reply: str) -> None:
    with through(service, Limited(0, "MAIL", reply)) as peer:
        ask_many(service, 3)
        with pytest.raises(ServerUnavailable):
            tried(service)
    assert peer.connections == 1
    assert status(service) == counts(waiting=3)
    assert {row["attempts"] for row in service.rows("mails")} == {0}


def test_one_recipient_that_a_server_hangs_up_on_holds_up_no_other(service: Service) -> None:
    class HangsUp(MailServer):
        async def handle_RCPT(  # noqa: N802
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            if address == "person1@example.org":
                assert server.transport
                server.transport.abort()
            return await super().handle_RCPT(server, session, envelope, address, options)

    with through(service, HangsUp()) as peer:
        ask_many(service, 5)
        tried(service)
        assert len(peer.messages) == 4
    assert status(service) == counts(retrying=1)
