"""Every error that the service returns, each with a stable code (RFC 9457)."""
# ruff: noqa: D101 - the title and the explanation describe each problem

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field that broke its rule: its JSON Pointer (RFC 6901), and the rule."""

    pointer: str
    detail: str


class Problem(Exception):
    """An error that the client can act on. It never repeats what the client sent.

    The class attributes are the same in every response with this code. `explanation` and `remedy` make the page behind
    the problem's `type`.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    explanation: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(
        self, detail: str | None = None, *, errors: Sequence[FieldError] = (), retry_after: int | None = None
    ) -> None:
        """Describe one occurrence; without a detail, the explanation is the detail."""
        self.detail = detail or self.explanation
        self.errors = tuple(errors)
        self.retry_after = retry_after
        super().__init__(self.code)


def _from_now(seconds: int) -> str:
    minutes, hours = math.ceil(seconds / 60), math.ceil(seconds / 3600)
    if minutes <= 1:
        return "in a minute"
    return f"in {minutes} minutes" if minutes < 2 * 60 else f"in {hours} hours"


class MalformedJson(Problem):
    code, status, title = "malformed-json", 400, "The body is not JSON"
    explanation = "The body could not be read as JSON in UTF-8 (RFC 8259)."
    remedy = "Send one JSON object, without NaN, Infinity or lone surrogates, nested only as the contract asks."


class UnsupportedMediaType(Problem):
    code, status, title = "unsupported-media-type", 415, "The body has the wrong media type"
    explanation = "This address reads bodies of one media type only."
    remedy = "Send the header Content-Type: application/json, and the body uncompressed."


class PayloadTooLarge(Problem):
    code, status, title = "payload-too-large", 413, "The body is too large"
    explanation = "A body may have at most 16 KiB, that of feedback 64 KiB."
    remedy = "Send less: no field of the contract needs more."


class InvalidRequest(Problem):
    code, status, title = "invalid-request", 422, "A field is missing, unknown or out of its rule"
    explanation = "The request was understood, but some of its fields cannot be accepted."
    remedy = "Correct the fields that `errors` points to. Fields that the contract does not name are refused."


class WrongHost(InvalidRequest):
    status = 400
    explanation = "The request has no header Host, or more than one."


class WeakPassword(Problem):
    code, status, title = "weak-password", 422, "The password is too easy to guess"
    explanation = "The new password would be easy to guess; `errors` says why."
    remedy = "Choose a longer one. Several words that have nothing to do with you work well."


class Unauthenticated(Problem):
    code, status, title = "unauthenticated", 401, "Sign in first"
    explanation = "This needs a session, and the one that was sent does not exist or has ended."
    remedy = "Sign in with POST /v1/sessions and send the token as Authorization: Bearer."


class WrongCredentials(Problem):
    code, status, title = "wrong-credentials", 401, "Sign-in failed"
    explanation = "No open account has this address and this password together."
    remedy = "Check both, or reset the password with POST /v1/password-resets."


class WrongPassword(Problem):
    code, status, title = "wrong-password", 403, "The current password is wrong"
    explanation = "This needs the account's current password, and the one that was sent is another."
    remedy = "Ask for the password again, or reset it with POST /v1/password-resets."


class InvalidToken(Problem):
    code, status, title = "invalid-token", 400, "This link or code no longer works"
    explanation = "The code is incomplete, expired, already used, or replaced by something newer."
    remedy = "Ask for a new mail and use its link, all of it, once."


class EmailInUse(Problem):
    code, status, title = "email-in-use", 409, "There is an account with this address"
    explanation = "An account with this email address exists already."
    remedy = "Sign in to it, or reset its password."


class NotFound(Problem):
    code, status, title = "not-found", 404, "Nothing is here"
    explanation = "There is nothing at this address, or it belongs to somebody else."
    remedy = "Compare the address with /openapi.json."


class MethodNotAllowed(Problem):
    code, status, title = "method-not-allowed", 405, "This address does not take that method"
    explanation = "Something is here, but not for this method."
    remedy = "Use a method that the header Allow names."


class TooManyRequests(Problem):
    code, status, title = "too-many-requests", 429, "Too many requests"
    explanation = "A limit is reached. It is the same whether or not an account exists."
    remedy = "Wait as many seconds as the header Retry-After says."

    def __init__(self, detail: str | None = None, *, retry_after: int) -> None:
        """Say in words when to try again."""
        super().__init__(f"{detail or self.explanation} Try again {_from_now(retry_after)}.", retry_after=retry_after)


class Overloaded(Problem):
    code, status, title = "overloaded", 503, "The service cannot do this right now"
    explanation = "The database cannot be reached, or too many passwords are being checked at once."
    remedy = "Try again after as many seconds as the header Retry-After says; nothing was lost."


class InternalError(Problem):
    code, status, title = "internal-error", 500, "Something went wrong on our side"
    explanation = "The service made a mistake, which was noted without what you sent."
    remedy = "Try again later; write to us if it stays."


class Impossible(Exception):
    """An operation cannot be done; the message says why and what to do instead."""


class Unknown(Impossible):
    """Nothing has this id or name."""


def problems() -> dict[str, type[Problem]]:
    """Return every problem by its code."""
    return {kind.code: kind for kind in Problem.__subclasses__()}


def stack_of(error: BaseException) -> str:
    """Return an error's type and stack without its message, which may hold client data."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{stack}"
