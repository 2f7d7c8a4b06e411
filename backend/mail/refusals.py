"""The failures of sending: by the mailbox, by the mail server for now, or for the operator to resolve."""

import re
import smtplib
import ssl
from typing import Literal

CLOSING, TOO_MANY, PERMANENT = 421, 452, 500
# Replies to RCPT that mean an unknown mailbox, but that servers also send to a client that may not relay.
NO_MAILBOX = {550, 553}
# RFC 3463: 5.1.x and 5.2.x are about the mailbox. Of these, 5.1.7 and 5.1.8 are about the sender's address and 5.2.3 is
# about the email's length. A full mailbox (5.2.2) is the recipient's; our own quota at a relay is 5.4.x or 5.7.x.
ENHANCED_CODE = re.compile(r"\s*(5\.\d{1,3}\.\d{1,3})(?!\S)")
MAILBOX_CODE = re.compile(r"5\.[12]\.\d+")
NOT_THE_MAILBOX = {"5.1.7", "5.1.8", "5.2.3"}

Stage = Literal["MAIL", "RCPT", "DATA"]


class NotSent(Exception):
    """An email was not sent."""

    @property
    def code(self) -> str:
        """Why, as a code that may be logged: the server's own text may name people."""
        return str(self.args[0])


class ServerUnavailable(NotSent):
    """The mail server cannot be reached or trusted now: no email is to blame."""


class UnknownFate(NotSent):
    """The connection broke after the whole email was sent: the server may have accepted it."""


class Interrupted(NotSent):
    """The worker stops, and no longer waits for the reply."""


class Refused(NotSent):
    """The mail server refused an email: at which command, with which reply and enhanced status code (or "")."""

    def __init__(self, stage: Stage, reply: int, text: bytes | str) -> None:
        """Read the reply."""
        super().__init__(f"smtp-{reply}")
        status = ENHANCED_CODE.match(text if isinstance(text, str) else text.decode("latin-1"))
        self.stage, self.reply, self.status = stage, reply, status[1] if status else ""

    @property
    def is_permanent(self) -> bool:
        """Whether the same email will be refused again (RFC 5321 section 4.2.1)."""
        return self.reply >= PERMANENT

    @property
    def names_the_mailbox(self) -> bool:
        """Whether the mailbox is the reason, and not the sender, the content or the size."""
        is_mailbox = bool(MAILBOX_CODE.fullmatch(self.status)) and self.status not in NOT_THE_MAILBOX
        return self.is_permanent and self.stage != "MAIL" and is_mailbox

    @property
    def may_mean_the_mailbox(self) -> bool:
        """Whether the mailbox is the reason if the server accepts other recipients."""
        return self.stage == "RCPT" and not self.status and self.reply in NO_MAILBOX

    @property
    def ends_the_session(self) -> bool:
        """Whether the server may accept the same email in another session."""
        return self.reply in {CLOSING, TOO_MANY} or (self.stage == "MAIL" and not self.is_permanent)


_CODES: tuple[tuple[type[Exception], str], ...] = (
    (ssl.SSLError, "tls"),
    (TimeoutError, "timeout"),
    (smtplib.SMTPNotSupportedError, "not-supported"),
    (smtplib.SMTPServerDisconnected, "disconnected"),
    (ConnectionRefusedError, "connection-refused"),
    (smtplib.SMTPException, "no-sign-in"),
    (OSError, "connection"),
)


def code_of(error: Exception) -> str:
    """Return why an email was not sent, as a code that may be logged."""
    if isinstance(error, NotSent):
        return error.code
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate-{error.verify_code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"smtp-{error.smtp_code}"
    if isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(error.__context__, TimeoutError):
        return "timeout"
    return next((code for kind, code in _CODES if isinstance(error, kind)), f"client-{type(error).__name__}")


def needs_operator(code: str) -> bool:
    """Return whether the operator has to change something, because waiting does not help."""
    return not code.startswith(("connection", "timeout", "disconnected", "smtp-4", "smtp--"))


_NOT_SIGNED_IN = {"smtp-530", "smtp-534", "smtp-535", "smtp-538"}
_ADVICE = {
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
        "it refuses this service or its emails",
        "its log says why: the sender's address, relaying, a quota, a policy or the content",
    ),
    "client": ("a setting cannot be used", "see the TILES_MAIL_ settings"),
    "internal": ("no email can be made", "see the TILES_MAIL_ settings, and the error in the log"),
}


def explain(code: str) -> tuple[str, str]:
    """Return the fault of the mail server, and the advice for the operator."""
    if code in _NOT_SIGNED_IN:
        return "it does not let us in", "set TILES_MAIL_USERNAME and TILES_MAIL_PASSWORD, or let this machine in there"
    no_answer = "it does not answer", "check TILES_MAIL_SERVER and TILES_MAIL_PORT, and every firewall on the way"
    return _ADVICE.get(code.partition("-")[0], no_answer)
