"""The core without I/O: what a call sends, what its answer means, when to ask again."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload
from urllib.parse import quote

import httpx2

from . import errors
from .models import MemberError, SignedIn, fit

P = ParamSpec("P")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)
Http = TypeVar("Http", httpx2.Client, httpx2.AsyncClient)
Wire = TypeVar("Wire", httpx2.BaseTransport, httpx2.AsyncBaseTransport)
Outcome: TypeAlias = httpx2.Response | httpx2.RequestError

NOTHING_SENT = httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError
PASSING = {429, 502, 503, 504}
ATTEMPTS = 3
FIRST_PAUSE = 0.5  # seconds, doubled each time
LONGEST_WAIT = 10.0  # seconds, the pauses of a call together: somebody is looking at a screen
# The same on every device: httpx2's own would tell its version and what else is installed.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tiles-client"}


class ClientMethod(Protocol[P, T_co]):
    """What a call is on each client: on a Client it returns the answer, on an AsyncClient it is awaited for it."""

    @overload
    def __get__(self, client: Core[httpx2.Client, httpx2.BaseTransport], owner: type) -> Callable[P, T_co]: ...
    @overload
    def __get__(
        self, client: Core[httpx2.AsyncClient, httpx2.AsyncBaseTransport], owner: type
    ) -> Callable[P, Coroutine[object, object, T_co]]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the HTTP contract, which decorates a method that only tells: arguments, answer, what it is good for.

    What is passed is the JSON body, or for GET and DELETE stands in the path. The method's type is that of the answer
    with this `status`, or of its `member`. `with_session` sends the session along, `ends_session` forgets it when done,
    `keyed` sends the argument `key`, or a random one, as Idempotency-Key, and `repeatable` promises that sending the
    call twice does no harm.
    """

    method: str
    path: str
    status: int
    member: str = ""
    with_session: bool = False
    ends_session: bool = False
    keyed: bool = False
    repeatable: bool = False
    answer: object = None

    def __call__(self, told: Callable[Concatenate[S, P], T_co]) -> ClientMethod[P, T_co]:
        """Return the method that makes the call."""
        call = replace(self, answer=told.__annotations__["return"])

        @wraps(told)
        def carry_out(client: Core[Http, Wire], *args: P.args, **kwargs: P.kwargs) -> object:
            told(cast("S", client), *args, **kwargs)  # raises what is wrong with the arguments
            return client._perform(call, kwargs)  # noqa: SLF001

        return cast("ClientMethod[P, T_co]", carry_out)


@dataclass(slots=True)
class Patience:
    """How long one call may go on trying: a few attempts, and a bounded wait in all."""

    repeatable: bool
    attempts: int = 1
    waited: float = 0.0

    def pause(self, outcome: Outcome) -> float | None:
        """Seconds to wait before asking again; None when this outcome has to do."""
        asked, again = None, self.repeatable or isinstance(outcome, NOTHING_SENT)
        if isinstance(outcome, httpx2.Response):
            asked, again = retry_after(outcome), self.repeatable and outcome.status_code in PASSING
        if self.attempts == ATTEMPTS or not again:
            return None
        jitter = random.uniform(0.5, 1)  # noqa: S311 (spreads the load, guards nothing)
        pause = FIRST_PAUSE * 2 ** (self.attempts - 1) * jitter if asked is None else asked
        self.attempts += 1
        self.waited += pause
        return pause if self.waited <= LONGEST_WAIT else None


class Core(Generic[Http, Wire]):
    """The half that both clients share: the session, what goes out, and what comes in."""

    _open: Callable[..., Http]
    _perform: Callable[[Call, dict[str, object]], object]

    def __init__(
        self, *, base_url: str, session_token: str | None = None, timeout: float = 10.0, transport: Wire | None = None
    ) -> None:
        """Connect to nothing yet: the first call does."""
        self._token = None if session_token is None else in_header("session_token", session_token)
        url, cookies = checked_url(base_url), CookieJar(DefaultCookiePolicy(allowed_domains=()))
        # Some networks can be left only through the proxy that the environment names. Through TLS it learns the host
        # alone; without, on loopback, it would be handed passwords.
        trust_env = url.scheme == "https"
        self._http: Http = self._open(
            base_url=url, headers=HEADERS, cookies=cookies, timeout=timeout, transport=transport, trust_env=trust_env
        )

    @property
    def session_token(self) -> str | None:
        """The secret to store and to pass as `session_token` next time; None: signed out."""
        return self._token

    def _request(self, call: Call, arguments: dict[str, object]) -> httpx2.Request:
        path, headers, content = call.path, {}, None
        if call.with_session and self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if call.keyed:
            key = arguments.pop("key", None)
            headers["Idempotency-Key"] = os.urandom(16).hex() if key is None else in_header("key", str(key))
        if call.method in {"GET", "DELETE"}:
            path = path.format_map({name: quote(str(value), safe="") for name, value in arguments.items()})
        else:
            headers["Content-Type"] = "application/json"
            # A lone surrogate has no UTF-8. This makes it its JSON escape, for the service to refuse; the
            # UnicodeEncodeError would carry the body about, and perhaps a password.
            content = json.dumps(arguments, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return self._http.build_request(call.method, path, headers=headers, content=content)

    def _settle(self, call: Call, outcome: Outcome) -> object:
        """Return what the call came to, or raise the TilesError that says why it failed."""
        about = f"{call.method} {call.path}"
        if isinstance(outcome, httpx2.RequestError):
            kind = errors.NotConnected if isinstance(outcome, NOTHING_SENT) else errors.ServiceUnreachable
            raise kind(f"{about}: {type(outcome).__name__}: {outcome}") from outcome
        try:
            result = read_answer(call, outcome)
            if isinstance(result, SignedIn):
                self._token = in_header("session_token", result.session.token)
        except (ValueError, RecursionError) as error:  # what json and fit raise
            message = f"{about}: HTTP {outcome.status_code}: {error}"
            raise errors.BrokenAnswer(message) from None  # not from the error: a JSONDecodeError holds the answer
        refusal = result if isinstance(result, errors.ServiceRefused) else None
        over = isinstance(refusal, errors.Unauthenticated) if refusal else call.ends_session
        # A newer session, which has taken the place of this one meanwhile, goes on.
        if over and outcome.request.headers.get("Authorization") == f"Bearer {self._token}":
            self._token = None
        if refusal:
            raise refusal
        return result


def read_answer(call: Call, answer: httpx2.Response) -> object:
    """Return what the answer says, or the refusal that it is; raise ValueError for what is neither."""
    if answer.status_code == call.status:
        value = answer.json() if answer.content else None
        if call.member:
            value = value.get(call.member) if isinstance(value, dict) else None
        return fit(call.answer, value, call.member or "the JSON object")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    problem = answer.json() if media_type == "application/problem+json" else None
    if not isinstance(problem, dict):
        raise MemberError("no problem document")
    kind = errors.REFUSALS.get(str(problem.get("code")), errors.ServiceRefused)
    return fit(kind, {"errors": [], **problem, "status": answer.status_code, "retry_after": retry_after(answer)})


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
        safe = url.scheme == "https" or (url.scheme == "http" and url.host in {"127.0.0.1", "::1", "localhost"})
        if safe and url.host and not (url.userinfo or url.query or url.fragment):
            return url
    raise ValueError(
        "base_url: write https://HOST, as in https://accounts.example.org, with a port or path if need be; "
        "http:// is for 127.0.0.1, [::1] and localhost only, as passwords travel"
    )


def in_header(name: str, text: str) -> str:
    """Return what can stand in a header; raise ValueError, which does not repeat it, if it cannot."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError(f"{name}: this is none, as it has to be of visible ASCII characters, without spaces")
    return text
