"""One session with the mail server: deadlines for its replies, signing in, and what a refusal is about."""

import io
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

# RFC 5321 section 4.5.3.2: deadlines for a whole reply, however slowly its bytes arrive.
REPLY_SECONDS = 300.0
FINAL_REPLY_SECONDS = 600.0
# Until there is a connection, which is TLS where it has to be.
CONNECT_SECONDS = 20.0
QUIT_SECONDS = 5.0
WAIT_SECONDS = 1.0
LONGEST_REPLY = 2**20

TAKEN, FORWARDED, START_DATA, CLOSING, TOO_MANY, PERMANENT = 250, 251, 354, 421, 452, 500
NO_MAILBOX = {550, 553}
"""Replies to RCPT that name no mailbox, but also what servers say to a client that may not relay."""
# RFC 3463: 5.1.x and 5.2.x speak of the mailbox. Of these, 5.1.7 and 5.1.8 speak of the sender's address and 5.2.3 of
# the email's length. A full mailbox (5.2.2) is the recipient's to mend; our own quota at a relay is 5.4.x or 5.7.x.
ENHANCED_CODE = re.compile(rb"\s*(5\.\d{1,3}\.\d{1,3})(?!\S)")
MAILBOX_CODE = re.compile(r"5\.[12]\.\d+")
NOT_THE_MAILBOX = {"5.1.7", "5.1.8", "5.2.3"}

Stage = Literal["MAIL", "RCPT", "DATA"]


@dataclass(eq=False)
class Refused(Exception):
    """The mail server did not take an email: its reply code, the enhanced status code (or ""), and to which command."""

    stage: Stage
    reply: int
    status: str

    @property
    def code(self) -> str:
        """The reason, as a code that may be logged: no text of the server, which may name people."""
        return f"smtp-{self.reply}"

    @property
    def is_permanent(self) -> bool:
        """Whether the same email will be refused again (RFC 5321 section 4.2.1)."""
        return self.reply >= PERMANENT

    @property
    def names_the_mailbox(self) -> bool:
        """Whether the mailbox is the reason, and not who sends, what, or how much."""
        is_code = MAILBOX_CODE.fullmatch(self.status) and self.status not in NOT_THE_MAILBOX
        return self.is_permanent and self.stage != "MAIL" and bool(is_code)

    @property
    def may_mean_the_mailbox(self) -> bool:
        """Whether the mailbox is the reason, provided that the server takes other recipients."""
        return self.stage == "RCPT" and not self.status and self.reply in NO_MAILBOX

    @property
    def ends_the_session(self) -> bool:
        """Whether the server may take the same email in another session."""
        return self.reply in {CLOSING, TOO_MANY} or (self.stage == "MAIL" and not self.is_permanent)


class UnknownFate(Exception):
    """The connection broke after the whole email was sent: the server may have taken it."""

    def __init__(self, code: str) -> None:
        """Take the reason, as a code that may be logged."""
        self.code = code
        super().__init__(code)


class Interrupted(Exception):
    """Raised by `waiting`: nobody waits for the reply any more."""


class _Replies(io.RawIOBase):
    """What a socket receives until a deadline. A socket's own timeout begins anew with every byte."""

    def __init__(self, sock: socket.socket, waiting: Callable[[], None]) -> None:
        self._sock, self._waiting = sock, waiting

    def expect(self, seconds: float) -> None:
        """Begin the next reply."""
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
    """Text that encodes itself as UTF-8, though smtplib asks for ASCII (RFC 4616 section 2)."""

    __slots__ = ()

    def encode(self, _encoding: str = "", errors: str = "strict") -> bytes:
        return super().encode("utf-8", errors)


class Session(smtplib.SMTP):
    """A session whose replies have deadlines. It calls `waiting` once a second while a reply is due."""

    waiting: Callable[[], None]
    reply_seconds: float
    stage: Stage = "MAIL"
    awaits_fate: bool = False
    """Whether the server has all of an email, and has not said whether it takes it."""

    def __init__(self, host: str, port: int, *, own_name: str, waiting: Callable[[], None]) -> None:
        """Connect, and read the greeting."""
        self.waiting, self.reply_seconds = waiting, REPLY_SECONDS
        super().__init__(host, port, local_hostname=own_name, timeout=CONNECT_SECONDS)

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply."""
        assert self.sock
        if self.file is None:
            self.file = io.BufferedReader(_Replies(self.sock, self.waiting))
        cast(_Replies, self.file.raw).expect(self.reply_seconds)
        try:
            reply = super().getreply()
        except Interrupted:
            self.close()
            raise
        self.sock.settimeout(CONNECT_SECONDS)
        return reply

    def auth_plain(self, challenge: bytes | None = None) -> str:  # type: ignore[override]
        """Answer a challenge of PLAIN."""
        return _Utf8(super().auth_plain(challenge))

    def auth_cram_md5(self, challenge: bytes | None = None) -> str | None:  # type: ignore[override]
        """Answer a challenge of CRAM-MD5."""
        return None if challenge is None else _Utf8(super().auth_cram_md5(challenge))

    def login(self, user: str, password: str, *, initial_response_ok: bool = True) -> tuple[int, bytes]:
        """Sign in, also with a name and a password beyond ASCII."""
        return super().login(_Utf8(user), _Utf8(password), initial_response_ok=initial_response_ok)

    def ask(self, sender: str, recipient: str, size: int) -> None:
        """Ask whether the server takes an email of so many bytes from one address for another.

        Raises:
            Refused: it does not.
            OSError: the connection broke.
        """
        options = [f"size={size}"] if self.has_extn("size") else []
        self.stage = "MAIL"
        self._expect(self.mail(sender, options), TAKEN)
        self.stage = "RCPT"
        self._expect(self.rcpt(recipient), TAKEN, FORWARDED)

    def hand_over(self, sender: str, recipient: str, content: bytes) -> None:
        """Hand over an email.

        Raises:
            Refused: the server does not take it.
            UnknownFate: the connection broke, and the server may have taken it.
            OSError: the connection broke before the server had all of it.
        """
        self.ask(sender, recipient, len(content))
        self.stage = "DATA"
        self._expect(self.docmd("data"), START_DATA)
        if self.sock:
            self.sock.settimeout(REPLY_SECONDS)
        self.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        self.reply_seconds, self.awaits_fate = FINAL_REPLY_SECONDS, True
        try:
            reply = self.getreply()
        except (OSError, Interrupted) as error:
            raise UnknownFate(code_of(error)) from None
        finally:
            self.reply_seconds, self.awaits_fate = REPLY_SECONDS, False
        self._expect(reply, TAKEN)

    def _expect(self, reply: tuple[int, bytes], *wanted: int) -> None:
        code, text = reply
        if code in wanted:
            return
        if code == CLOSING:
            self.close()
        else:
            self.reset()
        status = ENHANCED_CODE.match(text)
        raise Refused(self.stage, code, status[1].decode("ascii") if status else "")

    def reset(self) -> None:
        """Let go of an email that was begun; where the connection breaks meanwhile, the next one finds out."""
        try:
            self.rset()
        except smtplib.SMTPServerDisconnected:
            self.close()

    def leave(self) -> None:
        """Take leave, and wait a little for the server to say so."""
        self.reply_seconds = QUIT_SECONDS
        try:
            self.quit()
        except (OSError, Interrupted):
            self.close()


class SecureSession(Session, smtplib.SMTP_SSL):
    """A session that is TLS from the first byte."""

    def __init__(
        self, host: str, port: int, *, own_name: str, waiting: Callable[[], None], context: ssl.SSLContext
    ) -> None:
        """Connect, trust nobody but the server that was meant, and read the greeting."""
        self.waiting, self.reply_seconds = waiting, REPLY_SECONDS
        smtplib.SMTP_SSL.__init__(self, host, port, local_hostname=own_name, timeout=CONNECT_SECONDS, context=context)


def code_of(error: Exception) -> str:  # noqa: C901, PLR0911 - a table
    """Return why a mail server did not take something, as a code: no text of the server, which may name people."""
    if isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(error.__context__, TimeoutError):
        return "timeout"
    match error:
        case Refused():
            return error.code
        case ssl.SSLCertVerificationError():
            return f"certificate-{error.verify_code}"
        case ssl.SSLError():
            return "tls"
        case TimeoutError() | Interrupted():
            return "timeout"
        case smtplib.SMTPResponseException():
            return f"smtp-{error.smtp_code}"
        case smtplib.SMTPNotSupportedError():
            return "not-supported"
        case smtplib.SMTPServerDisconnected():
            return "disconnected"
        case ConnectionRefusedError():
            return "connection-refused"
        case smtplib.SMTPException():
            return "no-sign-in"
        case OSError():
            return "connection"
        case _:
            return f"client-{type(error).__name__}"
