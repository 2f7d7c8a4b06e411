"""The core without I/O: what a call sends, what its response means, when to retry."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from http.cookiejar import CookieJar, DefaultCookiePolicy
from inspect import iscoroutinefunction
from typing import Concatenate, Generic, ParamSpec, Protocol, Self, TypeAlias, TypeVar, cast, overload
from urllib.parse import quote

import httpx2

from . import errors
from .models import FieldMismatch, SignedIn, parse

P = ParamSpec("P")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)
Http = TypeVar("Http", httpx2.Client, httpx2.AsyncClient)
Transport = TypeVar("Transport", httpx2.BaseTransport, httpx2.AsyncBaseTransport)
Outcome: TypeAlias = httpx2.Response | httpx2.RequestError
OnSessionChange: TypeAlias = Callable[[str | None], object]

NOTHING_SENT = httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError
TRANSIENT = {429, 502, 503, 504}
FIRST_PAUSE = 0.5  # seconds, doubled before each further retry
LONGEST_WAIT = 10.0  # seconds, all pauses of a call together: a person is looking at a screen
# The same on every device: httpx2's own headers would tell its version and what is installed.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tiles-client"}


def naming_the_class(function: Callable[Concatenate[S, P], T_co]) -> Callable[Concatenate[S, P], T_co]:
    """Let a TypeError about arguments name the class that the caller used."""

    @wraps(function)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        try:
            return function(self, *args, **kwargs)
        except TypeError as error:
            name = f"{function.__name__}() "
            error.args = (f"{type(self).__name__}.{name}{str(error).rpartition(name)[2]}",)
            raise

    return call


class ClientMethod(Protocol[P, T_co]):
    """The type of a call: a plain method on Client, a coroutine on AsyncClient."""

    @overload
    def __get__(self, client: Core[httpx2.Client, httpx2.BaseTransport], owner: type) -> Callable[P, T_co]: ...
    @overload
    def __get__(
        self, client: Core[httpx2.AsyncClient, httpx2.AsyncBaseTransport], owner: type
    ) -> Callable[P, Coroutine[object, object, T_co]]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of the HTTP contract. It decorates a method that has only a signature and a docstring.

    The arguments become the JSON body, or for GET and DELETE parts of the path. The method returns the response with
    this `status`, or its field `field`. `with_session` sends the session token. On success `ends_session` forgets it,
    and `keeps_session` reports it again. `keyed` sends the argument `key`, or a random one, as Idempotency-Key.
    `repeatable` means that sending the call twice does no harm.
    """

    method: str
    path: str
    status: int
    field: str = ""
    with_session: bool = False
    ends_session: bool = False
    keeps_session: bool = False
    keyed: bool = False
    repeatable: bool = False
    result: object = None

    def __call__(self, signature: Callable[Concatenate[S, P], T_co]) -> ClientMethod[P, T_co]:
        """Return the method that makes the call."""
        call = replace(self, result=signature.__annotations__["return"])

        @naming_the_class
        @wraps(signature)
        def perform(client: Core[Http, Transport], /, *args: P.args, **kwargs: P.kwargs) -> object:
            signature(cast("S", client), *args, **kwargs)  # checks the arguments
            return client._perform(call, client._request(call, kwargs))  # noqa: SLF001

        return cast("ClientMethod[P, T_co]", perform)


@dataclass(slots=True)
class Retries:
    """Decides whether one call is retried: a few times, and with a bounded wait in all."""

    repeatable: bool
    most: int
    made: int = 0
    waited: float = 0.0

    def pause(self, outcome: Outcome) -> float | None:
        """Return the seconds to wait before the next attempt, or None if this outcome is final."""
        requested, retryable = None, self.repeatable or isinstance(outcome, NOTHING_SENT)
        if isinstance(outcome, httpx2.Response):
            requested, retryable = retry_after(outcome), self.repeatable and outcome.status_code in TRANSIENT
        if self.made == self.most or not retryable:
            return None
        jitter = random.uniform(0.5, 1)  # noqa: S311 (spreads the load, guards nothing)
        pause = FIRST_PAUSE * 2**self.made * jitter if requested is None else requested
        self.made += 1
        self.waited += pause
        return pause if self.waited <= LONGEST_WAIT else None


class CurrentSession:
    """The session token that all copies of a client share. The last report to the app is the present state."""

    def __init__(self, token: str | None, on_change: OnSessionChange | None) -> None:
        """Begin with a stored token, which is not reported."""
        self.token, self._on_change, self._lock = token, on_change, threading.RLock()

    def change(self, new: str | None, *, old: str | None = None) -> None:
        """Use a session from now on, and tell the app. With `old`, only if no newer one has replaced that meanwhile."""
        with self._lock:
            if old is None or self.token == old:
                self.token = new
                if self._on_change:
                    self._on_change(new)


class Core(Generic[Http, Transport]):
    """What both clients share: the session, the requests, and how responses are read."""

    _open: Callable[..., Http]
    _perform: Callable[[Call, httpx2.Request], object]

    @naming_the_class
    def __init__(  # noqa: PLR0913 (all by keyword, and each with its default)
        self,
        *,
        base_url: str,
        session_token: str | None = None,
        on_session_change: OnSessionChange | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        transport: Transport | None = None,
    ) -> None:
        """Make a client. The first call opens a connection."""
        if on_session_change and (not callable(on_session_change) or iscoroutinefunction(on_session_change)):
            raise ValueError("on_session_change: pass a function that is not async")
        token = None if session_token is None else in_header("session_token", session_token)
        self._session = CurrentSession(token, on_session_change)
        self._timeout, self._max_retries = checked_options(timeout, max_retries)
        url, cookies = checked_url(base_url), CookieJar(DefaultCookiePolicy(allowed_domains=()))
        # Some networks can be left only through the proxy that the environment names. With TLS it learns only the host.
        # Without TLS, on loopback, it would receive passwords.
        options = {"cookies": cookies, "transport": transport, "trust_env": url.scheme == "https"}
        self._http: Http = self._open(base_url=url, headers=HEADERS, **options)

    @naming_the_class
    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """Return a client with other options. It shares the session and the connections with this one."""
        other = copy.copy(self)
        other._timeout, other._max_retries = checked_options(  # noqa: SLF001
            self._timeout if timeout is None else timeout, self._max_retries if max_retries is None else max_retries
        )
        return other

    @property
    def session_token(self) -> str | None:
        """The secret to store, and to pass as `session_token` next time. None if signed out."""
        return self._session.token

    @property
    def is_signed_in(self) -> bool:
        """Whether there is a session. Only a call can tell whether the service has ended it meanwhile."""
        return self._session.token is not None

    def _request(self, call: Call, arguments: dict[str, object]) -> httpx2.Request:
        path, headers, content, token = call.path, {}, None, self._session.token
        if call.with_session and token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if call.keyed:
            key = arguments.pop("key", None)
            headers["Idempotency-Key"] = os.urandom(16).hex() if key is None else in_header("key", str(key))
        if call.method in {"GET", "DELETE"}:
            path = path.format_map({name: quote(str(value), safe="") for name, value in arguments.items()})
        else:
            headers["Content-Type"] = "application/json"
            # The service refuses the JSON escape of a lone surrogate. A UnicodeEncodeError would hold the body.
            content = json.dumps(arguments, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return self._http.build_request(call.method, path, headers=headers, content=content, timeout=self._timeout)

    def _finish(self, call: Call, outcome: Outcome) -> object:
        """Return the result of the call, or raise the TilesError that says why it failed."""
        operation = f"{call.method} {call.path}"
        if isinstance(outcome, httpx2.RequestError):
            kind = errors.NotConnected if isinstance(outcome, NOTHING_SENT) else errors.ServiceUnreachable
            raise kind(f"{operation}: {type(outcome).__name__}: {outcome}") from outcome
        try:
            result = read_response(call, outcome)
            new_token = in_header("session_token", result.session.token) if isinstance(result, SignedIn) else None
        except (ValueError, RecursionError) as error:  # what json and parse raise
            broken = errors.InvalidResponse(f"{operation}: HTTP {outcome.status_code}: {error}")
            broken.request_id, broken.retry_after = outcome.headers.get("X-Request-Id"), retry_after(outcome)
            raise broken from None  # not from the error: a JSONDecodeError holds the response
        if new_token:
            self._session.change(new_token)
        sent_token = outcome.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if isinstance(result, errors.ServiceRefused):
            if isinstance(result, errors.Unauthenticated):
                self._session.change(None, old=sent_token)
            raise result
        if call.ends_session or call.keeps_session:
            self._session.change(sent_token if call.keeps_session else None, old=sent_token)
        return result


def read_response(call: Call, response: httpx2.Response) -> object:
    """Return the result or the refusal that a response holds. Raises ValueError if it holds neither."""
    if response.status_code == call.status:
        value = response.json() if response.content else None
        if call.field:
            value = value.get(call.field) if isinstance(value, dict) else None
        return parse(call.result, value, call.field or "the JSON object")
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    problem = response.json() if media_type == "application/problem+json" else None
    if not isinstance(problem, dict):
        raise FieldMismatch("no problem document")
    kind = errors.REFUSALS.get(str(problem.get("code")), errors.ServiceRefused)
    defaults: dict[str, object] = {"errors": [], "request_id": response.headers.get("X-Request-Id")}
    return parse(kind, defaults | problem | {"status": response.status_code, "retry_after": retry_after(response)})


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds that the response asks to wait, given as a number or as a date (RFC 9110 section 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError, TypeError, OverflowError):  # not a date, or a date without its zone
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None


def checked_url(text: str) -> httpx2.URL:
    """Return a URL that passwords may be sent to. Raises ValueError for any other."""
    with suppress(httpx2.InvalidURL, TypeError):
        url = httpx2.URL(text)
        safe = url.scheme == "https" or (url.scheme == "http" and url.host in {"127.0.0.1", "::1", "localhost"})
        if safe and url.host and not (url.userinfo or url.query or url.fragment):
            return url
    raise ValueError("base_url: write https://HOST, and a port or a path if needed; http:// is for this machine only")


def checked_options(timeout: float, max_retries: int) -> tuple[float, int]:
    """Return both options. Raises ValueError for a value that cannot be meant."""
    if not (isinstance(timeout, int | float) and 0 < timeout < float("inf")):
        raise ValueError("timeout: write a number of seconds above 0")
    if not (isinstance(max_retries, int) and max_retries >= 0):
        raise ValueError("max_retries: write 0 or more")
    return timeout, max_retries


def in_header(name: str, text: str) -> str:
    """Return text that may stand in a header. Raises ValueError, which does not repeat the text, for any other."""
    if not (isinstance(text, str) and re.fullmatch("[!-~]+", text)):
        raise ValueError(f"{name}: use visible ASCII characters only, without spaces")
    return text
