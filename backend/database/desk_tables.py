"""The tables of the data manager's desk: its managers, the requests of people, and replies to feedback."""

import uuid
from datetime import date, datetime

from sqlalchemy import ColumnElement, Date, ForeignKey, Index, LargeBinary, String, Text, func
from sqlalchemy.orm import Mapped

from backend.database.declarations import kept, personal, pseudonymous, staff
from backend.database.engine import Base
from backend.database.models import EMAIL_LENGTH, FEEDBACK, NAME_LENGTH, REASON_LENGTH, RECORD, of_account, where

STAFF = f"as long as they are a data manager, and {RECORD} more, as the record of who did what"
AT_THE_DESK = "until they sign out, after 30 minutes without use, or 8 hours"


class Manager(Base):
    """Each data manager, who may sign in at the desk."""

    __tablename__ = "managers"
    id: Mapped[uuid.UUID] = staff("Names the manager in the audit; random", STAFF, primary_key=True)
    name: Mapped[str] = staff("Whom the audit shows", STAFF, String(NAME_LENGTH))
    email: Mapped[str] = staff("Where the link for signing in goes", STAFF, String(EMAIL_LENGTH))
    sign_in_id: Mapped[uuid.UUID] = staff("New with each sign-in; ends older links", STAFF)
    invited_at: Mapped[datetime] = staff("When the manager was invited", STAFF)
    removed_at: Mapped[datetime | None] = staff("When the manager was removed", STAFF)

    @classmethod
    def is_present(cls, email: str) -> ColumnElement[bool]:
        """Return the condition that a manager has this address, in upper or lower case, and was not removed."""
        return (func.lower(cls.email) == func.lower(email)) & cls.removed_at.is_(None)


Index("managers_email", func.lower(Manager.email), unique=True, **where(Manager.removed_at.is_(None)))


class DeskSession(Base):
    """Each browser in which a data manager is signed in."""

    __tablename__ = "desk_sessions"
    id: Mapped[uuid.UUID] = staff("Names the session when it is ended; random", AT_THE_DESK, primary_key=True)
    manager_id: Mapped[uuid.UUID] = staff(
        "Whose session it is", AT_THE_DESK, ForeignKey("managers.id", ondelete="CASCADE"), index=True
    )
    token_sha256: Mapped[bytes] = staff(
        "Recognises the browser without storing its secret", AT_THE_DESK, LargeBinary(32), unique=True
    )
    signed_in_at: Mapped[datetime] = staff("Ends old sessions", AT_THE_DESK)
    last_used_at: Mapped[datetime] = staff("Ends unused sessions", AT_THE_DESK)


class DataRequest(Base):
    """Each request about personal data that reached the data manager, and when it was answered."""

    __tablename__ = "data_requests"
    id: Mapped[uuid.UUID] = kept("Names the request; random", RECORD, primary_key=True)
    account_id: Mapped[uuid.UUID | None] = kept(
        "Whose request, if there is an account; after an erasure nobody can tell", RECORD, index=True
    )
    kind: Mapped[str] = kept("What was asked for", RECORD, String(20))
    way: Mapped[str] = kept("How the request came", RECORD, String(20))
    identity: Mapped[str] = kept("How it was checked who asks; names nobody", RECORD, String(REASON_LENGTH))
    received_on: Mapped[date] = kept("The day on which it came", RECORD, Date)
    due_on: Mapped[date] = kept("The day by which it must be answered", RECORD, Date)
    extension: Mapped[str | None] = kept("Why that day was put off; names nobody", RECORD, String(REASON_LENGTH))
    done_on: Mapped[date | None] = kept("The day on which it was answered", RECORD, Date)
    outcome: Mapped[str | None] = kept("How it was answered; names nobody", RECORD, String(REASON_LENGTH))
    recorded_at: Mapped[datetime] = kept("When it was entered", RECORD)


Index("data_requests_open", DataRequest.due_on, DataRequest.id, **where(DataRequest.done_on.is_(None)))
Index("data_requests_done", DataRequest.done_on, DataRequest.id, **where(DataRequest.done_on.is_not(None)))


class Reply(Base):
    """Each reply to feedback, which the writer gets by email."""

    __tablename__ = "replies"
    id: Mapped[uuid.UUID] = pseudonymous("Names the reply; random", FEEDBACK, primary_key=True)
    feedback_id: Mapped[uuid.UUID] = pseudonymous(
        "Which message it answers", FEEDBACK, ForeignKey("feedback.id", ondelete="CASCADE"), index=True
    )
    account_id: Mapped[uuid.UUID] = of_account("Who gets it", FEEDBACK)
    message: Mapped[str] = personal("What was answered", FEEDBACK, Text)
    written_at: Mapped[datetime] = personal("When it was written", FEEDBACK)
