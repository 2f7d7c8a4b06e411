"""How emails leave: over SMTP or, without a mail server, into a Maildir.

Flask-Mail alone opens STARTTLS and SMTPS without verifying the certificate and without a timeout.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from mailbox import Maildir
from typing import Any

import flask_mail
from flask import Flask, current_app

from backend.config import settings
from backend.logs import say
from backend.mail.composing import written_sender
from backend.mail.refusals import Interrupted, Refused, ServerUnavailable, code_of
from backend.mail.smtp import SecureSession, Session, tls_context

MAILBOX = "mailbox"
TOO_LARGE = 552


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """An email that is ready to leave. It has no `repr`, so that no log shows its text by accident."""

    recipient: str
    subject: str
    text: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """The content of an email before rendering: recipient, template, the template's values, and more headers."""

    recipient: str
    template: str
    context: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class Connection(flask_mail.Connection):
    """Hands emails over: one session for many, opened when first needed and again after it broke."""

    def __init__(self, waiting: Callable[[], None] | None = None) -> None:
        """Open nothing yet; call `waiting` once a second while the server owes a reply."""
        super().__init__(current_app.extensions["mail"])
        self._waiting = waiting or (lambda: None)
        self._session: Session | None = None
        self._is_fresh = True
        self._sender = written_sender(settings().sender)[1]

    @property
    def awaits_fate(self) -> bool:
        """Whether the server has a whole email, and has not yet said whether it accepts it."""
        return self._session is not None and self._session.awaits_fate

    def configure_host(self) -> Session:
        """Connect, over TLS where the settings ask for it, and sign in."""
        mail = self.mail
        options: dict[str, Any] = {"local_hostname": settings().mail_host, "waiting": self._waiting}
        session: Session
        if mail.use_ssl:
            session = SecureSession(mail.server, mail.port, context=tls_context(), **options)
        else:
            session = Session(mail.server, mail.port, **options)
        try:
            if mail.use_tls:
                session.starttls(context=tls_context())
            session.ehlo_or_helo_if_needed()
            if mail.username and mail.password:
                session.login(mail.username, mail.password)
        except BaseException:
            session.close()
            raise
        return session

    def open(self) -> Session | None:
        """Return a session with the mail server; None where no server is set.

        Raises:
            ServerUnavailable: no trusted connection can be made now.
        """
        # smtplib closes its socket by itself after a 421.
        if settings().mail_server is None or (self._session is not None and self._session.sock is not None):
            return self._session
        try:
            self._session = self.configure_host()
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - smtplib and ssl raise more than they document
            raise ServerUnavailable(code_of(error)) from None
        self._is_fresh = True
        return self._session

    def hand_over(self, message: Message) -> None:
        """Hand one email over; it has left when this returns.

        A server that ends a session after some emails gets the next one in a new session.

        Raises:
            ServerUnavailable: no trusted connection can be made now, or the server refuses us as a sender.
            Refused, UnknownFate, OSError: as `Session.hand_over` does.
        """
        try:
            self._hand_over(message)
        except (Refused, OSError) as error:
            ends_the_session = not isinstance(error, Refused) or error.ends_the_session
            if self._is_fresh or not ends_the_session:
                raise
            self.close()
            self._hand_over(message)
        finally:
            self._is_fresh = False

    def _hand_over(self, message: Message) -> None:
        session = self.open()
        if session is None:
            _keep_in_mailbox(message)
            return
        try:
            session.hand_over(self._sender, message.recipient, message.content)
        except OSError as error:
            session.close()
            if session.command == "mail" and self._is_fresh:
                raise ServerUnavailable(code_of(error)) from None
            raise
        except Refused as error:
            # 552 is about this email's size (RFC 1870 section 6.1).
            if error.stage == "MAIL" and error.reply != TOO_LARGE and (error.is_permanent or self._is_fresh):
                raise ServerUnavailable(error.code) from None
            raise

    def probe(self, message: Message) -> None:
        """Offer an email, and send none.

        Raises:
            ServerUnavailable, Refused, OSError: as `hand_over` does.
        """
        if session := self.open():
            session.probe(self._sender, message.recipient)

    def close(self) -> None:
        """End the session, if there is one."""
        session, self._session = self._session, None
        if session is not None and session.sock is not None:
            session.leave()


def _keep_in_mailbox(message: Message) -> None:
    """Keep the email in the instance folder, and show it in the terminal."""
    Maildir(settings().instance_path / MAILBOX).add(message.content)
    say(f"\n--- email to {message.recipient}: {message.subject} ---\n\n{message.text}\n---\n")


def init_app(app: Flask) -> None:
    """Configure Flask-Mail."""
    with app.app_context():
        config = settings()
    app.config.update(
        MAIL_SERVER=config.mail_server or "",
        MAIL_PORT=config.smtp_port,
        MAIL_USE_TLS=config.mail_use_tls,
        MAIL_USE_SSL=config.mail_use_ssl,
        MAIL_USERNAME=config.mail_username,
        MAIL_PASSWORD=config.mail_password.get_secret_value() if config.mail_password else None,
        MAIL_DEFAULT_SENDER=config.sender,
    )
    flask_mail.Mail(app)
