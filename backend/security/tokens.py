"""Mailed tokens: signed, bound to one purpose, for a time, and to the state that they may change.

A token needs no table. One about an account carries a digest of the account's state, so that any change of
state kills it; the feature that redeems it makes the change conditional on that same state.
"""

import hashlib
import re
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer
from pydantic import BaseModel, ValidationError

from backend import clock
from backend.database.engine import AnyRow
from backend.database.models import UNDO, Account
from backend.errors import InvalidToken
from backend.security import keys

SPELLING = re.compile(r"[A-Za-z0-9._-]+")


class Purpose(StrEnum):
    """What a token may be used for; it is the salt of the signature."""

    REGISTRATION = "registration"
    PASSWORD_RESET = "password-reset"  # noqa: S105 - a purpose, no password
    EMAIL_CHANGE = "email-change"
    EMAIL_CHANGE_UNDO = "email-change-undo"
    ERASURE = "erasure"
    ERASURE_CANCEL = "erasure-cancel"
    UNSUBSCRIBE = "unsubscribe"
    RECEIPT = "erasure-receipt"


# A mailed code may be good for 24 hours at most (NIST SP 800-63B-4, section 4.2.1.2). What is not named here has no end
# of its own: it ends with the state it is bound to, or not at all.
LIFETIMES = {
    Purpose.REGISTRATION: timedelta(hours=24),
    Purpose.PASSWORD_RESET: timedelta(hours=24),
    Purpose.EMAIL_CHANGE: timedelta(hours=1),
    Purpose.EMAIL_CHANGE_UNDO: UNDO,
    Purpose.ERASURE: timedelta(hours=24),
}
# Clocks of machines differ: a token may come from one that is ahead of this one.
LEEWAY = timedelta(minutes=5)


class _OfAccount(BaseModel):
    account: uuid.UUID


class _Bound(_OfAccount):
    state: str


class _Registration(_OfAccount):
    name: str
    email: str


class _EmailChange(_Bound):
    email: str


class _Undo(_Bound):
    change: uuid.UUID


class _Anything(BaseModel):
    pass


# What another release put into a mail may be something else: it is refused as any token that is not good.
CONTENTS: dict[Purpose, type[BaseModel]] = {
    Purpose.REGISTRATION: _Registration,
    Purpose.EMAIL_CHANGE: _EmailChange,
    Purpose.EMAIL_CHANGE_UNDO: _Undo,
    Purpose.UNSUBSCRIBE: _OfAccount,
    Purpose.RECEIPT: _Anything,
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
        serializer_kwargs={"ensure_ascii": False},
        signer=_Signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def issue(purpose: Purpose, content: dict[str, Any]) -> str:
    """Return a token that carries the content, for its purpose and its lifetime from now."""
    token = _serializer(purpose).dumps(content)
    return token if isinstance(token, str) else token.decode("ascii")


def redeem(purpose: Purpose, token: str) -> dict[str, Any]:
    """Return what a token carries. Whether it was used already is for the caller's update to find out.

    Raises:
        InvalidToken: it is made up, altered, cut off, expired, or of another purpose.
    """
    lifetime = LIFETIMES.get(purpose)
    # Decoding base64 passes over what is no letter of it: one token would have many spellings.
    if not SPELLING.fullmatch(token):
        raise InvalidToken
    try:
        content, issued_at = _serializer(purpose).loads(token, return_timestamp=True)
        CONTENTS.get(purpose, _Bound).model_validate(content)
    except (BadData, UnicodeError, ValidationError):
        raise InvalidToken from None
    # A signature has whole seconds.
    if lifetime and not -LEEWAY <= clock.now().replace(microsecond=0) - issued_at <= lifetime:
        raise InvalidToken
    return dict(content)


def issue_for(purpose: Purpose, account: Account | AnyRow, **content: str) -> str:
    """Return a token about an account that dies with the account's present state."""
    return issue(purpose, {"account": str(account.id), "state": state(purpose, account), **content})


def state(purpose: Purpose, account: Account | AnyRow) -> str:
    """Return a digest of what a token about an account is bound to; it tells nothing about the account."""
    status = "closed" if account.closed_at else "open"
    parts = (purpose.value, str(account.id), account.email.lower(), status, str(account.credentials_id))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
