"""How a mail leaves: over SMTP with a verified certificate, or, without a mail server, into a Maildir.

Flask-Mail alone opens STARTTLS and SMTPS without verifying the certificate and without a time-out.
"""

import quopri
import secrets
import smtplib
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email import policy
from email.utils import formatdate, parseaddr
from functools import cache, cached_property
from mailbox import Maildir

import flask_mail
from flask import Flask, current_app

from backend.config import settings
from backend.logs import say

# Content filters think for some seconds before they take a mail; a slower server is sent the mail twice.
SMTP_SECONDS = 20.0
MAILBOX = "mailbox"
LINE_LENGTH = 76


class ServerUnavailable(Exception):
    """The mail server cannot be reached or trusted now: no mail is to blame.

    `code` says why without naming anybody.
    """

    def __init__(self, code: str) -> None:
        """Say why in a code that may be logged."""
        self.code = code
        super().__init__(code)


class _Policy(policy.Compat32):
    """Leaves a link in a header whole: Python would encode what exceeds a line, and no mail program decodes a link."""

    def fold_binary(self, name: str, value: str) -> bytes:
        fits = len(name) + len(value) < LINE_LENGTH and value.isascii() and value.isprintable()
        if fits or name == "List-Unsubscribe":
            return f"{name}: {value}{self.linesep}".encode("ascii")
        return super().fold_binary(name, value)


POLICY = _Policy(linesep="\r\n")


@dataclass(frozen=True, repr=False)
class Message:
    """A mail whose lines stay within what SMTP allows, however long a link is (RFC 5321 section 4.5.3.1.6).

    A text and the same as HTML, in quoted-printable (RFC 2046 section 5.1.4). Flask-Mail's own would ask for this
    machine's name, over a network perhaps, wrap the two parts once more, and have each header parsed as if a stranger
    had written it, which takes longer than all else about a mail. `date` is in seconds since the epoch.
    """

    id: str
    sender: str
    recipient: str
    date: float
    subject: str
    body: str
    html: str
    extra_headers: Mapping[str, str]

    @cached_property
    def content(self) -> bytes:
        """What is handed to the mail server, made once.

        Raises:
            BadHeaderError: a header would be more than one line.
        """
        boundary = secrets.token_hex(16)
        headers = {
            "Subject": self.subject,
            "From": _sender(self.sender)[0],
            "To": self.recipient,
            "Date": formatdate(self.date),
            "Message-ID": self.id,
            **self.extra_headers,
            "MIME-Version": "1.0",
            "Content-Type": f'multipart/alternative; boundary="{boundary}"',
        }
        if any(end in value for value in (self.sender, *headers.values()) for end in "\r\n"):
            raise flask_mail.BadHeaderError
        head = b"".join(POLICY.fold_binary(name, value) for name, value in headers.items())
        parts = _part(boundary, "plain", self.body) + _part(boundary, "html", self.html)
        return head + b"\r\n" + parts + f"--{boundary}--\r\n".encode("ascii")


@cache
def _sender(sender: str) -> tuple[str, str]:
    """Return who sends, as a header names him and as the mail server does: always the same."""
    return flask_mail.sanitize_address(sender), flask_mail.sanitize_address(parseaddr(sender)[1])


def _part(boundary: str, subtype: str, text: str) -> bytes:
    head = (
        f'--{boundary}\r\nContent-Type: text/{subtype}; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    body = quopri.encodestring(text.encode())
    return head.encode("ascii") + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"


def _tls_context() -> ssl.SSLContext:
    """Return what trusts whom this machine trusts now; to read all their certificates takes 30 ms."""
    context = ssl.create_default_context()
    # Whatever this machine's OpenSSL was told to put up with (RFC 8996).
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _SMTP(flask_mail.Connection):
    def configure_host(self) -> smtplib.SMTP:
        host: smtplib.SMTP
        if self.mail.use_ssl:
            host = smtplib.SMTP_SSL(self.mail.server, self.mail.port, timeout=SMTP_SECONDS, context=_tls_context())
        else:
            host = smtplib.SMTP(self.mail.server, self.mail.port, timeout=SMTP_SECONDS)
        try:
            if self.mail.use_tls:
                host.starttls(context=_tls_context())
            host.ehlo_or_helo_if_needed()
            if self.mail.username and self.mail.password:
                host.login(self.mail.username, self.mail.password)
        except BaseException:
            host.close()
            raise
        return host

    def hand_over(self, message: Message) -> None:
        """Hand over a message whose addresses are written as they are to be: Flask-Mail would parse each four times."""
        assert self.host is not None
        self.host.sendmail(_sender(message.sender)[1], [message.recipient], message.content)


class Courier:
    """Hands mails over: one connection for many, opened when first needed and anew after it broke."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._connection: _SMTP | None = None

    def open(self) -> None:
        """Have a connection, if there is a mail server.

        Raises:
            ServerUnavailable: there is no trusted connection to be had now.
        """
        # smtplib closes its socket by itself after a 421.
        if self._connection is not None and (host := self._connection.host) and host.sock is None:
            self._connection = None
        if self._connection is not None or settings().mail_server is None:
            return
        connection = _SMTP(current_app.extensions["mail"])
        try:
            connection.__enter__()
        except (OSError, smtplib.SMTPException) as error:
            raise ServerUnavailable(code_of(error)) from None
        self._connection = connection

    def send(self, message: Message) -> None:
        """Hand one mail over; it has left when this returns.

        Raises:
            ServerUnavailable: there is no trusted connection to be had now, or the server refuses us as a sender.
            OSError, smtplib.SMTPException: the server did not take this mail.
        """
        self.open()
        if self._connection is None:
            _keep(message)
            return
        try:
            self._connection.hand_over(message)
        except smtplib.SMTPSenderRefused as error:
            self.close()
            raise ServerUnavailable(code_of(error)) from None
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException):
            raise
        except OSError:  # among them every other SMTPException
            self.close()
            raise

    def close(self) -> None:
        """Take leave of the server, if there is one on the line."""
        connection, self._connection = self._connection, None
        if connection is None or connection.host is None:
            return
        with suppress(OSError):
            connection.host.quit()
        connection.host.close()


def _keep(message: Message) -> None:
    """Without a mail server: keep the mail in the instance folder and show it in the terminal."""
    Maildir(settings().instance_path / MAILBOX).add(message.content)
    say(f"\n--- mail to {message.recipient}: {message.subject} ---\n\n{message.body}\n---\n")


def reply_of(error: smtplib.SMTPRecipientsRefused | smtplib.SMTPResponseException) -> int:
    """Return the server's reply code; from 500 on it is for good (RFC 5321 section 4.2.1)."""
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code
    return max(code for code, _ in error.recipients.values())


def code_of(error: OSError | smtplib.SMTPException) -> str:  # noqa: PLR0911 - a table
    """Return why a mail server did not take something, as a code: no text of the server, which may name people."""
    if isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(error.__context__, TimeoutError):
        return "timeout"
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate-{error.verify_code}"
        case ssl.SSLError():
            return "tls"
        case TimeoutError():
            return "timeout"
        case smtplib.SMTPRecipientsRefused() | smtplib.SMTPResponseException():
            return f"smtp-{reply_of(error)}"
        case smtplib.SMTPNotSupportedError():
            return "not-supported"
        case smtplib.SMTPServerDisconnected():
            return "disconnected"
        case ConnectionRefusedError():
            return "connection-refused"
        case _:
            return "connection"


def init_app(app: Flask) -> None:
    """Tell Flask-Mail where the mail server is."""
    with app.app_context():
        given = settings()
    app.config.update(
        MAIL_SERVER=given.mail_server or "",
        MAIL_PORT=given.smtp_port,
        MAIL_USE_TLS=given.mail_use_tls,
        MAIL_USE_SSL=given.mail_use_ssl,
        MAIL_USERNAME=given.mail_username,
        MAIL_PASSWORD=given.mail_password.get_secret_value() if given.mail_password else None,
        MAIL_DEFAULT_SENDER=given.sender,
        MAIL_DEBUG=False,
        MAIL_SUPPRESS_SEND=False,
    )
    flask_mail.Mail(app)
