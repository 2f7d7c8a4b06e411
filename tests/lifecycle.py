"""What a model of the service knows of each account, session, mail and link."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from uuid import UUID

BEGINNING = datetime(2026, 3, 1, 10, tzinfo=UTC)


class Proof:
    """What was proven last: a new password, address or closing makes a new one."""


@dataclass(eq=False)
class Previous:
    """An address that an account had."""

    email: str
    changed_at: datetime
    id: UUID | None = None


@dataclass(eq=False)
class Account:
    """Somebody's account."""

    id: UUID
    name: str | None
    email: str
    # None after an old address took the account back: then no password opens it.
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
    # When it last got a new password, in steps of the whole run.
    renewed: int = 0

    @property
    def state(self) -> tuple[str, bool, Proof]:
        return self.email.lower(), self.closed_at is not None, self.proof


@dataclass(eq=False)
class Session:
    """A session, and since which step of the run somebody has it."""

    account: Account
    id: UUID
    token: str
    created_at: datetime
    used_on: date
    step: int


@dataclass(eq=False)
class Mail:
    """A mail in the queue. It stays known when it has left, as a registration's mail is what an account comes of."""

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
    """A link as it will be mailed: to whom, for what, about which account in which state."""

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
    """Return what of a mail is seen in its row."""
    account = mail.account.id if mail.account else None
    previous = mail.about.id if isinstance(mail.about, Previous) else None
    when = (mail.created_at, mail.due_at, mail.attempts, mail.abandoned_at)
    return mail.kind, mail.email, mail.name, account, previous, *when
