"""The content of an announcement: a text of the data manager, or a new version of the privacy policy."""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend import clock
from backend.config import settings
from backend.database.engine import reading
from backend.database.models import Policy
from backend.mail.transport import Draft
from backend.security import tokens
from backend.security.tokens import Purpose


@dataclass(frozen=True, slots=True)
class News:
    """An announcement: a text with a subject, or a version of the policy with a summary as its text.

    A material change is a service message: it goes to everybody with an account.
    """

    subject: str | None = None
    text: str | None = None
    version: str | None = None
    material: bool = False


def draft_for(news: News, recipient: str, account_id: uuid.UUID) -> Draft | None:
    """Return the email for an account, with its link for unsubscribing; None if the version was withdrawn."""
    context: dict[str, Any] = {"paragraphs": paragraphs(news.text), "to_everybody": news.material}
    headers = dict[str, str]()
    if not news.material:
        context["unsubscribe_url"], headers = unsubscribe(account_id)
    if news.version is None:
        return Draft(recipient, "announcement", context | {"subject": news.subject}, headers)
    policy = _published(news.version)
    return Draft(recipient, "policy_changed", context | policy, headers) if policy else None


def unsubscribe(account_id: uuid.UUID) -> tuple[str, dict[str, str]]:
    """Return the address that switches emails about TILES off, and the headers for email programs (RFC 8058)."""
    url = f"{settings().public_url}/unsubscribe/{tokens.issue(Purpose.UNSUBSCRIBE, {'account': str(account_id)})}"
    return url, {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def paragraphs(text: str | None) -> list[str]:
    """Return the paragraphs of a plain text, between which are empty lines."""
    return [part.strip() for part in (text or "").split("\n\n") if part.strip()]


def _published(version: str) -> dict[str, Any] | None:
    published = select(Policy.version, Policy.effective_on).where(Policy.withdrawn_at.is_(None))
    with reading() as session:
        rows = session.execute(published.order_by(Policy.effective_on, Policy.published_at)).all()
    policy = next((row for row in rows if row.version == version), None)
    if policy is None:
        return None
    is_upcoming = policy.effective_on > clock.now().date()
    return policy._asdict() | {"upcoming": is_upcoming, "first": policy is rows[0]}
