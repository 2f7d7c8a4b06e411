"""The two clients, and every call: defined once, plain on Client, to be awaited on AsyncClient."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Concatenate, Generic, ParamSpec, Self, overload
from urllib.parse import quote

import httpx2

from .core import Call, Core, Outcome, Patience
from .models import Account, Session, Sessions, SignedIn, T, read_as

P = ParamSpec("P")


class ClientMethod(Generic[P, T]):
    """Turns a method that plans a call into one that carries it out, each client in its own way."""

    def __init__(self, plan: Callable[Concatenate[Calls, P], Call[T]]) -> None:
        """Take the method that plans, and with it the name, the arguments and the docstring."""
        self._plan = plan

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Coroutine[object, object, T]]: ...
    def __get__(self, client: Client | AsyncClient | None, owner: type) -> Callable[..., object]:
        """Return the method of this client; of the class, the one that plans."""
        if client is None:
            return self._plan

        @wraps(self._plan)
        def carry_out(*args: P.args, **kwargs: P.kwargs) -> object:
            return client._perform(self._plan(client, *args, **kwargs))  # noqa: SLF001

        return carry_out


account, signed_in = partial(read_as, Account), partial(read_as, SignedIn)


def sessions(value: object) -> tuple[Session, ...]:
    """Read `{sessions: […]}`."""
    return read_as(Sessions, value).sessions


def nothing(_: object) -> None:
    """Read an answer of which only the status matters."""


class Calls:
    """What an app can ask of the service. The `token` of a call is the one from the mail.

    Any call can raise ServiceUnreachable, InvalidRequest, TooManyRequests or Overloaded, and one about the account
    Unauthenticated, when nobody is signed in. Each names what else to expect.
    """

    @ClientMethod
    def register(self, *, name: str, email: str) -> Call[None]:
        """Have a link mailed to choose a password from; the account exists once that is done."""
        return Call("POST", "/v1/registrations", 202, nothing, {"name": name, "email": email})

    @ClientMethod
    def confirm_registration(self, *, token: str, password: str) -> Call[SignedIn]:
        """Create the account and sign in. Raises InvalidToken, WeakPassword and EmailInUse."""
        return Call("POST", "/v1/registrations/confirm", 201, signed_in, {"token": token, "password": password})

    @ClientMethod
    def request_password_reset(self, *, email: str) -> Call[None]:
        """Have a link mailed to choose a new password from, if there is such an account."""
        return Call("POST", "/v1/password-resets", 202, nothing, {"email": email})

    @ClientMethod
    def confirm_password_reset(self, *, token: str, password: str) -> Call[None]:
        """Set a new password and end every session. Raises InvalidToken and WeakPassword."""
        return Call("POST", "/v1/password-resets/confirm", 204, nothing, {"token": token, "password": password})

    @ClientMethod
    def sign_in(self, *, email: str, password: str) -> Call[SignedIn]:
        """Begin a session, which this client uses from then on. Raises WrongCredentials."""
        return Call("POST", "/v1/sessions", 201, signed_in, {"email": email, "password": password})

    @ClientMethod
    def sessions(self) -> Call[tuple[Session, ...]]:
        """Return every place where the account is signed in."""
        return Call("GET", "/v1/sessions", 200, sessions, with_session=True, repeatable=True)

    @ClientMethod
    def sign_out(self) -> Call[None]:
        """End this session and forget its token, which is kept while the service cannot be reached."""
        return Call("DELETE", "/v1/sessions/current", 204, nothing, with_session=True, ends_session=True)

    @ClientMethod
    def end_session(self, *, id: str) -> Call[None]:  # noqa: A002 (the contract's word)
        """End the session with this id, one of `sessions()`. Raises NotFound."""
        if not id.strip("."):  # in a path "." and ".." mean another one: that of all sessions
            raise ValueError("id: write the id of a session, as in sessions()[0].id")
        return Call("DELETE", f"/v1/sessions/{quote(id, safe='')}", 204, nothing, with_session=True)

    @ClientMethod
    def end_all_sessions(self) -> Call[None]:
        """End every session of the account, this one too, and forget its token."""
        return Call("DELETE", "/v1/sessions", 204, nothing, with_session=True, ends_session=True)

    @ClientMethod
    def account(self) -> Call[Account]:
        """Return the account that is signed in."""
        return Call("GET", "/v1/account", 200, account, with_session=True, repeatable=True)

    @ClientMethod
    def change_password(self, *, current_password: str, new_password: str) -> Call[None]:
        """Set a new password and end all other sessions. Raises WrongPassword and WeakPassword."""
        body = {"current_password": current_password, "new_password": new_password}
        return Call("PUT", "/v1/account/password", 204, nothing, body, with_session=True)


class Client(Calls, Core[httpx2.Client, httpx2.BaseTransport]):
    """Talks to a TILES accounts service, and waits for each answer.

    `base_url` is the service's public address: https, unless it is this very machine. `session_token` resumes a
    session that an earlier client began. `timeout` is in seconds, for the connection and for each piece of an answer.
    `transport` replaces the network, for tests. Raises ValueError for an address or a token that cannot be right.
    """

    _open = httpx2.Client

    def close(self) -> None:
        """Close the connections; the session goes on, and its token can resume it."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return this client, which the end of the block closes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _perform(self, call: Call[T]) -> T:
        patience, request = Patience(repeatable=call.repeatable), self._request(call)
        while True:
            try:
                outcome: Outcome = self._http.send(request)
            except httpx2.RequestError as error:
                outcome = error
            if (pause := patience.pause(outcome)) is None:
                return self._settle(call, outcome)
            time.sleep(pause)


class AsyncClient(Calls, Core[httpx2.AsyncClient, httpx2.AsyncBaseTransport]):
    """Talks to a TILES accounts service under asyncio: the same as Client, each call awaited."""

    _open = httpx2.AsyncClient

    async def aclose(self) -> None:
        """Close the connections; the session goes on, and its token can resume it."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return this client, which the end of the block closes."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def _perform(self, call: Call[T]) -> T:
        import asyncio  # noqa: PLC0415 (here it is loaded; at the top, Client would load it in vain)

        patience, request = Patience(repeatable=call.repeatable), self._request(call)
        while True:
            try:
                outcome: Outcome = await self._http.send(request)
            except httpx2.RequestError as error:
                outcome = error
            if (pause := patience.pause(outcome)) is None:
                return self._settle(call, outcome)
            await asyncio.sleep(pause)
