"""One session with the mail server: each reply has a deadline, and TLS trusts only the server that is meant."""

import io
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from backend.mail.refusals import Interrupted, Refused, Stage, UnknownFate, code_of

# RFC 5321 section 4.5.3.2: deadlines for a whole reply, however slowly its bytes arrive.
REPLY_SECONDS = 300.0
FINAL_REPLY_SECONDS = 600.0
# For connecting, TLS included.
CONNECT_SECONDS = 20.0
QUIT_SECONDS = 5.0
WAIT_SECONDS = 1.0
LONGEST_REPLY = 2**20

ACCEPTED, FORWARDED, START_DATA = 250, 251, 354


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts this machine's authorities, with TLS 1.2 at least (RFC 8996)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Replies(io.RawIOBase):
    """Bytes from a socket until a deadline. A socket's own timeout restarts with every byte."""

    def __init__(self, sock: socket.socket, waiting: Callable[[], None]) -> None:
        self._sock, self._waiting = sock, waiting

    def expect(self, seconds: float) -> None:
        self._deadline, self._bytes_left = time.monotonic() + seconds, LONGEST_REPLY

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while (seconds_left := self._deadline - time.monotonic()) > 0 and self._bytes_left > 0:
            self._sock.settimeout(min(seconds_left, WAIT_SECONDS))
            try:
                received = self._sock.recv_into(buffer)
            except TimeoutError:
                self._waiting()
            else:
                self._bytes_left -= received
                return received
        raise TimeoutError


class _Utf8(str):
    """Text that encodes itself as UTF-8, although smtplib asks for ASCII (RFC 4616 section 2)."""

    __slots__ = ()

    def encode(self, _encoding: str = "", errors: str = "strict") -> bytes:
        return super().encode("utf-8", errors)


class Session(smtplib.SMTP):
    """A session that calls `waiting` once a second while a reply is due."""

    command = ""
    awaits_fate = False
    """Whether the server has a whole email, and has not yet said whether it accepts it."""

    def __init__(self, host: str, port: int, *, waiting: Callable[[], None], **options: Any) -> None:
        """Connect, and read the greeting."""
        self._waiting, self._reply_seconds = waiting, REPLY_SECONDS
        super().__init__(host, port, timeout=CONNECT_SECONDS, **options)

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command, and remember which."""
        self.command = cmd
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply."""
        assert self.sock
        if self.file is None:
            self.file = io.BufferedReader(_Replies(self.sock, self._waiting))
        cast(_Replies, self.file.raw).expect(self._reply_seconds)
        try:
            reply = super().getreply()
        except Interrupted:
            self.close()
            raise
        self.sock.settimeout(CONNECT_SECONDS)
        return reply

    def login(self, user: str, password: str, *, initial_response_ok: bool = True) -> tuple[int, bytes]:
        """Sign in; the name and the password may hold any character."""
        return super().login(_Utf8(user), _Utf8(password), initial_response_ok=initial_response_ok)

    def auth(
        self, mechanism: str, authobject: Callable[..., str | None], *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Answer the challenges of one mechanism, in UTF-8."""

        def answer(*challenge: bytes) -> str | None:
            text = authobject(*challenge)
            return None if text is None else _Utf8(text)

        return super().auth(mechanism, cast(Any, answer), initial_response_ok=initial_response_ok)

    def data(self, msg: bytes) -> tuple[int, bytes]:  # type: ignore[override]
        """Send an email's content, and wait longer for the reply than for any other."""
        code, text = self.docmd("data")
        if code != START_DATA:
            self._drop()
            raise smtplib.SMTPDataError(code, text)
        assert self.sock
        self.sock.settimeout(REPLY_SECONDS)
        self.send(msg.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        self._reply_seconds, self.awaits_fate = FINAL_REPLY_SECONDS, True
        try:
            return self.getreply()
        except (OSError, Interrupted) as error:
            raise UnknownFate(code_of(error)) from None
        finally:
            self._reply_seconds, self.awaits_fate = REPLY_SECONDS, False

    def hand_over(self, sender: str, recipient: str, content: bytes) -> None:
        """Hand over an email.

        Raises:
            Refused: the server does not accept it.
            UnknownFate: the connection broke, and the server may have accepted it.
            OSError: the connection broke before the server had all of it.
        """
        try:
            self.sendmail(sender, [recipient], content)
        except smtplib.SMTPSenderRefused as error:
            raise Refused("MAIL", error.smtp_code, error.smtp_error) from None
        except smtplib.SMTPRecipientsRefused as error:
            raise Refused("RCPT", *error.recipients[recipient]) from None
        except smtplib.SMTPDataError as error:
            raise Refused("DATA", error.smtp_code, error.smtp_error) from None

    def probe(self, sender: str, recipient: str) -> None:
        """Ask whether the server accepts an email, and send none.

        Raises:
            Refused: it does not.
        """
        code, text = self.mail(sender)
        if code == ACCEPTED:
            code, text = self.rcpt(recipient)
        stage: Stage = "MAIL" if self.command == "mail" else "RCPT"
        self._drop()
        if code not in {ACCEPTED, FORWARDED}:
            raise Refused(stage, code, text)

    def _drop(self) -> None:
        """Drop an email that was begun. The next command notices a connection that breaks here."""
        with suppress(smtplib.SMTPServerDisconnected):
            self.rset()

    def leave(self) -> None:
        """Say goodbye, and wait a little for the reply."""
        self._reply_seconds = QUIT_SECONDS
        try:
            self.quit()
        except (OSError, Interrupted):
            self.close()


class SecureSession(Session, smtplib.SMTP_SSL):
    """A session that is TLS from the first byte; it takes a `context`."""
