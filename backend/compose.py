"""What each mail says: looked up, given its token and written down in the moment in which it is sent."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parseaddr
from typing import Any, Literal

from email_validator import validate_email
from flask import render_template
from sqlalchemy import ColumnElement, select

from backend import clock, tokens
from backend.config import SERVICE, settings
from backend.db import AnyRow, reading
from backend.models import Account
from backend.tokens import LIFETIMES, Purpose
from backend.transport import Message

Kind = Literal["registration", "password_reset", "password_changed"]


def compose(mail: AnyRow) -> Message | None:
    """Return the mail that a row of the queue stands for; None where there is nobody to send it to."""
    draft = _COMPOSE[mail.kind](mail)
    return _render(draft, mail.id) if draft else None


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail as composed: to whom, which template, and what the template needs."""

    recipient: str
    template: str
    context: dict[str, Any]


def _link(page: str, purpose: Purpose, token: str) -> dict[str, Any]:
    hours = int(LIFETIMES[purpose].total_seconds() // 3600)
    return {"link": f"{settings().public_url}/{page}#{token}", "token": token, "hours": hours}


def _account(condition: ColumnElement[bool]) -> AnyRow | None:
    columns = (Account.id, Account.email, Account.closed_at, Account.credentials_id)
    with reading() as session:
        return session.execute(select(*columns).where(condition)).one_or_none()


def _reset_link(account: AnyRow) -> dict[str, Any]:
    token = tokens.issue_for(Purpose.PASSWORD_RESET, account)
    return _link("password-reset", Purpose.PASSWORD_RESET, token)


def _registration(mail: AnyRow) -> Draft:
    if account := _account(Account.is_open_with(mail.email)):
        return Draft(account.email, "registration_existing", _reset_link(account))
    # The row's random id becomes the account's: a second use of the link, or of a repeat of it, finds it taken.
    content = {"account": str(mail.id), "name": mail.name, "email": mail.email}
    token = tokens.issue(Purpose.REGISTRATION, content)
    return Draft(mail.email, "registration", _link("registration", Purpose.REGISTRATION, token))


def _password_reset(mail: AnyRow) -> Draft | None:
    account = _account(Account.is_open_with(mail.email))
    # To the address as registered, never as typed: two that look alike may be two mailboxes (CVE-2019-19844).
    return Draft(account.email, "password_reset", _reset_link(account)) if account else None


def _password_changed(mail: AnyRow) -> Draft | None:
    account = _account(Account.id == mail.account_id)
    context = {"reset_url": f"{settings().public_url}/password-reset"}
    return Draft(account.email, "password_changed", context) if account else None


_COMPOSE: dict[Kind, Callable[[AnyRow], Draft | None]] = {
    "registration": _registration,
    "password_reset": _password_reset,
    "password_changed": _password_changed,
}


def _render(draft: Draft, mail_id: uuid.UUID) -> Message:
    shared = {
        "service": SERVICE,
        "public_url": settings().public_url,
        "support_email": settings().support_email,
    }
    context = {**shared, **draft.context}
    subject, _, body = render_template(f"mail/{draft.template}.txt", **context).partition("\n")
    recipient = validate_email(draft.recipient, check_deliverability=False, test_environment=True)
    message = Message(
        subject=subject.removeprefix("Subject:").strip(),
        # Flask-Mail would write an international domain by the older of the two standards.
        recipients=[recipient.ascii_email or draft.recipient],
        body=body.lstrip("\n"),
        html=render_template(f"mail/{draft.template}.html", **context),
        sender=settings().sender,
        date=clock.now().timestamp(),
        extra_headers={"Auto-Submitted": "auto-generated"},
    )
    host = parseaddr(settings().sender)[1].rpartition("@")[2]
    # The same on every try, so that a repeat is known as one; a digest, as the row's id may become an account's.
    message.msgId = f"<{hashlib.sha256(mail_id.bytes).hexdigest()[:32]}@{host}>"
    return message
