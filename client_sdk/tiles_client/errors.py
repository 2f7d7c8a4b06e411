"""Everything a call can raise.

TilesError
├── ServiceRefused          the service understood and said no; `code` says why
│   ├── MalformedJson   UnsupportedMediaType   PayloadTooLarge   InvalidRequest   WeakPassword
│   ├── Unauthenticated   WrongCredentials   WrongPassword   InvalidToken   EmailInUse
│   └── NotFound   MethodNotAllowed   TooManyRequests   Overloaded
└── ServiceUnreachable      no answer came; whether the request was carried out is unknown
    ├── NotConnected        it was not: nothing was sent
    └── BrokenAnswer        something answered, but not as the service does
"""

from dataclasses import dataclass

REFUSALS: dict[str, type["ServiceRefused"]] = {}  # by problem code


class TilesError(Exception):
    """Any failure of a call: catch this one to catch them all."""


class ServiceUnreachable(TilesError):
    """No answer came (time-out, cut connection); the request may have been carried out or not."""


class NotConnected(ServiceUnreachable):
    """No connection could be opened. Nothing was sent, so trying again is safe."""


class BrokenAnswer(ServiceUnreachable):
    """What came back is not the service's: a proxy's error page, a redirect, a member missing."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that was refused: a JSON pointer (RFC 6901) into what was sent, and the reason."""

    pointer: str
    detail: str


@dataclass(eq=False)
class ServiceRefused(TilesError):
    """The service understood and said no (RFC 9457). Raised itself for a code that is newer than this client.

    `title` and `detail` are for people to read, `errors` says which fields were refused, and `retry_after` in how
    many seconds to ask again, where the service said so.
    """

    code: str
    status: int
    title: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None

    def __init_subclass__(cls, *, code: str) -> None:
        """Raise this class for the code."""
        REFUSALS[code] = cls

    def __str__(self) -> str:
        """Code, detail and refused fields, in one line."""
        fields = [f"{error.pointer}: {error.detail}" for error in self.errors]
        return f"{self.code}: {'; '.join([self.detail, *fields])}"


class MalformedJson(ServiceRefused, code="malformed-json"):
    """The body could not be read as JSON."""


class UnsupportedMediaType(ServiceRefused, code="unsupported-media-type"):
    """The body was not sent as JSON."""


class PayloadTooLarge(ServiceRefused, code="payload-too-large"):
    """The body is larger than the service reads."""


class InvalidRequest(ServiceRefused, code="invalid-request"):
    """A field is missing, unknown, or out of its rule: `errors` says which."""


class WeakPassword(ServiceRefused, code="weak-password"):
    """The password is refused: `errors` says why."""


class Unauthenticated(ServiceRefused, code="unauthenticated"):
    """There is no session, or it has ended: sign in again."""


class WrongCredentials(ServiceRefused, code="wrong-credentials"):
    """Signing in failed; the service does not say whether by the email or by the password."""


class WrongPassword(ServiceRefused, code="wrong-password"):
    """The present password, asked for again, is wrong."""


class InvalidToken(ServiceRefused, code="invalid-token"):
    """The mailed token is made up, used, expired, or meant for something else."""


class EmailInUse(ServiceRefused, code="email-in-use"):
    """An account with this proven address exists already."""


class NotFound(ServiceRefused, code="not-found"):
    """There is nothing of that name, or it is not yours."""


class MethodNotAllowed(ServiceRefused, code="method-not-allowed"):
    """The service knows the path, but not this use of it."""


class TooManyRequests(ServiceRefused, code="too-many-requests"):
    """A limit is reached: wait `retry_after` seconds."""


class Overloaded(ServiceRefused, code="overloaded"):
    """The service cannot keep up: wait `retry_after` seconds."""
