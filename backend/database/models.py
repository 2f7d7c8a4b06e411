"""Every table on one page, each column with its declaration.

The privacy page and the export show the docstring of a table's class and the declarations of its columns to people.
Erasing an account reads them too.
"""

import uuid
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    ForeignKey,
    Index,
    ScalarSelect,
    SQLColumnExpression,
    false,
    func,
    select,
)
from sqlalchemy.orm import Mapped, MappedColumn
from sqlalchemy.types import JSON, LargeBinary, String, Text

from backend.database.declarations import kept, personal, pseudonymous, public, technical
from backend.database.engine import Base

NAME_LENGTH = 200
EMAIL_LENGTH = 254
REASON_LENGTH = 500
# How long a replaced address can take the account back (the undo link of an email change).
UNDO = timedelta(hours=72)
FORGET_ABANDONED = timedelta(days=7)
# The longest ordinary limitation period for claims about data protection.
KEEP_RECORDS = timedelta(days=3 * 365)

LIFE = "as long as the account"
SESSION = "until the session ends: sign-out, a new password, not used for long, or too old"
HANDOVER = f"until the email is handed over, or {FORGET_ABANDONED.days} days after the service gave up"
FEEDBACK = "always, to improve the app; if it was sent while signed in, as long as the account"
CHANGE = f"{UNDO // timedelta(hours=1)} hours"
HOLD = "until the legal hold ends or is lifted"
RECORD = f"{KEEP_RECORDS.days // 365} years"
PUBLIC = "always: it is public"
# Why a copy of the data does not show a value.
GUESSING = "with it the password could be guessed"
POSING = "with it somebody could pretend to be the person"


def of_account(purpose: str, retention: str) -> MappedColumn[Any]:
    """Return a column that names the account to which a row belongs, and with which it is erased."""
    return pseudonymous(purpose, retention, ForeignKey("accounts.id", ondelete="CASCADE"), index=True)


def where(condition: ColumnElement[bool]) -> dict[str, Any]:
    """Return the options of an index for the rows under a condition."""
    return {"sqlite_where": condition, "postgresql_where": condition}


class Account(Base):
    """Each person with an account."""

    __tablename__ = "accounts"
    id: Mapped[uuid.UUID] = pseudonymous("Connects what belongs to the account; random", LIFE, primary_key=True)
    name: Mapped[str | None] = personal("What the app calls the person; can be removed", LIFE, String(NAME_LENGTH))
    email: Mapped[str] = personal("For signing in and for resetting the password", LIFE, String(EMAIL_LENGTH))
    password_hash: Mapped[str] = personal("Checks the password (Argon2id)", LIFE, String(255), withheld=GUESSING)
    taken_back_at: Mapped[datetime | None] = personal(
        "No longer used; the release before sets it when an old address takes the account back", LIFE
    )
    credentials_id: Mapped[uuid.UUID] = technical("New with each password; ends older sessions", LIFE, withheld=POSING)
    email_updates: Mapped[bool] = personal("Whether the person wants emails about TILES", LIFE)
    accepted_policy: Mapped[str | None] = personal("Which privacy policy the person accepted", LIFE, String(40))
    created_at: Mapped[datetime] = personal("When the account was made; shown to the person", LIFE)
    closed_at: Mapped[datetime | None] = personal("When the account was closed", LIFE)
    erasure_requested_at: Mapped[datetime | None] = personal("When the person asked for erasure", LIFE)
    erase_after: Mapped[datetime | None] = personal("When it will be erased, unless a legal hold delays it", LIFE)
    erasing_since: Mapped[datetime | None] = technical("When the erasure began; nothing can stop it now", LIFE)

    @classmethod
    def gets_news(cls, *, everybody: bool) -> ColumnElement[bool]:
        """Return the condition that an account is open and, unless `everybody`, wants emails about TILES."""
        is_open = cls.closed_at.is_(None)
        return is_open if everybody else cls.email_updates & is_open

    @classmethod
    def is_closed_with(cls, email: str | SQLColumnExpression[Any]) -> ColumnElement[bool]:
        """Return the condition that an account is closed and has this address, in upper or lower case."""
        return (func.lower(cls.email) == func.lower(email)) & cls.closed_at.is_not(None)

    @classmethod
    def is_open_with(cls, email: str | SQLColumnExpression[Any]) -> ColumnElement[bool]:
        """Return the condition that an account is open and has this address, in upper or lower case.

        It repeats the expression and the condition of the partial index: no other query would use that.
        """
        return (func.lower(cls.email) == func.lower(email)) & cls.closed_at.is_(None)


_LOWER = func.lower(Account.email)
Index("accounts_open_email", _LOWER, unique=True, **where(Account.closed_at.is_(None)))
Index("accounts_closed_email", _LOWER, **where(Account.closed_at.is_not(None)))
Index("accounts_erase_after", Account.erase_after, **where(Account.erase_after.is_not(None)))
Index("accounts_asked", Account.erase_after, Account.id, **where(Account.erasure_requested_at.is_not(None)))
# Counts who gets an announcement. SQLite has no statistics: with another first column it would choose this index for
# queries that have a better one.
Index("accounts_told", Account.id.is_not(None), Account.closed_at, Account.email_updates)
Index("accounts_name", func.lower(Account.name))
# PostgreSQL finds the beginning of a text only in an index that compares bytes.
for _name, _column in (("email", Account.email), ("name", Account.name)):
    _begins = Index(
        f"accounts_{_name}_begins", func.lower(_column).label("lower"), postgresql_ops={"lower": "text_pattern_ops"}
    )
    _begins.ddl_if(dialect="postgresql")


def with_hold(erase_after: datetime | None, held_until: datetime | None) -> datetime | None:
    """Return when an account will be erased: not before a legal hold ends."""
    return max(erase_after, held_until) if erase_after and held_until else erase_after


class PreviousAddress(Base):
    """Each address that was replaced within 72 hours, and can take the account back."""

    __tablename__ = "previous_addresses"
    id: Mapped[uuid.UUID] = pseudonymous("Names the change; random", CHANGE, primary_key=True)
    account_id: Mapped[uuid.UUID] = of_account("Whose address it was", CHANGE)
    email: Mapped[str] = personal("For taking the account back if it was stolen", CHANGE, String(EMAIL_LENGTH))
    changed_at: Mapped[datetime] = personal("When another address replaced it", CHANGE)

    @classmethod
    def may_take_back(cls, now: datetime) -> ColumnElement[bool]:
        """Return the condition that an address can still take the account back."""
        return cls.changed_at > now - UNDO


class Hold(Base):
    """Each legal duty to keep an account for now; until it ends, nothing of the account is erased."""

    __tablename__ = "holds"
    id: Mapped[uuid.UUID] = pseudonymous("Names the hold; random", HOLD, primary_key=True)
    account_id: Mapped[uuid.UUID] = of_account("Which account must be kept", HOLD)
    basis: Mapped[str] = personal("The legal basis", HOLD, String(REASON_LENGTH))
    placed_at: Mapped[datetime] = personal("When it was placed", HOLD)
    until: Mapped[datetime] = personal("When it ends by itself", HOLD)

    @classmethod
    def latest(cls, now: datetime | BindParameter[datetime]) -> ScalarSelect[datetime]:
        """Return the end of the last legal hold on the account of the surrounding statement, or NULL."""
        active = (cls.account_id == Account.id) & (cls.until > now)
        return select(func.max(cls.until)).where(active).correlate(Account).scalar_subquery()


class Policy(Base):
    """Each published version of the privacy policy."""

    __tablename__ = "policies"
    version: Mapped[str] = public("Names the version", PUBLIC, String(40), primary_key=True)
    effective_on: Mapped[date] = public("The first day (UTC) on which it is in force", PUBLIC)
    sha256: Mapped[str] = public("Shows that the text is the one that was announced", PUBLIC, String(64))
    text: Mapped[str] = public("What it says", PUBLIC, Text)
    published_at: Mapped[datetime] = public("When it was published", PUBLIC)
    withdrawn_at: Mapped[datetime | None] = public("When it was withdrawn, before it was in force", PUBLIC)

    @classmethod
    def is_published(cls, version: object) -> ColumnElement[bool]:
        """Return the condition that a version was published, and not withdrawn."""
        return (cls.version == version) & cls.withdrawn_at.is_(None)

    @classmethod
    def in_force_on(cls, day: date | BindParameter[date]) -> ScalarSelect[str]:
        """Return the version that is in force on a day: the latest that has begun."""
        begun = select(cls.version).where(cls.effective_on <= day, cls.withdrawn_at.is_(None))
        return begun.order_by(cls.effective_on.desc(), cls.published_at.desc()).limit(1).scalar_subquery()


class Feedback(Base):
    """Each message that somebody sent from the app."""

    __tablename__ = "feedback"
    id: Mapped[uuid.UUID] = pseudonymous("Names the message; random", FEEDBACK, primary_key=True)
    account_id: Mapped[uuid.UUID | None] = of_account("Who wrote it, if the app was signed in", FEEDBACK)
    message: Mapped[str] = personal("For improving the app", FEEDBACK, Text)
    received_at: Mapped[datetime] = personal("When it arrived", FEEDBACK)
    done_at: Mapped[datetime | None] = personal("When the data manager was done with it", FEEDBACK)
    key_sha256: Mapped[bytes | None] = technical(
        "Recognises a message that is sent twice", FEEDBACK, LargeBinary(32), unique=True,
        withheld="it tells a person nothing",
    )  # fmt: skip


Index("feedback_received", Feedback.received_at, Feedback.id)
Index("feedback_open", Feedback.received_at, Feedback.id, **where(Feedback.done_at.is_(None)))
Index("feedback_done", Feedback.received_at, Feedback.id, **where(Feedback.done_at.is_not(None)))


class Session(Base):
    """Each app that is signed in."""

    __tablename__ = "sessions"
    id: Mapped[uuid.UUID] = pseudonymous("Names the session when the person ends it; random", SESSION, primary_key=True)
    account_id: Mapped[uuid.UUID] = of_account("Whose session it is", SESSION)
    token_sha256: Mapped[bytes] = technical(
        "Recognises the app without storing its secret", SESSION, LargeBinary(32), unique=True, withheld=POSING
    )
    credentials_id: Mapped[uuid.UUID] = technical("Ends the session with the password", SESSION, withheld=POSING)
    created_at: Mapped[datetime] = personal("Ends old sessions; shown to the person", SESSION)
    last_used_on: Mapped[date] = personal("Ends unused sessions; shown to the person; a day without a time", SESSION)


class Mail(Base):
    """Each email that still has to be sent: what it is about, never its text or its link."""

    __tablename__ = "mails"
    id: Mapped[uuid.UUID] = pseudonymous("Names the email; random", HANDOVER, primary_key=True, default=uuid.uuid4)
    kind: Mapped[str] = technical("Which email it is", HANDOVER, String(40))
    email: Mapped[str | None] = personal("Where it goes, if no account says so", HANDOVER, String(EMAIL_LENGTH))
    name: Mapped[str | None] = personal("The name, for the link of a registration", HANDOVER, String(NAME_LENGTH))
    account_id: Mapped[uuid.UUID | None] = of_account("Which account it is about", HANDOVER)
    about: Mapped[uuid.UUID | None] = pseudonymous("Which record or password it is about", HANDOVER, withheld=POSING)
    created_at: Mapped[datetime] = technical("How long it has waited", HANDOVER)
    due_at: Mapped[datetime] = technical("When to try, or to try again", HANDOVER)
    claim: Mapped[uuid.UUID | None] = technical("Which worker is sending it", HANDOVER)
    attempts: Mapped[int] = technical("How often sending was tried", HANDOVER, default=0)
    counted_on: Mapped[date | None] = technical("When it was counted for its inbox", HANDOVER)
    failure: Mapped[str | None] = technical("Why the last try failed: a code, no text", HANDOVER, String(40))
    blocked_at: Mapped[datetime | None] = technical("Since when it waits for the operator", HANDOVER)
    abandoned_at: Mapped[datetime | None] = technical("When the service gave up", HANDOVER)


Index("mails_due", Mail.abandoned_at, Mail.due_at)
# Finds the oldest email that was never tried, and counts such emails.
Index("mails_untried", Mail.abandoned_at, Mail.attempts, Mail.created_at)
Index("mails_email", func.lower(Mail.email), **where(Mail.account_id.is_(None)))
Index("mails_blocked", Mail.blocked_at, **where(Mail.blocked_at.is_not(None)))
Index("mails_claim", Mail.claim, **where(Mail.claim.is_not(None)))


class Announcement(Base):
    """Each email to everybody with an account, or to those who want emails about TILES, and how far sending is."""

    __tablename__ = "announcements"
    id: Mapped[uuid.UUID] = public("Names the announcement; random", PUBLIC, primary_key=True)
    sha256: Mapped[str] = public("Recognises the same announcement given twice", PUBLIC, String(64), unique=True)
    policy_version: Mapped[str | None] = public("Which version of the policy it announces, if any", PUBLIC, String(40))
    to_everybody: Mapped[bool] = public(
        "Whether it goes to everybody, as a material change of the policy does", PUBLIC, server_default=false()
    )
    subject: Mapped[str | None] = public("Its subject", PUBLIC, String(REASON_LENGTH))
    text: Mapped[str | None] = public("What it says", PUBLIC, Text)
    created_at: Mapped[datetime] = public("When it was given", PUBLIC)
    parts: Mapped[int] = public("In how many parts it is made", PUBLIC)
    parts_made: Mapped[int] = public("How many parts are made", PUBLIC)
    queued: Mapped[int] = public("How many emails it made", PUBLIC)
    finished_at: Mapped[datetime | None] = public("When its last email was made", PUBLIC)
    stopped_at: Mapped[datetime | None] = public("When it was stopped, so that no more emails leave", PUBLIC)


class Disclosure(Base):
    """Each time an authority lawfully got the data of an account: to whom and why, not the data itself."""

    __tablename__ = "disclosures"
    id: Mapped[uuid.UUID] = kept("Names the disclosure; random", RECORD, primary_key=True)
    account_id: Mapped[uuid.UUID] = kept("Whose data; after an erasure nobody can tell", RECORD, index=True)
    authority: Mapped[str] = kept("Who got the data", RECORD, String(REASON_LENGTH))
    basis: Mapped[str] = kept("The legal basis", RECORD, String(REASON_LENGTH))
    disclosed_at: Mapped[datetime] = kept("When", RECORD)


class AuditEntry(Base):
    """What was done with accounts, the policy and feedback, when and by whom, as the law asks us to show."""

    __tablename__ = "audit"
    id: Mapped[uuid.UUID] = kept("Names the entry; random", RECORD, primary_key=True)
    account_id: Mapped[uuid.UUID | None] = kept(
        "Which account, if it is about one; after an erasure nobody can tell", RECORD
    )
    act: Mapped[str] = kept("What was done", RECORD, String(40))
    actor: Mapped[str] = kept("By the person, the data manager or the service", RECORD, String(20))
    manager_id: Mapped[uuid.UUID | None] = kept("Which data manager, if they did it at the desk", RECORD)
    at: Mapped[datetime] = kept("When", RECORD)
    details: Mapped[dict[str, Any]] = kept("Dates, counts, versions and legal reasons that belong to it", RECORD, JSON)


Index("audit_at", AuditEntry.at, AuditEntry.id)
Index("audit_act", AuditEntry.act, AuditEntry.at, AuditEntry.id)
# With the act, so that SQLite does not prefer the index above for an act of one account.
Index("audit_account", AuditEntry.account_id, AuditEntry.act)
