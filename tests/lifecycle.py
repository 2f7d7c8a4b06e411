"""The model's accounts, sessions, emails and links."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from uuid import UUID

BEGINNING = datetime(2026, 3, 1, 10, tzinfo=UTC)


class Proof:
    """The last proof of the mailbox or password: a new password, a new address and closing each make another."""


@dataclass(eq=False)
class Previous:
    """An address that an account had."""

    email: str
    changed_at: datetime
    id: UUID | None = None


@dataclass(eq=False)
class Account:
    """An account."""

    id: UUID
    name: str | None
    email: str
    # None after an undo: then no password signs in.
    password: str | None
    updates: bool = True
    proof: Proof = field(default_factory=Proof)
    closed_at: datetime | None = None
    asked_at: datetime | None = None
    due: datetime | None = None
    previous: list[Previous] = field(default_factory=list)
    holds: list[datetime] = field(default_factory=list)
    feedback: set[UUID] = field(default_factory=set)
    erased: bool = False
    # The step of the run in which it last got a new password.
    renewed: int = 0

    @property
    def state(self) -> tuple[str, bool, Proof]:
        return self.email.lower(), self.closed_at is not None, self.proof


@dataclass(eq=False)
class Session:
    """A session, and the step of the run in which it began."""

    account: Account
    id: UUID
    token: str
    created_at: datetime
    used_on: date
    step: int


@dataclass(eq=False)
class Mail:
    """An email in the queue. It is kept after it was sent, because a registration's email becomes the account."""

    kind: str
    created_at: datetime
    due_at: datetime
    email: str | None = None
    name: str | None = None
    account: Account | None = None
    about: Previous | Proof | None = None
    attempts: int = 0
    abandoned_at: datetime | None = None
    id: UUID | None = None
    made: Account | None = None


@dataclass(eq=False)
class Link:
    """An emailed link: its recipient, its purpose, and the account with its state at the time."""

    to: str
    subject: str
    mail: Mail
    purpose: str | None = None
    account: Account | None = None
    state: tuple[str, bool, Proof] | None = None
    issued_at: datetime = BEGINNING
    step: int = 0
    token: str = ""


def mail_row(mail: Mail) -> tuple[object, ...]:
    """Return the columns of an email's row that the model predicts."""
    account = mail.account.id if mail.account else None
    previous = mail.about.id if isinstance(mail.about, Previous) else None
    due_at = None if mail.abandoned_at else mail.due_at
    when = (mail.created_at, due_at, mail.attempts, mail.abandoned_at)
    return mail.kind, mail.email, mail.name, account, previous, *when
