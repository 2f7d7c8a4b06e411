"""Everything a call can raise.

TilesError has two branches: ServiceRefused, with a class for each problem code, named after it, and ServiceUnreachable.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that was refused: a JSON pointer (RFC 6901) into what was sent, and the reason."""

    pointer: str
    detail: str


class TilesError(Exception):
    """Any failure of a call: catch this one to catch them all."""


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

    def __str__(self) -> str:
        """Code, detail and refused fields, in one line."""
        fields = [f"{error.pointer}: {error.detail}" for error in self.errors]
        return f"{self.code}: {'; '.join([self.detail, *fields])}"


# fmt: off
# ruff: noqa: E701 (as a table, with a class on each line, the tree is seen at once)
class MalformedJson(ServiceRefused):        """The body could not be read as JSON."""
class UnsupportedMediaType(ServiceRefused): """The body was not sent as JSON."""
class PayloadTooLarge(ServiceRefused):      """The body is larger than the service reads."""
class InvalidRequest(ServiceRefused):       """A field is missing, unknown, or out of its rule: `errors` says which."""
class WeakPassword(ServiceRefused):         """The password is refused: `errors` says why."""
class Unauthenticated(ServiceRefused):      """There is no session, or it has ended: sign in again."""
class WrongCredentials(ServiceRefused):     """Signing in failed, be it for the email or for the password."""
class WrongPassword(ServiceRefused):        """The present password, asked for again, is wrong."""
class InvalidToken(ServiceRefused):         """The mailed token is made up, used, expired or for something else."""
class EmailInUse(ServiceRefused):           """Another account has this address, which was proven."""
class NotFound(ServiceRefused):             """There is nothing of that name, or it is not yours."""
class MethodNotAllowed(ServiceRefused):     """The service knows the path, but not this use of it."""
class TooManyRequests(ServiceRefused):      """A limit is reached: wait `retry_after` seconds."""
class Overloaded(ServiceRefused):           """The service cannot keep up: wait `retry_after` seconds."""

class ServiceUnreachable(TilesError):       """No answer came; whether the call was carried out is unknown."""
class NotConnected(ServiceUnreachable):     """Nothing was sent, as no connection could be opened."""
class BrokenAnswer(ServiceUnreachable):     """What came is not the service's: a page, a redirect, a member missing."""
# fmt: on

REFUSALS = {re.sub(r"\B[A-Z]", r"-\g<0>", kind.__name__).lower(): kind for kind in ServiceRefused.__subclasses__()}
