"""Every table on one page, each column with its declaration.

Export, erasure, the privacy page and the inventory read these declarations and nothing else: a column without one
fails the tests.
"""

import uuid
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    BindParameter,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    ScalarSelect,
    String,
    Text,
    Uuid,
    func,
    select,
    text,
)
from sqlalchemy.orm import Mapped

from backend.database.declarations import Category, internal, kept, personal, pseudonymous, public, secret, technical
from backend.database.engine import Base

NAME_LENGTH = 200
EMAIL_LENGTH = 254
REASON_LENGTH = 500
# How long an address that was replaced can take the account back (DESIGN: the undo link of an email change).
UNDO = timedelta(hours=72)
FORGET_ABANDONED = timedelta(days=7)
# The longest ordinary limitation period for claims about data protection.
KEEP_RECORDS = timedelta(days=3 * 365)

LIFE = "as long as the account"
SESSION = "until the session ends: signed out, a new password, idle, or too old"
HANDOVER = f"until the mail is handed over, or {FORGET_ABANDONED.days} days after it was given up"
FEEDBACK = "for good, to improve the app; what was sent signed in, as long as the account"
CHANGE = f"{UNDO // timedelta(hours=1)} hours"
HOLD = "until the hold ends or is lifted"
RECORD = f"{KEEP_RECORDS.days // 365} years"
GUESSING = "with it the password could be guessed"
BLOCKED, CLAIMED = "blocked_at IS NOT NULL", "claim IS NOT NULL"
KEY = "until the key is not used any more"
FOLLOWING = "with it somebody could pass for the person"


class Account(Base):
    """A person who proved a mailbox and chose a password."""

    __tablename__ = "accounts"

    id: Mapped[uuid.UUID] = pseudonymous("Ties what belongs together; random", LIFE, primary_key=True)
    name: Mapped[str | None] = personal("What the app calls the person; may be removed", LIFE, String(NAME_LENGTH))
    email: Mapped[str] = personal("Signing in and resetting the password", LIFE, String(EMAIL_LENGTH))
    password_hash: Mapped[str] = secret(
        Category.PERSONAL, "Checks the password without knowing it (Argon2id)", LIFE, GUESSING, String(255)
    )
    taken_back_at: Mapped[datetime | None] = personal(
        "Not used any more; the release before sets it when an old address takes the account back", LIFE
    )
    credentials_id: Mapped[uuid.UUID] = secret(
        Category.TECHNICAL, "New with every password, and so ends every older session and mailed link", LIFE, FOLLOWING
    )
    email_updates: Mapped[bool] = personal("Whether the person wants mails about TILES", LIFE)
    accepted_policy: Mapped[str | None] = personal(
        "The version of the privacy policy that the person accepted", LIFE, String(40)
    )
    created_at: Mapped[datetime] = personal("Shown to the person", LIFE)
    closed_at: Mapped[datetime | None] = personal("When the account was closed", LIFE)
    erasure_requested_at: Mapped[datetime | None] = personal("When the person asked for erasure", LIFE)
    erase_after: Mapped[datetime | None] = personal("From when on it is erased, unless a legal hold delays it", LIFE)
    erasing_since: Mapped[datetime | None] = technical("That the erasure has begun, and cannot be taken back", LIFE)

    @classmethod
    def wants_mails(cls) -> ColumnElement[bool]:
        """Return the condition that an account is open and wants mails about TILES."""
        return cls.email_updates & cls.closed_at.is_(None)

    @classmethod
    def is_closed_with(cls, email: str | BindParameter[str]) -> ColumnElement[bool]:
        """Return the condition that an account is closed and has this address, whatever its case."""
        return (func.lower(cls.email) == func.lower(email)) & cls.closed_at.is_not(None)

    @classmethod
    def is_open_with(cls, email: str | BindParameter[str]) -> ColumnElement[bool]:
        """Return the condition that an account is open and has this address, whatever its case.

        It repeats the expression and the condition of the index below: a partial index serves no other look-up.
        """
        return (func.lower(cls.email) == func.lower(email)) & cls.closed_at.is_(None)

    __table_args__ = ({"info": {"purpose": "One row for each person with an account"}},)


def _where(condition: ColumnElement[bool]) -> dict[str, Any]:
    return {"sqlite_where": condition, "postgresql_where": condition}


_LOWER = func.lower(Account.email)
Index("accounts_open_email", _LOWER, unique=True, **_where(Account.closed_at.is_(None)))
Index("accounts_closed_email", _LOWER, **_where(Account.closed_at.is_not(None)))
Index("accounts_erase_after", Account.erase_after, **_where(Account.erase_after.is_not(None)))


def with_hold(erase_after: datetime | None, held_until: datetime | None) -> datetime | None:
    """Return from when on an account is erased, a legal hold taken into account."""
    return max(erase_after, held_until) if erase_after and held_until else erase_after


class PasswordCost(Base):
    """Argon2 parameters that some account's hash may have: signing in does the work of each, whoever signs in."""

    __tablename__ = "password_costs"

    cost: Mapped[str] = public("The parameters, as hashes name them", String(60), primary_key=True)

    __table_args__ = ({"info": {"purpose": "One row for each cost of password hashes that is in use"}},)


class KeyDigest(Base):
    """A key that signs for this database. A machine that has none of them is told so at its start."""

    __tablename__ = "key_digests"

    digest: Mapped[str] = internal("Recognises the key without holding it", KEY, String(64), primary_key=True)
    first_seen: Mapped[date] = internal("When the service began to sign with it", KEY)

    __table_args__ = ({"info": {"purpose": "One row for each key that signs links and receipts"}},)


class Total(Base):
    """How often something was done since the first day, for the metrics."""

    __tablename__ = "totals"

    event: Mapped[str] = public("What was done", String(40), primary_key=True)
    value: Mapped[int] = public("How often", BigInteger)

    __table_args__ = ({"info": {"purpose": "Counts of mails and erasures, for the metrics"}},)


class PreviousAddress(Base):
    """An address that an account had a short while ago, and which can take the account back."""

    __tablename__ = "previous_addresses"

    id: Mapped[uuid.UUID] = pseudonymous("Names the change; random", CHANGE, primary_key=True)
    account_id: Mapped[uuid.UUID] = pseudonymous(
        "Whose address it was", CHANGE, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    email: Mapped[str] = personal("Taking the account back if it was stolen", CHANGE, String(EMAIL_LENGTH))
    changed_at: Mapped[datetime] = personal("When another took its place", CHANGE)

    @classmethod
    def may_take_back(cls, now: datetime) -> ColumnElement[bool]:
        """Return the condition that an address still can."""
        return cls.changed_at > now - UNDO

    __table_args__ = ({"info": {"purpose": "One row for each address that was changed within 72 hours"}},)


class Hold(Base):
    """A legal duty to keep an account for now: while one lasts, nothing of the account is erased."""

    __tablename__ = "holds"

    id: Mapped[uuid.UUID] = pseudonymous("Names the hold; random", HOLD, primary_key=True)
    account_id: Mapped[uuid.UUID] = pseudonymous(
        "Whose account must be kept", HOLD, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    basis: Mapped[str] = personal("The legal basis", HOLD, String(REASON_LENGTH))
    placed_at: Mapped[datetime] = personal("When it was placed", HOLD)
    until: Mapped[datetime] = personal("When it ends by itself", HOLD)

    @classmethod
    def latest(cls, now: datetime | BindParameter[datetime]) -> ScalarSelect[datetime]:
        """Return until when the account of the surrounding statement must be kept; NULL where nothing says so."""
        lasting = (cls.account_id == Account.id) & (cls.until > now)
        return select(func.max(cls.until)).where(lasting).correlate(Account).scalar_subquery()

    __table_args__ = ({"info": {"purpose": "One row for each legal hold that lasts"}},)


class Policy(Base):
    """A version of the privacy policy, as it was published."""

    __tablename__ = "policies"

    version: Mapped[str] = public("Names the version", String(40), primary_key=True)
    effective_on: Mapped[date] = public("From which day (UTC) it is in force")
    sha256: Mapped[str] = public("Shows that the text is the one that was announced", String(64))
    text: Mapped[str] = public("What it says", Text)
    published_at: Mapped[datetime] = public("When it was published")
    withdrawn_at: Mapped[datetime | None] = public("When it was withdrawn, before it was in force")

    @classmethod
    def in_force_on(cls, day: date | BindParameter[date]) -> ScalarSelect[str]:
        """Return the version that is in force on a day: of those begun, the one that began last."""
        begun = select(cls.version).where(cls.effective_on <= day, cls.withdrawn_at.is_(None))
        return begun.order_by(cls.effective_on.desc(), cls.published_at.desc()).limit(1).scalar_subquery()

    __table_args__ = ({"info": {"purpose": "One row for each version of the privacy policy"}},)


class Feedback(Base):
    """What somebody wrote to us from the app."""

    __tablename__ = "feedback"

    id: Mapped[uuid.UUID] = pseudonymous("Names the message; random", FEEDBACK, primary_key=True)
    account_id: Mapped[uuid.UUID | None] = pseudonymous(
        "Who wrote it, if the app was signed in", FEEDBACK, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    message: Mapped[str] = personal("Improving the app", FEEDBACK, Text)
    received_at: Mapped[datetime] = personal("When it came", FEEDBACK)
    key_sha256: Mapped[bytes | None] = secret(
        Category.TECHNICAL,
        "Recognises a message that is sent twice",
        FEEDBACK,
        "it says nothing to a person",
        LargeBinary(32),
        unique=True,
    )

    __table_args__ = ({"info": {"purpose": "One row for each message from the app"}},)


class Session(Base):
    """One signed-in app. It counts only while its `credentials_id` is still the account's."""

    __tablename__ = "sessions"

    id: Mapped[uuid.UUID] = pseudonymous("Names the session when the person ends it; random", SESSION, primary_key=True)
    account_id: Mapped[uuid.UUID] = pseudonymous(
        "Whose session it is", SESSION, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    token_sha256: Mapped[bytes] = secret(
        Category.TECHNICAL,
        "Recognises the session's token without holding it",
        SESSION,
        FOLLOWING,
        LargeBinary(32),
        unique=True,
    )
    credentials_id: Mapped[uuid.UUID] = secret(
        Category.TECHNICAL, "Ends the session with the password", SESSION, FOLLOWING
    )
    created_at: Mapped[datetime] = personal("Ends old sessions; shown to the person", SESSION)
    last_used_on: Mapped[date] = personal("Ends idle sessions; shown to the person; a day, no time", SESSION)

    __table_args__ = ({"info": {"purpose": "One row for each signed-in app"}},)


class Mail(Base):
    """A mail to be sent: what it is about, never its text, link or token."""

    __tablename__ = "mails"

    id: Mapped[uuid.UUID] = pseudonymous("Names the row; random", HANDOVER, primary_key=True)
    kind: Mapped[str] = technical("Which mail it is", HANDOVER, String(40))
    email: Mapped[str | None] = personal("Where it goes, when no account says so", HANDOVER, String(EMAIL_LENGTH))
    name: Mapped[str | None] = personal(
        "The name given on registering, on its way into the mailed link", HANDOVER, String(NAME_LENGTH)
    )
    account_id: Mapped[uuid.UUID | None] = pseudonymous(
        "Whose account it is about", HANDOVER, ForeignKey("accounts.id", ondelete="CASCADE"), index=True
    )
    about: Mapped[uuid.UUID | None] = secret(
        Category.PSEUDONYMOUS,
        "Which record the mail tells of, or with which password it was asked for; random",
        HANDOVER,
        FOLLOWING,
    )
    created_at: Mapped[datetime] = technical("How long it has waited", HANDOVER)
    due_at: Mapped[datetime] = technical("When to try, or to try again", HANDOVER)
    claim: Mapped[uuid.UUID | None] = technical("Which worker is sending it", HANDOVER)
    attempts: Mapped[int] = technical("How often it was tried", HANDOVER, default=0)
    counted_on: Mapped[date | None] = technical("When it was counted for its mailbox", HANDOVER)
    failure: Mapped[str | None] = technical("Why the last try failed: a code, no text", HANDOVER, String(40))
    blocked_at: Mapped[datetime | None] = technical("Since when it waits for the operator", HANDOVER)
    abandoned_at: Mapped[datetime | None] = technical("When it was given up", HANDOVER)

    __table_args__ = (
        Index("mails_due", "abandoned_at", "due_at"),
        Index("mails_blocked", "blocked_at", sqlite_where=text(BLOCKED), postgresql_where=text(BLOCKED)),
        Index("mails_claim", "claim", sqlite_where=text(CLAIMED), postgresql_where=text(CLAIMED)),
        {"info": {"purpose": "One row for each mail that still has to be sent"}},
    )


class Announcement(Base):
    """A mail to everybody who wants mails about TILES, and how far sending it has come."""

    __tablename__ = "announcements"

    id: Mapped[uuid.UUID] = public("Names the announcement; random", primary_key=True)
    sha256: Mapped[str] = public("Recognises the same announcement given twice", String(64), unique=True)
    policy_version: Mapped[str | None] = public("Which policy version it announces, if it does", String(40))
    subject: Mapped[str | None] = public("Its subject", String(REASON_LENGTH))
    text: Mapped[str | None] = public("What it says", Text)
    created_at: Mapped[datetime] = public("When it was given")
    parts: Mapped[int] = public("In how many parts it is made")
    parts_made: Mapped[int] = public("How many of them are made")
    queued: Mapped[int] = public("How many mails it made")
    finished_at: Mapped[datetime | None] = public("When the last mail was queued")

    __table_args__ = ({"info": {"purpose": "One row for each announcement"}},)


class Disclosure(Base):
    """That an account's data were handed to an authority: to whom and why, not what they said."""

    __tablename__ = "disclosures"

    id: Mapped[uuid.UUID] = kept(Category.PSEUDONYMOUS, "Names the disclosure; random", RECORD, primary_key=True)
    account_id: Mapped[uuid.UUID] = kept(
        Category.PSEUDONYMOUS, "Whose data; a random number that says nothing once the account is erased", RECORD,
        Uuid, index=True,
    )  # fmt: skip
    authority: Mapped[str] = kept(Category.PSEUDONYMOUS, "Who was given the data", RECORD, String(REASON_LENGTH))
    basis: Mapped[str] = kept(Category.PSEUDONYMOUS, "The legal basis", RECORD, String(REASON_LENGTH))
    disclosed_at: Mapped[datetime] = kept(Category.PSEUDONYMOUS, "When", RECORD)

    __table_args__ = ({"info": {"purpose": "One row for each lawful disclosure to an authority"}},)


class AuditEntry(Base):
    """That something was done with an account: what, when, and whether by the person, the manager or the service."""

    __tablename__ = "audit"

    id: Mapped[uuid.UUID] = kept(Category.PSEUDONYMOUS, "Names the entry; random", RECORD, primary_key=True)
    account_id: Mapped[uuid.UUID] = kept(
        Category.PSEUDONYMOUS, "Which account; a random number that says nothing once the account is erased", RECORD,
        Uuid, index=True,
    )  # fmt: skip
    act: Mapped[str] = kept(Category.PSEUDONYMOUS, "What was done", RECORD, String(40))
    actor: Mapped[str] = kept(Category.PSEUDONYMOUS, "By the person, the data manager or the service", RECORD,
                              String(20))  # fmt: skip
    at: Mapped[datetime] = kept(Category.PSEUDONYMOUS, "When", RECORD)
    details: Mapped[dict[str, Any]] = kept(Category.PSEUDONYMOUS, "Dates and counts that belong to it", RECORD, JSON)

    __table_args__ = ({"info": {"purpose": "One row for each act about an account that has to be shown"}},)
