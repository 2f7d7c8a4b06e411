"""Look at an emailed link before it is used. Looking changes nothing.

Only the holder of a genuine token learns more than that a link does not work, and no address but the one that the
email went to.
"""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backend.accounts import audit, credentials, previous_addresses, registration
from backend.database.engine import AnyRow, reading
from backend.errors import EmailInUse, InvalidToken
from backend.security import throttle, tokens
from backend.security.tokens import Purpose


class State(StrEnum):
    """The states of an emailed link."""

    LIVE = "live"
    USED = "used"
    REPLACED = "replaced"
    """Used, or ended by a newer password, address or closing: an account's state does not show which."""
    EXPIRED = "expired"
    MISPLACED = "misplaced"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Link:
    """A link's state, its purpose, and the address that it is about where the holder may know it."""

    state: State
    email: str = ""
    purpose: Purpose | None = None


def look(purpose: Purpose, *, token: str, client: str | None) -> Link:
    """Return the state of an emailed link. The limits are those of using a link."""
    throttle.charge("token", client=client)
    return find(purpose, token)


def find(purpose: Purpose, token: str) -> Link:
    """Return the same as `look`, for a caller that has charged for this token already."""
    try:
        content, is_expired = tokens.read(purpose, token)
    except InvalidToken:
        return misplaced_or_damaged(token)
    if is_expired:
        return Link(State.EXPIRED, content.get("email", ""))
    if purpose is Purpose.REGISTRATION:
        return _registration(content)
    account = credentials.account_of(content)
    if account is None:
        return Link(State.REPLACED)
    if tokens.state(purpose, account) == content["state"]:
        return _live(purpose, account, content)
    return Link(State.USED if _is_done(purpose, account, content) else State.REPLACED)


def misplaced_or_damaged(token: str) -> Link:
    """Return the state of a token that is not of this page: of another page, or damaged."""
    for purpose in Purpose:
        try:
            tokens.read(purpose, token)
        except InvalidToken:
            continue
        return Link(State.MISPLACED, purpose=purpose)
    return Link(State.DAMAGED)


def _registration(content: dict[str, Any]) -> Link:
    account_id, email = uuid.UUID(content["account"]), content["email"]
    try:
        with reading():
            registration.refuse_taken(account_id, email)
            is_used = audit.is_erased(account_id)
    except (InvalidToken, EmailInUse):
        is_used = True
    return Link(State.USED if is_used else State.LIVE, email)


def _live(purpose: Purpose, account: AnyRow, content: dict[str, Any]) -> Link:
    if purpose is Purpose.EMAIL_CHANGE:
        return Link(State.LIVE, content["email"])
    if purpose is Purpose.EMAIL_CHANGE_UNDO:
        try:
            return Link(State.LIVE, previous_addresses.find(account, content["change"]).email)
        except InvalidToken:
            return Link(State.EXPIRED)
    return Link(State.LIVE, account.email)


def _is_done(purpose: Purpose, account: AnyRow, content: dict[str, Any]) -> bool:
    """Return whether an account is already in the state that its link leads to."""
    match purpose:
        case Purpose.EMAIL_CHANGE:
            return bool(account.email.lower() == content["email"].lower())
        case Purpose.ERASURE:
            return account.closed_at is not None
        case Purpose.ERASURE_CANCEL:
            return account.closed_at is None
    return False
