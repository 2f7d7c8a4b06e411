"""How a mail leaves: over SMTP with a verified certificate, or, without a mail server, into a Maildir.

Flask-Mail alone opens STARTTLS and SMTPS without verifying the certificate and without a time-out.
"""

import quopri
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email import policy
from email.header import Header
from email.utils import formataddr, formatdate, parseaddr
from functools import cache, cached_property
from mailbox import Maildir

import flask_mail
from flask import Flask, current_app

from backend.config import settings
from backend.logs import say
from backend.mail.smtp import Interrupted, Refused, SecureSession, Session, code_of

MAILBOX = "mailbox"
SAID = "tiles.mail.said"
LINE_LENGTH = 76
LONGEST_PLAIN_NAME = 60
WHOLE = {"List-Unsubscribe", "To", "Message-ID"}
TEMPORARY_CODES = ("connection", "timeout", "disconnected", "smtp-4", "smtp--")

TROUBLES = {
    "certificate": (
        "its certificate is not trusted",
        "set TILES_MAIL_SERVER to a name in the certificate, or SSL_CERT_FILE to its authority",
    ),
    "tls": ("there is no TLS on this port", "TILES_MAIL_USE_SSL goes with port 465, TILES_MAIL_USE_TLS with 587"),
    "not": (
        "it offers no STARTTLS, or no way to sign in",
        "set what it offers: TILES_MAIL_USE_TLS, TILES_MAIL_USE_SSL",
    ),
    "no": ("it offers no way to sign in that this service knows", "let it offer PLAIN or LOGIN"),
    "smtp": (
        "it refuses this service or its mails",
        "its log says why: the sender's address, relaying, a quota, a policy or the content",
    ),
    "client": ("what was set cannot be used", "see the TILES_MAIL_ settings"),
    "internal": ("no email can be made", "see the TILES_MAIL_ settings, and the error in the log"),
}
NOT_LET_IN = (
    "it does not let us in",
    "set TILES_MAIL_USERNAME and TILES_MAIL_PASSWORD, or let this machine in there",
)
NOT_SIGNED_IN = {"smtp-530", "smtp-534", "smtp-535", "smtp-538"}
NO_ANSWER = ("it does not answer", "see that TILES_MAIL_SERVER and TILES_MAIL_PORT are right, and past every firewall")


class ServerUnavailable(Exception):
    """The mail server cannot be reached or trusted now: no mail is to blame.

    `code` says why without naming anybody.
    """

    def __init__(self, code: str) -> None:
        """Say why in a code that may be logged."""
        self.code = code
        super().__init__(code)

    @property
    def is_ours(self) -> bool:
        """Whether the operator has to change something, as waiting does not help."""
        return is_ours(self.code)


def is_ours(code: str) -> bool:
    """Tell whether the operator has to change something, as waiting does not help."""
    return not code.startswith(TEMPORARY_CODES)


def trouble(code: str) -> tuple[str, str]:
    """Return what is wrong with the mail server, and what to do about it."""
    return NOT_LET_IN if code in NOT_SIGNED_IN else TROUBLES.get(code.partition("-")[0], NO_ANSWER)


class _Policy(policy.Compat32):
    """Leaves a link in a header whole: Python would encode what exceeds a line, and no mail program decodes a link."""

    def fold_binary(self, name: str, value: str) -> bytes:
        fits = len(name) + len(value) < LINE_LENGTH and value.isascii() and value.isprintable()
        if fits or name in WHOLE:
            return f"{name}: {value}{self.linesep}".encode("ascii")
        return super().fold_binary(name, value)


POLICY = _Policy(linesep="\r\n", max_line_length=LINE_LENGTH - 1)


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
            "To": self.recipient,
            "Date": formatdate(self.date),
            "Message-ID": self.id,
            **self.extra_headers,
            "MIME-Version": "1.0",
            "Content-Type": f'multipart/alternative; boundary="{boundary}"',
        }
        if any(end in value for value in (self.sender, *headers.values()) for end in "\r\n"):
            raise flask_mail.BadHeaderError
        head = f"From: {written_sender(self.sender)[0]}\r\n".encode("ascii")
        head += b"".join(POLICY.fold_binary(name, value) for name, value in headers.items())
        parts = _part(boundary, "plain", self.body) + _part(boundary, "html", self.html)
        return head + b"\r\n" + parts + f"--{boundary}--\r\n".encode("ascii")


@cache
def written_sender(sender: str) -> tuple[str, str]:
    """Return who sends, as the header names them and as the mail server does: always the same."""
    name, address = parseaddr(sender)
    if name.isascii() and len(name) <= LONGEST_PLAIN_NAME and "=?" not in name:
        return formataddr((name, address)), address
    # The address follows on a line of its own: Python would measure and fold both as one.
    encoded = Header(name, "utf-8", maxlinelen=LINE_LENGTH - 1, header_name="From").encode(linesep="\r\n")
    return f"{encoded}\r\n <{address}>", address


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


class _Connection(flask_mail.Connection):
    def __init__(self, waiting: Callable[[], None]) -> None:
        super().__init__(current_app.extensions["mail"])
        self._waiting = waiting

    def configure_host(self) -> Session:
        host: Session
        mail, own_name = self.mail, settings().mail_host
        if mail.use_ssl:
            host = SecureSession(
                mail.server, mail.port, own_name=own_name, waiting=self._waiting, context=_tls_context()
            )
        else:
            host = Session(mail.server, mail.port, own_name=own_name, waiting=self._waiting)
        try:
            if mail.use_tls:
                host.starttls(context=_tls_context())
            host.ehlo_or_helo_if_needed()
            if mail.username and mail.password:
                host.login(mail.username, mail.password)
        except BaseException:
            host.close()
            raise
        return host


def _no_wait() -> None:
    pass


class Courier:
    """Hands mails over: one connection for many, opened when first needed and anew after it broke."""

    def __init__(self, waiting: Callable[[], None] = _no_wait) -> None:
        """Open nothing yet; call `waiting` once a second while the server owes a reply."""
        self._waiting = waiting
        self._session: Session | None = None
        self._is_fresh = True

    @property
    def awaits_fate(self) -> bool:
        """Whether the server has all of a mail, and has not said whether it takes it."""
        return self._session is not None and self._session.awaits_fate

    def open(self) -> Session | None:
        """Return a session with the mail server, if there is one.

        Raises:
            ServerUnavailable: there is no trusted connection to be had now.
        """
        # smtplib closes its socket by itself after a 421.
        if self._session is not None and self._session.sock is None:
            self._session = None
        if self._session is not None or settings().mail_server is None:
            return self._session
        try:
            self._session = _Connection(self._waiting).configure_host()
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - smtplib and ssl raise more than they document
            raise ServerUnavailable(code_of(error)) from None
        self._is_fresh = True
        return self._session

    def send(self, message: Message) -> None:
        """Hand one mail over; it has left when this returns.

        A server that ends a session after some mails gets the next one in a new session.

        Raises:
            ServerUnavailable: there is no trusted connection to be had now, or the server refuses us as a sender.
            Refused: the server did not take this mail.
            UnknownFate: the server may have taken it.
            OSError: the connection broke before the server had it.
        """
        try:
            self._hand_over(message)
        except (Refused, OSError) as error:
            ends = error.ends_the_session if isinstance(error, Refused) else True
            if not ends or self._is_fresh:
                raise
            self.close()
            self._hand_over(message)
        finally:
            self._is_fresh = False

    def _hand_over(self, message: Message) -> None:
        session = self.open()
        if session is None:
            _keep(message)
            return
        try:
            session.hand_over(written_sender(message.sender)[1], message.recipient, message.content)
        except OSError as error:
            session.close()
            if session.stage == "MAIL" and self._is_fresh:
                raise ServerUnavailable(code_of(error)) from None
            raise
        except Refused as error:
            if error.stage == "MAIL" and (error.is_permanent or self._is_fresh):
                raise ServerUnavailable(error.code) from None
            raise

    def probe(self, message: Message) -> None:
        """Go as far as a mail goes without being sent.

        Raises:
            ServerUnavailable, Refused, OSError: as `send` does.
        """
        if session := self.open():
            session.ask(written_sender(message.sender)[1], message.recipient, len(message.content))
            session.reset()

    def close(self) -> None:
        """Take leave of the server, if there is one on the line."""
        session, self._session = self._session, None
        if session is not None and session.sock is not None:
            session.leave()


def _keep(message: Message) -> None:
    """Without a mail server: keep the mail in the instance folder and show it in the terminal."""
    Maildir(settings().instance_path / MAILBOX).add(message.content)
    say(f"\n--- mail to {message.recipient}: {message.subject} ---\n\n{message.body}\n---\n")


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
    app.extensions[SAID] = {}
