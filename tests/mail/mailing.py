"""Helpers for the tests of emails: requests for emails, a scripted mail server, separate worker processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import forking
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from peers import MailServer
from server_process import environment
from support import Service

from backend.mail import delivery, queue

Make = Callable[..., Service]
MoveClock = Callable[[timedelta], None]
LATER, NEVER = "451 4.3.0 Try again later", "550 5.1.1 No such mailbox"

postgresql_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def ask(service: Service, email: str = "ada@example.org", name: str = "Ada Lovelace") -> None:
    """Request a registration email."""
    assert service.http.post("/v1/registrations", json={"name": name, "email": email}).status_code == 202


def ask_many(service: Service, count: int) -> list[str]:
    """Request registration emails; return their addresses."""
    addresses = [f"person{number}@example.org" for number in range(count)]
    for address in addresses:
        ask(service, address)
    return addresses


def tried(service: Service) -> int:
    """Deliver; return how many emails were tried."""
    return service.run(delivery.deliver)


def tidy(service: Service) -> None:
    service.run(lambda: list(queue.tidy()))


def retry(service: Service) -> int:
    return service.run(queue.retry)


def counts(service: Service) -> dict[str, int]:
    """Return the counts of the queue's status that are not zero."""
    with service.app.app_context():
        status = asdict(queue.status())
    return {name: count for name, count in status.items() if count and name != "oldest_seconds"}


def recipients(peer: MailServer) -> list[str]:
    return sorted(str(message["To"]) for message in peer.messages)


@contextmanager
def through(service: Service, peer: MailServer) -> Iterator[MailServer]:
    """Let an existing service send through another mail server."""
    mailer = service.app.extensions["mail"]
    with peer:
        service.mail_server, mailer.port = peer, peer.port
        yield peer


class Scripted(MailServer):
    """Asks a script how to reply to a stage: it returns a reply, None to accept, or HANG_UP to break the connection."""

    def __init__(self, script: Callable[[str, str], str | None], **options: Any) -> None:
        super().__init__(**options)
        self.script = script
        self.greeted_by = ""

    def _reply(self, server: SMTP, stage: str, address: str) -> str | None:
        reply = self.script(stage, address)
        if reply == HANG_UP:
            assert server.transport
            server.transport.abort()
        return reply

    async def handle_EHLO(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.greeted_by = hostname
        accepted = await super().handle_EHLO(server, session, envelope, hostname, responses)
        reply = self._reply(server, "EHLO", hostname)
        return [reply] if reply else accepted

    async def handle_HELO(self, server: SMTP, session: Session, envelope: Envelope, hostname: str) -> str:  # noqa: N802
        return self._reply(server, "EHLO", hostname) or hostname

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self._reply(server, "MAIL", address) or "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.refuse = self._reply(server, "RCPT", address)
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.refuse_data = self._reply(server, "DATA", envelope.rcpt_tos[0])
        reply = await super().handle_DATA(server, session, envelope)
        return self._reply(server, "ACCEPTED", envelope.rcpt_tos[0]) or reply if reply == "250 OK" else reply


HANG_UP = "421 gone"


def at(stage: str, reply: str, *addresses: str) -> Callable[[str, str], str | None]:
    """Return a script that sends a reply at one stage, for these addresses or for all."""
    return lambda at_stage, address: reply if at_stage == stage and (not addresses or address in addresses) else None


class Doorkeeper:
    """Accepts one user name and password, and records each attempt."""

    def __init__(self, *credentials: str) -> None:
        self.credentials, self.tried = credentials, list[tuple[str, ...]]()

    def __call__(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.tried.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.tried[-1] == self.credentials, handled=False)


@contextmanager
def mail_workers(count: int, folder: Path, database_url: str, port: int) -> Iterator[list[forking.Forked]]:
    """Run `tiles mail work` in separate processes."""
    variables = environment(folder, database_url=database_url, mail_server="127.0.0.1", mail_port=port)
    with Path(os.devnull).open("wb") as null:
        forks = [forking.start(["mail", "work"], variables, null, null) for _ in range(count)]
    workers = [worker for worker in forks if worker]
    assert len(workers) == count
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
