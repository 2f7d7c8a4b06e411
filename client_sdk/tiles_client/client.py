"""The two clients. Each call is defined once: a plain method on Client, a coroutine on AsyncClient."""

# mypy: disable-error-code="empty-body"

import time
from typing import Self

import httpx2

from . import models as m
from .core import Call, Core, Outcome, Retries


class Calls:
    """The operations of the service. A `token` is the one from an email.

    Any call can raise ServiceUnreachable, InvalidRequest, TooManyRequests or Overloaded. A call about the account
    raises Unauthenticated if nobody is signed in. Each docstring names what else it raises.
    """

    @Call("POST", "/v1/registrations", 202)
    def register(self, *, name: str, email: str) -> m.LinkRequested:
        """Email a link to choose a password. The account exists once that is done."""

    @Call("POST", "/v1/registrations/confirm", 201)
    def confirm_registration(self, *, token: str, password: str, accepted_policy: str = ...) -> m.SignedIn:
        """Create the account and sign in. Raises InvalidToken, WeakPassword and EmailInUse."""

    @Call("POST", "/v1/password-resets", 202)
    def request_password_reset(self, *, email: str) -> m.LinkRequested:
        """Email a link to choose a new password, if the account exists."""

    @Call("POST", "/v1/password-resets/confirm", 204)
    def confirm_password_reset(self, *, token: str, password: str) -> None:
        """Set a new password and end every session. Raises InvalidToken and WeakPassword."""

    @Call("POST", "/v1/sessions", 201)
    def sign_in(self, *, email: str, password: str) -> m.SignedIn:
        """Start a session, which this client uses from then on. Raises WrongCredentials."""

    @Call("GET", "/v1/sessions", 200, field="sessions", with_session=True, repeatable=True)
    def sessions(self) -> tuple[m.SessionEntry, ...]:
        """Return all sessions of the account."""

    @Call("DELETE", "/v1/sessions/current", 204, with_session=True, ends_session=True)
    def sign_out(self) -> None:
        """End this session and forget its token. If the service cannot be reached, the token is kept."""

    @Call("DELETE", "/v1/sessions/{id}", 204, with_session=True)
    def end_session(self, *, id: str) -> None:  # noqa: A002 (the contract's word)
        """End the session with this id, one of `sessions()`. Raises NotFound."""
        if not str(id).strip("."):  # "." and ".." would change the path, to that of all sessions
            raise ValueError("id: pass the id of a session, such as sessions()[0].id")

    @Call("DELETE", "/v1/sessions", 204, with_session=True, ends_session=True)
    def end_all_sessions(self) -> None:
        """End all sessions of the account, this one included, and forget its token."""

    @Call("GET", "/v1/account", 200, with_session=True, repeatable=True)
    def account(self) -> m.AccountDetails:
        """Return the account that is signed in."""

    @Call("PATCH", "/v1/account", 200, with_session=True, repeatable=True)
    def change_account(
        self, *, name: str | None = ..., email_updates: bool = ..., accepted_policy: str = ...
    ) -> m.AccountDetails:
        """Change only what is passed, and return the account. A name of None removes the name."""

    @Call("DELETE", "/v1/account/name", 200, with_session=True, repeatable=True)
    def remove_name(self) -> m.AccountDetails:
        """Remove the name, and return the account."""

    @Call("PUT", "/v1/account/password", 204, with_session=True, keeps_session=True)
    def change_password(self, *, current_password: str, new_password: str) -> None:
        """Set a new password and end all other sessions. Raises WrongPassword and WeakPassword."""

    @Call("POST", "/v1/account/email-changes", 202, with_session=True)
    def request_email_change(self, *, email: str, password: str) -> m.LinkRequested:
        """Email a link to the new address. The address changes when it is opened. Raises WrongPassword."""

    @Call("POST", "/v1/email-changes/confirm", 204)
    def confirm_email_change(self, *, token: str) -> None:
        """Change the email. The old address gets a link to undo it. Raises InvalidToken and EmailInUse."""

    @Call("POST", "/v1/email-changes/undo", 204)
    def undo_email_change(self, *, token: str) -> None:
        """Restore the old email, end all sessions and email a reset link. Raises InvalidToken and EmailInUse."""

    @Call("GET", "/v1/account/export", 200, with_session=True, repeatable=True)
    def export_account(self) -> dict[str, object]:
        """Return everything that is held about the account, as the service's JSON document."""

    @Call("POST", "/v1/account/close", 200, with_session=True, ends_session=True)
    def close_account(self, *, password: str, erase: bool = False) -> m.AccountClosure:
        """Close the account, and with `erase` have it erased. All sessions end. Raises WrongPassword."""

    @Call("POST", "/v1/erasure-requests", 202)
    def request_erasure(self, *, email: str) -> m.LinkRequested:
        """Email a link to erase the account, if there is or was one. Works without a session."""

    @Call("POST", "/v1/erasure-requests/confirm", 200)
    def confirm_erasure(self, *, token: str) -> m.AccountClosure:
        """Close the account and have it erased. Raises InvalidToken."""

    @Call("POST", "/v1/erasure-requests/cancel", 204)
    def cancel_erasure(self, *, token: str) -> None:
        """Open the account again, with the token from the closing email. Raises InvalidToken and EmailInUse."""

    @Call("POST", "/v1/erasure-receipts/verify", 200, repeatable=True)
    def verify_erasure_receipt(self, *, receipt: str) -> m.ErasureReceipt:
        """Return the content of the receipt from the last email. Raises InvalidToken if it is not genuine."""

    @Call("POST", "/v1/feedback", 201, with_session=True, keyed=True, repeatable=True)
    def send_feedback(self, *, message: str, key: str | None = None) -> m.FeedbackReceipt:
        """Send feedback, anonymously if nobody is signed in.

        A message that is sent several times with the same `key` is stored once: store both while offline. Raises
        Unauthenticated if the session has ended: sign in first, or call again to send it anonymously.
        """

    @Call("GET", "/v1/policy", 200, repeatable=True)
    def policy(self) -> m.PolicyVersion:
        """Return the privacy policy in force. Raises NotFound if none was published."""


class Client(Calls, Core[httpx2.Client, httpx2.BaseTransport]):
    """A client for a TILES accounts service. Threads may share one client.

    Args:
        base_url: the service's public URL. It is https, except on this machine.
        session_token: resumes a session that an earlier client started.
        on_session_change: called with the token to store, or None, after each call that starts or ends a session.
        timeout: seconds to wait for a connection, and for each part of a response.
        max_retries: how often a call that may safely be repeated is retried.
        transport: replaces the network in tests.

    Raises:
        ValueError: an argument cannot be used.
    """

    _open = httpx2.Client

    def close(self) -> None:
        """Close the connections. The session stays valid: its token can resume it."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return this client. The end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _perform(self, call: Call, request: httpx2.Request) -> object:
        retries = Retries(call.repeatable, self._max_retries)
        while True:
            try:
                outcome: Outcome = self._http.send(request)
            except httpx2.RequestError as error:
                outcome = error
            if (pause := retries.pause(outcome)) is None:
                return self._finish(call, outcome)
            time.sleep(pause)


class AsyncClient(Calls, Core[httpx2.AsyncClient, httpx2.AsyncBaseTransport]):
    """The same client for asyncio: each call is awaited. Tasks of one event loop may share one client."""

    _open = httpx2.AsyncClient

    async def aclose(self) -> None:
        """Close the connections. The session stays valid: its token can resume it."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return this client. The end of the block closes it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def _perform(self, call: Call, request: httpx2.Request) -> object:
        import asyncio  # noqa: PLC0415 (Client does not need it, and it takes long to import)

        retries = Retries(call.repeatable, self._max_retries)
        while True:
            try:
                outcome: Outcome = await self._http.send(request)
            except httpx2.RequestError as error:
                outcome = error
            if (pause := retries.pause(outcome)) is None:
                return self._finish(call, outcome)
            await asyncio.sleep(pause)
