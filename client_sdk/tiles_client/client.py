"""The two clients, and every call: told once, plain on Client, to be awaited on AsyncClient."""

# mypy: disable-error-code="empty-body"

import time
from typing import Self

import httpx2

from .core import Call, Core, Outcome, Patience
from .models import Account, Closed, ErasureReceipt, Policy, Session, SignedIn, StoredFeedback


class Calls:
    """What an app can ask of the service. The `token` of a call is the one from the mail.

    Any call can raise ServiceUnreachable, InvalidRequest, TooManyRequests or Overloaded, and one about the account
    Unauthenticated, when nobody is signed in. Each names what else to expect.
    """

    @Call("POST", "/v1/registrations", 202)
    def register(self, *, name: str, email: str) -> None:
        """Have a link mailed to choose a password from; the account exists once that is done."""

    @Call("POST", "/v1/registrations/confirm", 201)
    def confirm_registration(self, *, token: str, password: str) -> SignedIn:
        """Create the account and sign in. Raises InvalidToken, WeakPassword and EmailInUse."""

    @Call("POST", "/v1/password-resets", 202)
    def request_password_reset(self, *, email: str) -> None:
        """Have a link mailed to choose a new password from, if there is such an account."""

    @Call("POST", "/v1/password-resets/confirm", 204)
    def confirm_password_reset(self, *, token: str, password: str) -> None:
        """Set a new password and end every session. Raises InvalidToken and WeakPassword."""

    @Call("POST", "/v1/sessions", 201)
    def sign_in(self, *, email: str, password: str) -> SignedIn:
        """Begin a session, which this client uses from then on. Raises WrongCredentials."""

    @Call("GET", "/v1/sessions", 200, member="sessions", with_session=True, repeatable=True)
    def sessions(self) -> tuple[Session, ...]:
        """Return every place where the account is signed in."""

    @Call("DELETE", "/v1/sessions/current", 204, with_session=True, ends_session=True)
    def sign_out(self) -> None:
        """End this session and forget its token, which is kept while the service cannot be reached."""

    @Call("DELETE", "/v1/sessions/{id}", 204, with_session=True)
    def end_session(self, *, id: str) -> None:  # noqa: A002 (the contract's word)
        """End the session with this id, one of `sessions()`. Raises NotFound."""
        if not id.strip("."):  # in a path "." and ".." mean another one: that of all sessions
            raise ValueError("id: write the id of a session, as in sessions()[0].id")

    @Call("DELETE", "/v1/sessions", 204, with_session=True, ends_session=True)
    def end_all_sessions(self) -> None:
        """End every session of the account, this one too, and forget its token."""

    @Call("GET", "/v1/account", 200, with_session=True, repeatable=True)
    def account(self) -> Account:
        """Return the account that is signed in."""

    @Call("PATCH", "/v1/account", 200, with_session=True, repeatable=True)
    def change_account(
        self, *, name: str | None = ..., email_updates: bool = ..., accepted_policy: str = ...
    ) -> Account:
        """Change what is passed, and nothing else, and return the account; a name of None is removed."""

    @Call("PUT", "/v1/account/password", 204, with_session=True)
    def change_password(self, *, current_password: str, new_password: str) -> None:
        """Set a new password and end all other sessions. Raises WrongPassword and WeakPassword."""

    @Call("POST", "/v1/account/email-changes", 202, with_session=True)
    def request_email_change(self, *, email: str, password: str) -> None:
        """Have a link mailed to this address, which it makes the account's. Raises WrongPassword."""

    @Call("POST", "/v1/email-changes/confirm", 204)
    def confirm_email_change(self, *, token: str) -> None:
        """Change the address; the old one is told, with a link to undo it. Raises InvalidToken and EmailInUse."""

    @Call("POST", "/v1/email-changes/undo", 204)
    def undo_email_change(self, *, token: str) -> None:
        """Put the old address back, end every session and mail a reset link. Raises InvalidToken and EmailInUse."""

    @Call("GET", "/v1/account/export", 200, with_session=True, repeatable=True)
    def export_account(self) -> dict[str, object]:
        """Return everything that is held about the account, as the JSON document that the service makes of it."""

    @Call("POST", "/v1/account/close", 200, with_session=True, ends_session=True)
    def close_account(self, *, password: str, erase: bool = False) -> Closed:
        """Close the account, or have it erased too, and end every session. Raises WrongPassword."""

    @Call("POST", "/v1/erasure-requests", 202)
    def request_erasure(self, *, email: str) -> None:
        """Have a link mailed to erase the account from, if there is or was one; nobody need be signed in."""

    @Call("POST", "/v1/erasure-requests/confirm", 200)
    def confirm_erasure(self, *, token: str) -> Closed:
        """Close the account and have it erased. Raises InvalidToken."""

    @Call("POST", "/v1/erasure-requests/cancel", 204)
    def cancel_erasure(self, *, token: str) -> None:
        """Open the account again, by the link that told of its closing. Raises InvalidToken and EmailInUse."""

    @Call("POST", "/v1/erasure-receipts/verify", 200, repeatable=True)
    def verify_erasure_receipt(self, *, receipt: str) -> ErasureReceipt:
        """Return what the receipt from the last mail says. Raises InvalidToken for one that is not genuine."""

    @Call("POST", "/v1/feedback", 201, with_session=True, keyed=True, repeatable=True)
    def send_feedback(self, *, message: str, key: str | None = None) -> StoredFeedback:
        """Send a message, as the account's or, when nobody is signed in, as nobody's.

        However often it is sent with a `key` of your own, it is stored once: keep the two together while offline.
        Raises Unauthenticated where the session has ended: then sign in first, or send it again as nobody's.
        """

    @Call("GET", "/v1/policy", 200, repeatable=True)
    def policy(self) -> Policy:
        """Return the privacy policy in force. Raises NotFound before the first."""


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

    def _perform(self, call: Call, arguments: dict[str, object]) -> object:
        patience, request = Patience(repeatable=call.repeatable), self._request(call, arguments)
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

    async def _perform(self, call: Call, arguments: dict[str, object]) -> object:
        import asyncio  # noqa: PLC0415 (here it is loaded; at the top, Client would load it in vain)

        patience, request = Patience(repeatable=call.repeatable), self._request(call, arguments)
        while True:
            try:
                outcome: Outcome = await self._http.send(request)
            except httpx2.RequestError as error:
                outcome = error
            if (pause := patience.pause(outcome)) is None:
                return self._settle(call, outcome)
            await asyncio.sleep(pause)
