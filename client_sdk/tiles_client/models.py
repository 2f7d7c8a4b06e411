"""What the service answers, as frozen values, and how they are read from JSON.

No `repr` shows a token, a name or an address, so that none of them ends in a log by accident.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from datetime import date, datetime
from types import UnionType
from typing import TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


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
class Sessions:
    """Every place where the account is signed in."""

    sessions: tuple[Session, ...]


class MemberError(ValueError):
    """A member of an answer is missing or wrong. It is named, its value not: it may be a secret."""

    def __init__(self, name: str) -> None:
        """Name the member."""
        super().__init__(f"{name} is missing or wrong")


def read_as(kind: Callable[..., T], value: object, name: str = "the JSON object") -> T:
    """Read a decoded JSON object as this dataclass, ignoring what it does not name; MemberError says what is wrong."""
    if not isinstance(value, dict):
        raise MemberError(name)
    members = get_type_hints(kind)
    if missing := members.keys() - value.keys():
        raise MemberError(min(missing))
    return kind(*(_fit(hint, value[member], member) for member, hint in members.items()))


def _fit(hint: object, value: object, name: str) -> object:
    inner = get_args(hint)
    if isinstance(hint, UnionType):  # X | None
        return None if value is None else _fit(inner[0], value, name)
    if get_origin(hint) is tuple and isinstance(value, list):  # tuple[X, ...]
        return tuple(_fit(inner[0], item, name) for item in value)
    if not isinstance(hint, type):
        raise MemberError(name)
    if is_dataclass(hint):
        return read_as(hint, value, name)
    if issubclass(hint, date) and isinstance(value, str):
        with suppress(ValueError):
            value = hint.fromisoformat(value)
    if not isinstance(value, hint) or (isinstance(value, datetime) and value.tzinfo is None):
        raise MemberError(name)
    return value
