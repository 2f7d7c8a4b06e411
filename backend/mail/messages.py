"""The content of each kind of email. The account is read, and the token is made, when the email is sent."""

import hashlib
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from email.utils import formatdate, parseaddr
from functools import cache
from pathlib import Path
from typing import Any, Literal

from email_validator import validate_email
from jinja2 import Environment, FileSystemLoader, select_autoescape
from sqlalchemy import ColumnElement, Select, bindparam, select

from backend import clock
from backend.config import settings
from backend.database.desk_tables import Manager, Reply
from backend.database.engine import AnyRow, autocommit
from backend.database.models import UNDO, Account, Announcement, AuditEntry, Feedback, Hold, PreviousAddress, with_hold
from backend.mail.composing import compose
from backend.mail.news import News, draft_for, paragraphs, unsubscribe
from backend.mail.transport import Draft, Message
from backend.security import tokens
from backend.security.tokens import LIFETIMES, Purpose
from backend.values import SERVICE

Kind = Literal["registration", "password_reset", "password_changed", "email_change", "email_changed",
               "email_taken_back", "erasure_request", "account_closed", "account_reopened", "erased",
               "announcement", "announcement_test", "feedback_reply", "desk_sign_in"]  # fmt: skip
PLAIN_ADDRESS = re.compile(r"[^\s<>@]+@[^\s<>@]+")


class _NoRecipient(Exception):
    """The account or the record does not exist any more, or does not want this email any more."""


def draft(row: AnyRow) -> Draft | None:
    """Return the content of a queued email; None if it has no recipient any more."""
    try:
        draft = _DRAFTS[row.kind](row)
    except _NoRecipient:
        return None
    return replace(draft, recipient=_ascii(draft.recipient)) if draft else None


def _accounts(condition: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Return the query of an account; of several closed ones, the one that was closed last."""
    return select(
        Account.id, Account.email, Account.closed_at, Account.credentials_id, Account.erasure_requested_at,
        Account.erase_after, Hold.latest(bindparam("now")).label("held_until"),
    ).where(condition, Account.erasing_since.is_(None)).order_by(Account.closed_at.desc()).limit(1)  # fmt: skip


# Built once: building one takes as long as executing it.
_WITH_ID = _accounts(Account.id == bindparam("id"))
_OPEN = _accounts(Account.is_open_with(bindparam("email")))
_CLOSED = _accounts(Account.is_closed_with(bindparam("email")))
_RECIPIENTS = {
    everybody: _accounts((Account.id == bindparam("id")) & Account.gets_news(everybody=everybody))
    for everybody in (False, True)
}


def _account(query: Select[*tuple[Any, ...]], **values: object) -> AnyRow:
    return _one(query, now=clock.now(), **values)


def _one(query: Select[*tuple[Any, ...]], **values: object) -> AnyRow:
    with autocommit() as connection:
        row = connection.execute(query, values).one_or_none()
    if row is None:
        raise _NoRecipient
    return row


def _link(purpose: Purpose, token: str) -> dict[str, Any]:
    """Return a link to the page that is named after the purpose."""
    lifetime = LIFETIMES.get(purpose)
    hours = int(lifetime.total_seconds() // 3600) if lifetime else None
    return {"link": f"{settings().public_url}/{purpose}#{token}", "token": token, "hours": hours}


def _link_for(purpose: Purpose, account: AnyRow, **content: str) -> dict[str, Any]:
    return _link(purpose, tokens.issue_for(purpose, account, **content))


def _registration(row: AnyRow) -> Draft:
    try:
        account = _account(_OPEN, email=row.email)
    except _NoRecipient:
        # The row's random id becomes the account's id, so that a second use of the link finds it taken.
        token = tokens.issue(Purpose.REGISTRATION, {"account": str(row.id), "name": row.name, "email": row.email})
        return Draft(row.email, "registration", _link(Purpose.REGISTRATION, token))
    return Draft(account.email, "registration_existing", _link_for(Purpose.PASSWORD_RESET, account))


def _password_reset(row: AnyRow) -> Draft:
    account = _account(_OPEN, email=row.email)
    # To the address as registered, never as typed: two that look alike may be two mailboxes (CVE-2019-19844).
    return Draft(account.email, "password_reset", _link_for(Purpose.PASSWORD_RESET, account))


def _password_changed(row: AnyRow) -> Draft:
    return Draft(_account(_WITH_ID, id=row.account_id).email, "password_changed")


def _email_change(row: AnyRow) -> Draft:
    account = _account(_WITH_ID, id=row.account_id)
    # A password that is newer than the request ends the request.
    if account.credentials_id != row.about:
        raise _NoRecipient
    return Draft(row.email, "email_change", _link_for(Purpose.EMAIL_CHANGE, account, email=row.email))


def _email_changed(row: AnyRow) -> Draft:
    now, account = clock.now(), _account(_WITH_ID, id=row.account_id)
    # The row is deleted once an older address has taken the account back.
    usable = (PreviousAddress.id == row.about) & PreviousAddress.may_take_back(now)
    previous = _one(select(PreviousAddress.email, PreviousAddress.changed_at).where(usable))
    context = {
        **_link_for(Purpose.EMAIL_CHANGE_UNDO, account, change=str(row.about)),
        "hours": math.ceil((previous.changed_at + UNDO - now) / timedelta(hours=1)),
        "closed": account.closed_at is not None,
        "erase_on": _erase_on(account),
    }
    return Draft(previous.email, "email_changed", context)


def _erasure_request(row: AnyRow) -> Draft:
    try:
        account = _account(_OPEN, email=row.email)
    except _NoRecipient:
        account = _account(_CLOSED, email=row.email)
    return Draft(account.email, "erasure_request", _link_for(Purpose.ERASURE, account))


def _account_closed(row: AnyRow) -> Draft:
    account = _account(_WITH_ID, id=row.account_id)
    if account.closed_at is None:
        raise _NoRecipient
    context = {
        "closed_on": account.closed_at.date(),
        "erase_on": _erase_on(account),
        "held_until": account.held_until.date() if account.held_until else None,
        "asked": account.erasure_requested_at is not None,
        **_link_for(Purpose.ERASURE_CANCEL, account),
    }
    return Draft(account.email, "account_closed", context)


def _account_reopened(row: AnyRow) -> Draft:
    account = _account(_WITH_ID, id=row.account_id)
    if account.closed_at:
        raise _NoRecipient
    return Draft(account.email, "account_reopened")


def _erase_on(account: AnyRow) -> date | None:
    due = with_hold(account.erase_after, account.held_until)
    return due.date() if due else None


def _erased(row: AnyRow) -> Draft:
    columns = AuditEntry.account_id, AuditEntry.at, AuditEntry.details
    entry = _one(select(*columns).where(AuditEntry.id == row.about))
    context = {
        "erased_on": entry.at.date(),
        "removed": entry.details["removed"],
        "kept": entry.details["kept"],
        **_link(Purpose.RECEIPT, tokens.issue_receipt(entry)),
    }
    return Draft(row.email, "erased", context)


def _news(row: AnyRow) -> News:
    """Return the announcement of a queued email, unless it was stopped."""
    columns = Announcement.subject, Announcement.text, Announcement.policy_version, Announcement.to_everybody
    return News(*_one(select(*columns).where(Announcement.id == row.about, Announcement.stopped_at.is_(None))))


def _announcement(row: AnyRow) -> Draft | None:
    news = _news(row)
    account = _account(_RECIPIENTS[news.material], id=row.account_id)
    return draft_for(news, account.email, account.id)


def _feedback_reply(row: AnyRow) -> Draft:
    reply = _one(select(Reply.message, Feedback.received_at).join(Feedback).where(Reply.id == row.about))
    account = _account(_RECIPIENTS[False], id=row.account_id)
    url, headers = unsubscribe(account.id)
    context = {"sent_on": reply.received_at.date(), "paragraphs": paragraphs(reply.message), "unsubscribe_url": url}
    return Draft(account.email, "feedback_reply", context, headers)


def _desk_sign_in(row: AnyRow) -> Draft:
    manager = _one(
        select(Manager.id, Manager.name, Manager.email, Manager.sign_in_id).where(Manager.is_present(row.email))
    )
    minutes = LIFETIMES[Purpose.DESK] // timedelta(minutes=1)
    context = {"name": manager.name, "minutes": minutes, **_link(Purpose.DESK, tokens.issue_for_manager(manager))}
    return Draft(manager.email, "desk_sign_in", context)


_DRAFTS: dict[Kind, Callable[[AnyRow], Draft | None]] = {
    "registration": _registration,
    "password_reset": _password_reset,
    "password_changed": _password_changed,
    "email_change": _email_change,
    "email_changed": _email_changed,
    "email_taken_back": lambda row: Draft(row.email, "email_taken_back"),
    "erasure_request": _erasure_request,
    "account_closed": _account_closed,
    "account_reopened": _account_reopened,
    "erased": _erased,
    "announcement": _announcement,
    # No account has the id of the row, so that its link unsubscribes nobody.
    "announcement_test": lambda row: draft_for(_news(row), row.email, row.id),
    "feedback_reply": _feedback_reply,
    "desk_sign_in": _desk_sign_in,
}


@cache
def _templates() -> Environment:
    folder = Path(__file__).with_name("templates")
    return Environment(loader=FileSystemLoader(folder), autoescape=select_autoescape(), auto_reload=False)


def _ascii(email: str) -> str:
    """Return the address with its domain in IDNA 2008's ASCII form."""
    if email.isascii() and PLAIN_ADDRESS.fullmatch(email):
        return email
    return validate_email(email, check_deliverability=False, test_environment=True).ascii_email or email


def render(draft: Draft, row_id: uuid.UUID) -> Message:
    """Return the email that is sent. It reads nothing from the database."""
    config = settings()
    context = {"service": SERVICE, "settings": config, "public_url": config.public_url, **draft.context}
    head, _, text = _templates().get_template(f"{draft.template}.txt").render(context).partition("\n")
    subject, text = head.removeprefix("Subject:").strip(), text.lstrip("\n")
    html = _templates().get_template(f"{draft.template}.html").render(context)
    # The same on every attempt, so that a repeat is recognised; a digest, because the row's id may become an account's.
    unique = hashlib.sha256(row_id.bytes).hexdigest()[:32]
    headers = {
        "Subject": subject,
        "To": draft.recipient,
        "Date": formatdate(clock.now().timestamp()),
        "Message-ID": f"<{unique}@{parseaddr(config.sender)[1].rpartition('@')[2]}>",
        "Auto-Submitted": "auto-generated",
        **draft.headers,
    }
    return Message(draft.recipient, subject, text, compose(config.sender, headers, text, html))


def probe() -> Message:
    """Return an email to ourselves that the mail server can be asked to accept."""
    config = settings()
    recipient = config.data_manager_email or config.support_email or parseaddr(config.sender)[1]
    return render(Draft(_ascii(recipient), "password_reset", _link(Purpose.PASSWORD_RESET, "probe")), uuid.uuid4())
