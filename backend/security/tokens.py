"""Mailed tokens: signed, bound to one purpose, limited in time, and bound to the state that they may change.

A token needs no table. A token about an account carries a digest of the account's state, so that any change of state
kills it; the feature that redeems it makes its update conditional on the same state.
"""

import hashlib
import re
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer
from pydantic import BaseModel, ValidationError

from backend import clock
from backend.database.engine import AnyRow
from backend.database.models import UNDO, Account
from backend.errors import InvalidToken
from backend.security import keys

SPELLING = re.compile(r"[A-Za-z0-9._-]+")


class Purpose(StrEnum):
    """The purpose of a token, which is the salt of its signature."""

    REGISTRATION = "registration"
    PASSWORD_RESET = "password-reset"  # noqa: S105 - a purpose, no password
    EMAIL_CHANGE = "email-change"
    EMAIL_CHANGE_UNDO = "email-change-undo"
    ERASURE = "erasure"
    ERASURE_CANCEL = "erasure-cancel"
    UNSUBSCRIBE = "unsubscribe"
    RECEIPT = "erasure-receipt"
    DESK = "desk/sign-in"


MAILED = (Purpose.REGISTRATION, Purpose.PASSWORD_RESET, Purpose.EMAIL_CHANGE, Purpose.EMAIL_CHANGE_UNDO,
          Purpose.ERASURE, Purpose.ERASURE_CANCEL)  # fmt: skip
"""The purposes of emailed links: each works once, and leads to a page of this name."""

# An emailed code may be valid for at most 24 hours (NIST SP 800-63B-4, section 4.2.1.2). A purpose that is not listed
# has no time limit: its token ends with the state it is bound to, or not at all.
LIFETIMES = {
    Purpose.REGISTRATION: timedelta(hours=24),
    Purpose.PASSWORD_RESET: timedelta(hours=24),
    Purpose.EMAIL_CHANGE: timedelta(hours=1),
    Purpose.EMAIL_CHANGE_UNDO: UNDO,
    Purpose.ERASURE: timedelta(hours=24),
    Purpose.DESK: timedelta(minutes=10),
}
# The machine that issued a token may have a clock that is ahead of this one.
LEEWAY = timedelta(minutes=5)


class _Content(BaseModel):
    account: uuid.UUID  # or, for the desk, the data manager
    state: str = ""
    name: str = ""
    email: str = ""
    change: uuid.UUID = uuid.UUID(int=0)


# A token that another release issued may lack a field: it is invalid, and no server error.
REQUIRED = {
    Purpose.REGISTRATION: {"name", "email"},
    Purpose.EMAIL_CHANGE: {"state", "email"},
    Purpose.EMAIL_CHANGE_UNDO: {"state", "change"},
    Purpose.UNSUBSCRIBE: set[str](),
    Purpose.RECEIPT: set[str](),
}


class _Signer(TimestampSigner):
    """Signs with the project's own clock."""

    def get_timestamp(self) -> int:
        return int(clock.now().timestamp())

    def timestamp_to_datetime(self, ts: int) -> datetime:
        return datetime.fromtimestamp(ts, tz=UTC)


def _serializer(purpose: Purpose) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        # itsdangerous signs with the last key of its list.
        [key.get_secret_value() for key in reversed(keys.in_use())],
        salt=purpose.value,
        signer=_Signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def issue(purpose: Purpose, content: dict[str, Any]) -> str:
    """Return a token that carries the content; its lifetime begins now."""
    token = _serializer(purpose).dumps(content)
    assert isinstance(token, str)
    return token


def joined(token: str) -> str:
    """Return a token without the line breaks of mail programs and the white space that people copy with it."""
    return "".join(token.split())


class Reading(NamedTuple):
    """The content of a genuine token, and whether it has expired."""

    content: dict[str, Any]
    is_expired: bool


def read(purpose: Purpose, token: str) -> Reading:
    """Return the content of a token, expired or not.

    Raises:
        InvalidToken: it is made up, altered, from the future, or of another purpose.
    """
    token = joined(token)
    # The base64 decoder skips other characters, so that one token would have many spellings.
    if not SPELLING.fullmatch(token):
        raise InvalidToken
    try:
        content, issued_at = _serializer(purpose).loads(token, return_timestamp=True)
        _Content.model_validate(content)
    except (BadData, UnicodeError, ValidationError):
        raise InvalidToken from None
    if not REQUIRED.get(purpose, {"state"}) <= content.keys():
        raise InvalidToken
    lifetime = LIFETIMES.get(purpose)
    # The signed time has whole seconds.
    age = clock.now().replace(microsecond=0) - issued_at
    if lifetime and age < -LEEWAY:
        raise InvalidToken
    return Reading(dict(content), is_expired=lifetime is not None and age > lifetime)


def redeem(purpose: Purpose, token: str) -> dict[str, Any]:
    """Return the content of a token. The caller's conditional update finds out whether it was used before.

    Raises:
        InvalidToken: it is expired, or `read` refuses it.
    """
    content, is_expired = read(purpose, token)
    if is_expired:
        raise InvalidToken
    return content


def issue_for(purpose: Purpose, account: Account | AnyRow, **content: str) -> str:
    """Return a token about an account that dies with the account's present state."""
    return issue(purpose, {"account": str(account.id), "state": state(purpose, account), **content})


def state(purpose: Purpose, account: Account | AnyRow) -> str:
    """Return a digest of the state that a token about an account is bound to; it reveals nothing about the account."""
    status = "closed" if account.closed_at else "open"
    return _digest(purpose, str(account.id), account.email.lower(), status, str(account.credentials_id))


def issue_for_manager(manager: AnyRow) -> str:
    """Return a token with which a data manager signs in at the desk; each sign-in kills the older ones."""
    return issue(Purpose.DESK, {"account": str(manager.id), "state": manager_state(manager)})


def manager_state(manager: AnyRow) -> str:
    """Return a digest of the state that a data manager's token is bound to."""
    return _digest(Purpose.DESK, str(manager.id), manager.email.lower(), str(manager.sign_in_id))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def issue_receipt(entry: AnyRow) -> str:
    """Return the signed receipt of an erasure from its audit entry; it is valid as long as its key is in use.

    `account` is a random number, `requested_at` (None when nobody asked) and `erased_at` are RFC 3339, `removed` and
    `kept` have the number of rows in each store; `kept` has the legal basis too.
    """
    return issue(Purpose.RECEIPT, {"account": str(entry.account_id), **entry.details})
