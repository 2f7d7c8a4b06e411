"""What the service answers, as frozen values, and how they are read from JSON.

No `repr` shows a token, a name or an address, so that none of them ends in a log by accident.
"""

from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime
from types import UnionType
from typing import get_args, get_origin


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The version of the privacy policy that was accepted, and the one in force; None: none yet."""

    accepted: str | None
    current: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """All that the service tells about an account. `name` is None once it has been removed."""

    name: str | None = field(repr=False)
    email: str = field(repr=False)
    email_updates: bool
    created_at: datetime
    policy: PolicyState


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session just begun. `token` is a secret, and this is the only time it is told."""

    token: str = field(repr=False)
    id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who is signed in now, and by which session."""

    account: Account
    session: NewSession


@dataclass(frozen=True, slots=True)
class Session:
    """A place where the account is signed in; `current` marks the one that asked."""

    id: str
    created_at: datetime
    last_used_on: date
    expires_at: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """When the account was closed, and from when on it is erased; None: not before somebody asks for it."""

    closed_at: datetime
    erase_after: datetime | None


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows of a store an erasure removed."""

    store: str
    rows: int


@dataclass(frozen=True, slots=True)
class Kept(Removed):
    """How many rows of a store it kept instead, and on which legal basis."""

    basis: str


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What an erasure did. `account` was the account's random id; `requested_at` is None when nobody asked for it."""

    account: str
    requested_at: datetime | None
    erased_at: datetime
    removed: tuple[Removed, ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class StoredFeedback:
    """That a message was stored, under which id and when."""

    id: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Policy:
    """A version of the privacy policy; `sha256` is that of its text in UTF-8, and `url` is a page that shows it."""

    version: str
    effective_on: date
    sha256: str
    url: str


class MemberError(ValueError):
    """A member of an answer is missing or wrong. It is named, its value not: it may be a secret."""


def fit(hint: object, value: object, name: str = "the JSON object") -> object:
    """Read decoded JSON as this type, ignoring members that a dataclass does not name; where it is None, all of it."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if isinstance(hint, UnionType):  # X | None
        return None if value is None else fit(inner[0], value, name)
    if kind is tuple and isinstance(value, list):  # tuple[X, ...]
        return tuple(fit(inner[0], item, name) for item in value)
    if not isinstance(kind, type):
        return None
    if is_dataclass(kind) and isinstance(value, dict):
        return kind(*(fit(each.type, value.get(each.name, ...), each.name) for each in fields(kind)))
    if issubclass(kind, date) and isinstance(value, str):
        with suppress(ValueError):
            value = kind.fromisoformat(value)
    if not isinstance(value, kind) or (isinstance(value, datetime) and value.tzinfo is None):
        raise MemberError(f"{name} is missing or wrong")
    return value
