"""The exceptions of a call: TilesError, with the branches ServiceRefused (a class per code) and ServiceUnreachable."""

import re
from dataclasses import dataclass

__all__ = [
    "EmailInUse", "FieldError", "InvalidRequest", "InvalidResponse", "InvalidToken", "MalformedJson",
    "MethodNotAllowed", "NotConnected", "NotFound", "Overloaded", "PayloadTooLarge", "ServiceRefused",
    "ServiceUnreachable", "TilesError", "TooManyRequests", "Unauthenticated", "UnsupportedMediaType", "WeakPassword",
    "WrongCredentials", "WrongPassword",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that was refused: a JSON pointer (RFC 6901) into what was sent, and the reason."""

    pointer: str
    detail: str


class TilesError(Exception):
    """Any failure of a call.

    `request_id` names the request in the service's log: people can quote it to support. `retry_after` is the number of
    seconds to wait. Both are None if the response did not say.
    """

    request_id: str | None = None
    retry_after: float | None = None


@dataclass(eq=False)
class ServiceRefused(TilesError):
    """The service refused the request (RFC 9457). Raised itself for a code that this version does not know.

    `title` and `detail` are for people to read. `errors` names the refused fields.
    """

    code: str
    status: int
    title: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None
    request_id: str | None = None

    def __str__(self) -> str:
        """Return the code, the detail and the refused fields in one line."""
        fields = [f"{error.pointer}: {error.detail}" for error in self.errors]
        return f"{self.code}: {'; '.join([self.detail, *fields])}"


# fmt: off
# ruff: noqa: E701 (as a table, with a class on each line, the tree is seen at once)
class MalformedJson(ServiceRefused):        """The body could not be read as JSON."""
class UnsupportedMediaType(ServiceRefused): """The body was not sent as JSON."""
class PayloadTooLarge(ServiceRefused):      """The body is larger than the service accepts."""
class InvalidRequest(ServiceRefused):       """A field is missing, unknown or invalid: `errors` names it."""
class WeakPassword(ServiceRefused):         """The password is too easy to guess: `errors` says why."""
class Unauthenticated(ServiceRefused):      """There is no session, or it has ended: sign in again."""
class WrongCredentials(ServiceRefused):     """The email or the password is wrong."""
class WrongPassword(ServiceRefused):        """The current password, asked for again, is wrong."""
class InvalidToken(ServiceRefused):         """The emailed token is damaged, used, expired or for another purpose."""
class EmailInUse(ServiceRefused):           """Another account already uses this email."""
class NotFound(ServiceRefused):             """There is no such thing, or it belongs to somebody else."""
class MethodNotAllowed(ServiceRefused):     """The path does not support this method."""
class TooManyRequests(ServiceRefused):      """A limit is reached: wait `retry_after` seconds."""
class Overloaded(ServiceRefused):           """The service is overloaded: wait `retry_after` seconds."""

class ServiceUnreachable(TilesError):       """No response arrived. The service may have processed the request."""
class NotConnected(ServiceUnreachable):     """No connection could be opened, so nothing was sent."""
class InvalidResponse(ServiceUnreachable):  """The response is not the service's, or a field is missing."""
# fmt: on

REFUSALS = {re.sub(r"\B[A-Z]", r"-\g<0>", kind.__name__).lower(): kind for kind in ServiceRefused.__subclasses__()}
