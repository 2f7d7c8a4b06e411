"""What each mail says: looked up, given its token and written down in the moment in which it is sent."""

import hashlib
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from email.utils import parseaddr
from typing import Any, Literal

from email_validator import validate_email
from flask import render_template
from sqlalchemy import BindParameter, ColumnElement, Select, select

from backend import clock
from backend.config import settings
from backend.database.engine import AnyRow, reading
from backend.database.models import UNDO, Account, Announcement, AuditEntry, Hold, Policy, PreviousAddress, with_hold
from backend.mail.transport import Message
from backend.security import tokens
from backend.security.tokens import LIFETIMES, Purpose
from backend.values import SERVICE

Kind = Literal[
    "registration",
    "password_reset",
    "password_changed",
    "email_change",
    "email_changed",
    "email_taken_back",
    "erasure_request",
    "account_closed",
    "account_reopened",
    "erased",
    "announcement",
]
ADDRESS = re.compile(r"[^\s<>@]+@[^\s<>@]+")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a mail says: to whom, which template, what the template needs, and headers of its own."""

    recipient: str
    template: str
    context: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def draft(mail: AnyRow) -> Draft | None:
    """Look up and sign what a mail says for which there is a row in the queue; None: there is nobody to send it to."""
    drafted = _DRAFT[mail.kind](mail)
    return drafted and replace(drafted, recipient=_ascii(drafted.recipient))


def _link(purpose: Purpose, token: str) -> dict[str, Any]:
    """Return a link to the page that is named like the purpose."""
    lifetime = LIFETIMES.get(purpose)
    hours = int(lifetime.total_seconds() // 3600) if lifetime else None
    return {"link": f"{settings().public_url}/{purpose}#{token}", "token": token, "hours": hours}


def _link_for(purpose: Purpose, account: AnyRow, **content: str) -> dict[str, Any]:
    return _link(purpose, tokens.issue_for(purpose, account, **content))


def _accounts(condition: ColumnElement[bool], moment: datetime | BindParameter[datetime]) -> Select[*tuple[Any, ...]]:
    """Return what reads the account that a mail is about; of several closed ones, the one that was closed last."""
    return select(
        Account.id, Account.email, Account.closed_at, Account.credentials_id, Account.email_updates,
        Account.erasure_requested_at, Account.erase_after, Hold.latest(moment).label("held_until"),
    ).where(condition, Account.erasing_since.is_(None)).order_by(Account.closed_at.desc()).limit(1)  # fmt: skip


def _account(condition: ColumnElement[bool]) -> AnyRow | None:
    with reading() as session:
        return session.execute(_accounts(condition, clock.now())).one_or_none()


def _registration(mail: AnyRow) -> Draft:
    if account := _account(Account.is_open_with(mail.email)):
        return Draft(account.email, "registration_existing", _link_for(Purpose.PASSWORD_RESET, account))
    # The row's random id becomes the account's: a second use of the link, or of a repeat of it, finds it taken.
    content = {"account": str(mail.id), "name": mail.name, "email": mail.email}
    token = tokens.issue(Purpose.REGISTRATION, content)
    return Draft(mail.email, "registration", _link(Purpose.REGISTRATION, token))


def _password_reset(mail: AnyRow) -> Draft | None:
    account = _account(Account.is_open_with(mail.email))
    # To the address as registered, never as typed: two that look alike may be two mailboxes (CVE-2019-19844).
    if account is None:
        return None
    return Draft(account.email, "password_reset", _link_for(Purpose.PASSWORD_RESET, account))


def _password_changed(mail: AnyRow) -> Draft | None:
    account = _account(Account.id == mail.account_id)
    return Draft(account.email, "password_changed", _reset_url()) if account else None


def _reset_url() -> dict[str, Any]:
    return {"reset_url": f"{settings().public_url}/password-reset"}


def _email_change(mail: AnyRow) -> Draft | None:
    account = _account(Account.id == mail.account_id)
    # A password that is newer than the request ends the request.
    if account is None or account.credentials_id != mail.about:
        return None
    return Draft(mail.email, "email_change", _link_for(Purpose.EMAIL_CHANGE, account, email=mail.email))


def _email_changed(mail: AnyRow) -> Draft | None:
    now, account = clock.now(), _account(Account.id == mail.account_id)
    with reading() as session:
        previous = session.execute(
            select(PreviousAddress.email, PreviousAddress.changed_at).where(
                PreviousAddress.id == mail.about, PreviousAddress.may_take_back(now)
            )
        ).one_or_none()
    # What an older address has taken back is nobody else's to take.
    if account is None or previous is None:
        return None
    context = {
        **_link_for(Purpose.EMAIL_CHANGE_UNDO, account, change=str(mail.about)),
        "hours": math.ceil((previous.changed_at + UNDO - now) / timedelta(hours=1)),
        "closed": account.closed_at is not None,
        "erase_on": _erase_on(account),
    }
    return Draft(previous.email, "email_changed", context)


def _email_taken_back(mail: AnyRow) -> Draft:
    return Draft(mail.email, "email_taken_back", {})


def _erasure_request(mail: AnyRow) -> Draft | None:
    account = _account(Account.is_open_with(mail.email)) or _account(Account.is_closed_with(mail.email))
    if account is None:
        return None
    context = {"grace_days": settings().erasure_grace_days, **_link_for(Purpose.ERASURE, account)}
    return Draft(account.email, "erasure_request", context)


def _account_closed(mail: AnyRow) -> Draft | None:
    account = _account((Account.id == mail.account_id) & Account.closed_at.is_not(None))
    if account is None:
        return None
    erase_on = _erase_on(account)
    context = {
        "closed_on": account.closed_at.date(),
        "erase_on": erase_on,
        "held_until": account.held_until.date() if account.held_until else None,
        "asked": account.erasure_requested_at is not None,
        "erasure_url": f"{settings().public_url}/erasure",
        **_link_for(Purpose.ERASURE_CANCEL, account),
    }
    return Draft(account.email, "account_closed", context)


def _account_reopened(mail: AnyRow) -> Draft | None:
    account = _account((Account.id == mail.account_id) & Account.closed_at.is_(None))
    return Draft(account.email, "account_reopened", _reset_url()) if account else None


def _erase_on(account: AnyRow) -> date | None:
    due = with_hold(account.erase_after, account.held_until)
    return due.date() if due else None


def _erased(mail: AnyRow) -> Draft | None:
    with reading() as session:
        entry = session.execute(
            select(AuditEntry.account_id, AuditEntry.at, AuditEntry.details).where(AuditEntry.id == mail.about)
        ).one_or_none()
    if entry is None:
        return None
    context = {
        "erased_on": entry.at.date(),
        "removed": entry.details["removed"],
        "kept": entry.details["kept"],
        "receipt": tokens.issue_receipt(entry),
        "verify_url": f"{settings().public_url}/v1/erasure-receipts/verify",
        "data_manager_email": settings().data_manager_email,
    }
    return Draft(mail.email, "erased", context)


def _announcement(mail: AnyRow) -> Draft | None:
    account = _account((Account.id == mail.account_id) & Account.wants_mails())
    with reading() as session:
        found = session.execute(
            select(Announcement.subject, Announcement.text, Policy.version, Policy.effective_on, Policy.sha256)
            .outerjoin(Policy, (Policy.version == Announcement.policy_version) & Policy.withdrawn_at.is_(None))
            .where(Announcement.id == mail.about)
        ).one_or_none()
    if account is None or found is None or (found.version or found.text) is None:
        return None
    url = f"{settings().public_url}/unsubscribe/{tokens.issue(Purpose.UNSUBSCRIBE, {'account': str(account.id)})}"
    headers = {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    context = {**found._asdict(), "unsubscribe_url": url, "privacy_url": f"{settings().public_url}/privacy"}
    if found.version:
        context["upcoming"] = found.effective_on > clock.now().date()
        return Draft(account.email, "policy_changed", context, headers)
    context["paragraphs"] = [part.strip() for part in found.text.split("\n\n") if part.strip()]
    return Draft(account.email, "announcement", context, headers)


_DRAFT: dict[Kind, Callable[[AnyRow], Draft | None]] = {
    "registration": _registration,
    "password_reset": _password_reset,
    "password_changed": _password_changed,
    "email_change": _email_change,
    "email_changed": _email_changed,
    "email_taken_back": _email_taken_back,
    "erasure_request": _erasure_request,
    "account_closed": _account_closed,
    "account_reopened": _account_reopened,
    "erased": _erased,
    "announcement": _announcement,
}


def _ascii(email: str) -> str:
    """Return the address with its domain as IDNA 2008 writes it."""
    if email.isascii() and ADDRESS.fullmatch(email):
        return email
    return validate_email(email, check_deliverability=False, test_environment=True).ascii_email or email


def render(draft: Draft, mail_id: uuid.UUID) -> Message:
    """Return a mail as it is sent; nothing is looked up any more."""
    shared = {
        "service": SERVICE,
        "public_url": settings().public_url,
        "support_email": settings().support_email,
    }
    context = {**shared, **draft.context}
    subject, _, body = render_template(f"mail/{draft.template}.txt", **context).partition("\n")
    host = parseaddr(settings().sender)[1].rpartition("@")[2]
    return Message(
        # The same on every try, so that a repeat is known as one; a digest, as the row's id may become an account's.
        id=f"<{hashlib.sha256(mail_id.bytes).hexdigest()[:32]}@{host}>",
        sender=settings().sender,
        recipient=draft.recipient,
        date=clock.now().timestamp(),
        subject=subject.removeprefix("Subject:").strip(),
        body=body.lstrip("\n"),
        html=render_template(f"mail/{draft.template}.html", **context),
        extra_headers={"Auto-Submitted": "auto-generated", **draft.headers},
    )


def probe() -> Message:
    """Return a mail as it is sent, to ourselves, for a mail server to say whether it would take it."""
    given = settings()
    recipient = given.data_manager_email or given.support_email or parseaddr(given.sender)[1]
    return render(Draft(_ascii(recipient), "password_reset", _link(Purpose.PASSWORD_RESET, "probe")), uuid.uuid4())
