"""The real peers of the service, and what they heard."""

import logging
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

T = TypeVar("T")

# The mail server's own log names everybody, and no test reads it.
logging.getLogger("mail.log").propagate = False


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(find: Callable[[], T | None], seconds: float = 60) -> T:
    """Return the first true result of `find`; fail after the timeout."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := find():
            return result
        time.sleep(0.05)
    raise AssertionError(f"no result within {seconds} s")


class MailServer:
    """A real SMTP server on loopback that keeps the emails. `refuse` replaces its reply to RCPT."""

    def __init__(self, **options: Any) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self.messages: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.connections = 0
        self.refuse: str | None = None
        self.refuse_data: str | None = None
        self._controller = Controller(self, hostname=self.host, port=self.port, **options)

    async def handle_EHLO(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refuse_data:
            return self.refuse_data
        content = envelope.content
        assert isinstance(content, bytes)
        self.envelopes.append(envelope)
        self.messages.append(message_from_bytes(content, policy=policy.default))
        return "250 OK"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._controller.stop()


class RedisServer:
    """A real Redis server on loopback, without a disk; `stop` and `start` simulate an outage."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL,
        )
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.stop()


def text_of(message: EmailMessage) -> str:
    """Return a mail's text part."""
    part = message.get_body(("plain",))
    assert part is not None
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


def html_of(message: EmailMessage) -> str:
    """Return a mail's HTML part."""
    part = message.get_body(("html",))
    assert part is not None
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


def token_of(message: EmailMessage) -> str:
    """Return the token in the link that stands alone on a line of a mail's text."""
    link = re.search(r"^https?://\S+/[a-z-]+#(\S+)$", text_of(message), re.MULTILINE)
    assert link, text_of(message)
    return link.group(1)


def client_context(certificate_authority: Path) -> ssl.SSLContext:
    """Return a TLS context that trusts one authority only."""
    return ssl.create_default_context(cafile=str(certificate_authority))
