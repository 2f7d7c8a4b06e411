"""Every table on one page, each column with its declaration.

The privacy page and the tests read these declarations and nothing else: a column without one fails the tests.
"""

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, ForeignKey, Index, LargeBinary, ScalarSelect, String, Text, func, select
from sqlalchemy.orm import Mapped, MappedColumn, mapped_column

from backend.db import Base

NAME_LENGTH = 200
EMAIL_LENGTH = 254


class Category(StrEnum):
    """What kind of data a column holds."""

    PERSONAL = "personal"
    PSEUDONYMOUS = "pseudonymous"
    TECHNICAL = "technical"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a column holds, what for, for how long, and what erasing the account does to it."""

    category: Category
    purpose: str
    retention: str
    erasure: str


LIFE = "as long as the account"
SESSION = "until the session ends: signed out, a new password, idle, or too old"
HANDOVER = "until the mail is handed over, or 7 days after it was given up"
KEPT = "until the data manager deletes it; what was sent signed in, as long as the account"
PUBLIC = "for good: it is public"
DELETED = "deleted"
UNTOUCHED = "none: it is about nobody"


def _column(
    category: Category, purpose: str, retention: str, erasure: str, /, *args: Any, **options: Any
) -> MappedColumn[Any]:
    declaration = Declaration(category, purpose, retention, erasure)
    return mapped_column(*args, info={"declaration": declaration}, **options)


def _personal(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    return _column(Category.PERSONAL, purpose, retention, DELETED, *args, **options)


def _pseudonymous(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    return _column(Category.PSEUDONYMOUS, purpose, retention, DELETED, *args, **options)


def _technical(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    return _column(Category.TECHNICAL, purpose, retention, DELETED, *args, **options)


def _public(purpose: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    return _column(Category.PUBLIC, purpose, PUBLIC, UNTOUCHED, *args, **options)


class Account(Base):
    """A person who proved a mailbox and chose a password."""

    __tablename__ = "accounts"

    id: Mapped[uuid.UUID] = _pseudonymous("Ties what belongs together; random", LIFE, primary_key=True)
    name: Mapped[str | None] = _personal("What the app calls the person; may be removed", LIFE, String(NAME_LENGTH))
    email: Mapped[str] = _personal("Signing in and resetting the password", LIFE, String(EMAIL_LENGTH))
    password_hash: Mapped[str] = _personal("Checks the password without knowing it (Argon2id)", LIFE, String(255))
    credentials_id: Mapped[uuid.UUID] = _technical(
        "New with every password, and so ends every older session and mailed link", LIFE
    )
    email_updates: Mapped[bool] = _personal("Whether the person wants mails about TILES", LIFE)
    accepted_policy: Mapped[str | None] = _personal(
        "The version of the privacy policy that the person accepted", LIFE, String(40)
    )
    created_at: Mapped[datetime] = _personal("Shown to the person", LIFE)
    closed_at: Mapped[datetime | None] = _personal("When the account was closed", LIFE)

    @classmethod
    def is_open_with(cls, email: str) -> ColumnElement[bool]:
        """Return the condition that an account is open and has this address, whatever its case.

        It repeats the expression and the condition of the index below: a partial index serves no other look-up.
        """
        return (func.lower(cls.email) == func.lower(email)) & cls.closed_at.is_(None)

    __table_args__ = ({"info": {"purpose": "One row for each person with an account"}},)


Index(
    "accounts_open_email",
    func.lower(Account.email),
    unique=True,
    sqlite_where=Account.closed_at.is_(None),
    postgresql_where=Account.closed_at.is_(None),
)


class Policy(Base):
    """A version of the privacy policy, as it was published."""

    __tablename__ = "policies"

    version: Mapped[str] = _public("Names the version", String(40), primary_key=True)
    effective_on: Mapped[date] = _public("From which day (UTC) it is in force")
    sha256: Mapped[str] = _public("Shows that the text is the one that was announced", String(64))
    text: Mapped[str] = _public("What it says", Text)
    published_at: Mapped[datetime] = _public("When it was published")

    @classmethod
    def in_force_on(cls, day: date) -> ScalarSelect[str]:
        """Return the version that is in force on a day: of those begun, the one that began last."""
        begun = select(cls.version).where(cls.effective_on <= day)
        return begun.order_by(cls.effective_on.desc(), cls.published_at.desc()).limit(1).scalar_subquery()

    __table_args__ = ({"info": {"purpose": "One row for each version of the privacy policy"}},)


class Feedback(Base):
    """What somebody wrote to us from the app."""

    __tablename__ = "feedback"

    id: Mapped[uuid.UUID] = _pseudonymous("Names the message; random", KEPT, primary_key=True)
    account_id: Mapped[uuid.UUID | None] = _pseudonymous(
        "Who wrote it, if the app was signed in", KEPT, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    message: Mapped[str] = _personal("Improving the app", KEPT, Text)
    received_at: Mapped[datetime] = _personal("When it came", KEPT)
    key_sha256: Mapped[bytes | None] = _technical(
        "Recognises a message that is sent twice", KEPT, LargeBinary(32), unique=True
    )

    __table_args__ = ({"info": {"purpose": "One row for each message from the app"}},)


class Session(Base):
    """One signed-in app. It counts only while its `credentials_id` is still the account's."""

    __tablename__ = "sessions"

    id: Mapped[uuid.UUID] = _pseudonymous(
        "Names the session when the person ends it; random", SESSION, primary_key=True
    )
    account_id: Mapped[uuid.UUID] = _pseudonymous(
        "Whose session it is", SESSION, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    token_sha256: Mapped[bytes] = _technical(
        "Recognises the session's token without holding it", SESSION, LargeBinary(32), unique=True
    )
    credentials_id: Mapped[uuid.UUID] = _technical("Ends the session with the password", SESSION)
    created_at: Mapped[datetime] = _personal("Ends old sessions; shown to the person", SESSION)
    last_used_on: Mapped[date] = _personal("Ends idle sessions; shown to the person; a day, no time", SESSION)

    __table_args__ = ({"info": {"purpose": "One row for each signed-in app"}},)


class Mail(Base):
    """A mail to be sent: what it is about, never its text, link or token."""

    __tablename__ = "mails"

    id: Mapped[uuid.UUID] = _pseudonymous("Names the row; random", HANDOVER, primary_key=True)
    kind: Mapped[str] = _technical("Which mail it is", HANDOVER, String(40))
    email: Mapped[str | None] = _personal("Where it goes, when no account says so", HANDOVER, String(EMAIL_LENGTH))
    name: Mapped[str | None] = _personal(
        "The name given on registering, on its way into the mailed link", HANDOVER, String(NAME_LENGTH)
    )
    account_id: Mapped[uuid.UUID | None] = _pseudonymous(
        "Whose account it is about", HANDOVER, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[datetime] = _technical("How long it has waited", HANDOVER)
    due_at: Mapped[datetime] = _technical("When to try, or to try again", HANDOVER)
    claim: Mapped[uuid.UUID | None] = _technical("Which worker is sending it", HANDOVER)
    attempts: Mapped[int] = _technical("How often it was tried", HANDOVER, default=0)
    failure: Mapped[str | None] = _technical("Why the last try failed: a code, no text", HANDOVER, String(40))
    abandoned_at: Mapped[datetime | None] = _technical("When it was given up", HANDOVER)

    __table_args__ = (
        Index("mails_due", "abandoned_at", "due_at"),
        {"info": {"purpose": "One row for each mail that still has to be sent"}},
    )
