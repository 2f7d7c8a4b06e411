"""The core without I/O: what a call sends, what its answer means, when to ask again."""

import json
import random
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Generic, TypeAlias, TypeVar

import httpx2

from . import errors
from .models import MemberError, SignedIn, T, read_as

Http = TypeVar("Http", httpx2.Client, httpx2.AsyncClient)
Transport = TypeVar("Transport", httpx2.BaseTransport, httpx2.AsyncBaseTransport)
Outcome: TypeAlias = httpx2.Response | httpx2.RequestError

NOTHING_SENT = httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError
PASSING = {429, 502, 503, 504}
ATTEMPTS = 3
FIRST_PAUSE = 0.5  # seconds, doubled each time
LONGEST_WAIT = 10.0  # seconds, the pauses of a call together: somebody is looking at a screen
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# The same on every device: httpx2's own would tell its version and what else is installed.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tiles-client"}


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One line of the HTTP contract: what is sent, the status that means done, and how that answer is read.

    `with_session` sends the session along, `ends_session` forgets it when done, and `repeatable` promises that
    sending the call twice does no harm.
    """

    method: str
    path: str
    status: int
    read: Callable[[object], T]
    body: Mapping[str, str | bool | None] | None = field(default=None, repr=False)
    with_session: bool = False
    ends_session: bool = False
    repeatable: bool = False


@dataclass(slots=True)
class Patience:
    """How long one call may go on trying: a few attempts, and a bounded wait in all."""

    repeatable: bool
    attempts: int = 1
    waited: float = 0.0

    def pause(self, outcome: Outcome) -> float | None:
        """Seconds to wait before asking again; None when this outcome has to do."""
        asked, passing = None, True
        if isinstance(outcome, httpx2.Response):
            asked, passing = retry_after(outcome), outcome.status_code in PASSING
        may_repeat = (self.repeatable and passing) or isinstance(outcome, NOTHING_SENT)
        if self.attempts == ATTEMPTS or not may_repeat:
            return None
        jitter = random.uniform(0.5, 1)  # noqa: S311 (spreads the load, guards nothing)
        pause = FIRST_PAUSE * 2 ** (self.attempts - 1) * jitter if asked is None else asked
        self.attempts += 1
        self.waited += pause
        return pause if self.waited <= LONGEST_WAIT else None


class Core(Generic[Http, Transport]):
    """The half that both clients share: the session, what goes out, and what comes in."""

    _open: Callable[..., Http]

    def __init__(
        self,
        *,
        base_url: str,
        session_token: str | None = None,
        timeout: float = 10.0,
        transport: Transport | None = None,
    ) -> None:
        """Connect to nothing yet: the first call does."""
        url = checked_url(base_url)
        self._token = None if session_token is None else checked_token(session_token)
        self._http: Http = self._open(
            base_url=url,
            headers=HEADERS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=timeout,
            transport=transport,
            # Some networks can be left only through the proxy that the environment names. Through TLS it learns the
            # host alone; without, on loopback, it would be handed passwords.
            trust_env=url.scheme == "https",
            follow_redirects=False,
        )

    @property
    def session_token(self) -> str | None:
        """The secret to store and to pass as `session_token` next time; None: signed out."""
        return self._token

    def _request(self, call: Call[T]) -> httpx2.Request:
        headers, content = {}, None
        if call.with_session and self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            # A lone surrogate has no UTF-8. This makes it its JSON escape, for the service to refuse; the
            # UnicodeEncodeError would carry the body about, and perhaps a password.
            content = json.dumps(call.body, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return self._http.build_request(call.method, call.path, headers=headers, content=content)

    def _settle(self, call: Call[T], outcome: Outcome) -> T:
        """Return what the call came to, or raise the TilesError that says why it failed."""
        about = f"{call.method} {call.path}"
        if isinstance(outcome, httpx2.RequestError):
            kind = errors.NotConnected if isinstance(outcome, NOTHING_SENT) else errors.ServiceUnreachable
            raise kind(f"{about}: {type(outcome).__name__}: {outcome}") from outcome
        try:
            if outcome.status_code == call.status:
                return self._accept(call, outcome)
            refusal = read_refusal(outcome)
        except (ValueError, RecursionError) as error:  # what json and read_as raise
            message = f"{about}: HTTP {outcome.status_code}: {error}"
            raise errors.BrokenAnswer(message) from None  # not from the error: a JSONDecodeError holds the answer
        if isinstance(refusal, errors.Unauthenticated):
            self._forget(outcome.request)
        raise refusal

    def _accept(self, call: Call[T], answer: httpx2.Response) -> T:
        result = call.read(answer.json() if answer.content else None)
        if isinstance(result, SignedIn):
            self._token = checked_token(result.session.token)
        if call.ends_session:
            self._forget(answer.request)
        return result

    def _forget(self, request: httpx2.Request) -> None:
        """Forget the session of this request, unless a newer one has taken its place meanwhile."""
        if request.headers.get("Authorization") == f"Bearer {self._token}":
            self._token = None


def read_refusal(answer: httpx2.Response) -> errors.ServiceRefused:
    """Read a problem document (RFC 9457); raise ValueError for any other answer."""
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    problem = answer.json() if media_type == "application/problem+json" else None
    if not isinstance(problem, dict):
        raise MemberError(name="the problem document")
    kind = errors.REFUSALS.get(str(problem.get("code")), errors.ServiceRefused)
    return read_as(kind, {"errors": [], **problem, "status": answer.status_code, "retry_after": retry_after(answer)})


def retry_after(answer: httpx2.Response) -> float | None:
    """Seconds that the answer asks to wait, given as a number or as a date (RFC 9110, 10.2.3)."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError, TypeError):  # not a date; a date without its zone
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None


def checked_url(text: str) -> httpx2.URL:
    """Return an address that passwords may be sent to; raise ValueError for any other."""
    with suppress(httpx2.InvalidURL):
        url = httpx2.URL(text)
        safe = url.scheme == "https" or (url.scheme == "http" and url.host in LOOPBACK)
        if safe and url.host and not (url.userinfo or url.query or url.fragment):
            return url
    raise ValueError(
        "base_url: write https://HOST, as in https://accounts.example.org, with a port or path if need be; "
        "http:// is for 127.0.0.1, [::1] and localhost only, as passwords travel"
    )


def checked_token(text: str) -> str:
    """Return what can be a session token; raise ValueError, which does not repeat it, if not."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("session_token: this is not what signing in gave; pass client.session_token")
    return text
