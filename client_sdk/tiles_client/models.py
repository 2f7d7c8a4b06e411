"""The results of calls, as frozen dataclasses, and how they are read from JSON.

No `repr` shows a token, a name or an email, so that none of them is logged by accident.
"""

from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime
from types import UnionType
from typing import get_args, get_origin


@dataclass(frozen=True, slots=True)
class LinkRequested:
    """The request was accepted: the emailed link works for so many seconds."""

    link_valid_for_seconds: int


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """The accepted version of the privacy policy, and the one in force. None if there is none yet."""

    accepted: str | None
    current: str | None


@dataclass(frozen=True, slots=True)
class AccountDetails:
    """An account. `name` is None after it was removed."""

    name: str | None = field(repr=False)
    email: str = field(repr=False)
    email_updates: bool
    created_at: datetime
    policy: PolicyStatus


@dataclass(frozen=True, slots=True)
class NewSession:
    """A new session. `token` is a secret that the service never shows again."""

    token: str = field(repr=False)
    id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The account that signed in, and its new session."""

    account: AccountDetails
    session: NewSession


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session of the account. `current` marks the one that asked."""

    id: str
    created_at: datetime
    last_used_on: date
    expires_at: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class AccountClosure:
    """When the account was closed, and when it will be erased. None if it is kept until somebody asks for that."""

    closed_at: datetime
    erase_after: datetime | None


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """How many rows an erasure removed from a store."""

    store: str
    rows: int


@dataclass(frozen=True, slots=True)
class KeptRows(RemovedRows):
    """How many rows an erasure kept in a store, and the legal basis for it."""

    basis: str


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What an erasure did. `account` is the account's random id. `requested_at` is None if nobody asked for it."""

    account: str
    requested_at: datetime | None
    erased_at: datetime
    removed: tuple[RemovedRows, ...]
    kept: tuple[KeptRows, ...]


@dataclass(frozen=True, slots=True)
class FeedbackReceipt:
    """The receipt of a message: its id, and when it arrived."""

    id: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of the privacy policy. `sha256` is the digest of its text in UTF-8. `url` is a page that shows it."""

    version: str
    effective_on: date
    sha256: str
    url: str


class FieldMismatch(ValueError):
    """A field of a response is missing or has another type. The message does not show its value."""


def parse(hint: object, value: object, name: str = "the JSON object") -> object:
    """Read decoded JSON as this type. Fields that a dataclass does not have are ignored; None discards the value."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if isinstance(hint, UnionType):  # X | None
        return None if value is None else parse(inner[0], value, name)
    if kind is tuple and isinstance(value, list):  # tuple[X, ...]
        return tuple(parse(inner[0], item, name) for item in value)
    if not isinstance(kind, type):
        return None
    if is_dataclass(kind) and isinstance(value, dict):
        return kind(*(parse(each.type, value.get(each.name, ...), each.name) for each in fields(kind)))
    if issubclass(kind, date) and isinstance(value, str):
        with suppress(ValueError):
            value = kind.fromisoformat(value)
    if not isinstance(value, kind) or (isinstance(value, datetime) and value.tzinfo is None):
        raise FieldMismatch(f"{name} is missing or wrong")
    return value
