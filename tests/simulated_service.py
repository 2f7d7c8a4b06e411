"""A simulated service for tests of the SDK alone: the contract, line by line, and clients that call it by name."""

import asyncio
import inspect
import time
from typing import NamedTuple

import httpx2
import pytest

from tiles_client import AsyncClient, Client, TilesError
from tiles_client.client import Calls

BASE = "https://accounts.example.org/tiles"
TOKEN = "tiles_the-session-token"
PASSWORD = "the password of the example"
RECEIPT = "signed-receipt"

ACCOUNT = {"name": "Ada", "email": "ada@example.org", "email_updates": True, "created_at": "2026-01-31T12:00:00Z",
           "policy": {"accepted": "2026-01", "current": None}}  # fmt: skip
SESSION = {"token": TOKEN, "id": "s1", "expires_at": "2026-07-30T12:00:00Z"}
LISTED = {"id": "s1", "created_at": "2026-01-31T12:00:00Z", "last_used_on": "2026-02-01",
          "expires_at": "2026-07-30T12:00:00Z", "current": True}  # fmt: skip
SIGNED_IN = {"account": ACCOUNT, "session": SESSION}
SESSIONS = {"sessions": [LISTED, {**LISTED, "id": "s2", "current": False}]}

LINK = {"link_valid_for_seconds": 86400}
CLOSED = {"closed_at": "2026-03-01T12:00:00Z", "erase_after": "2026-03-15T12:00:00Z"}
ERASED = {"account": "9b2f1f8e-6d0a-4a53-9d3c-2f6d2b1f0c11", "requested_at": None, "erased_at": "2026-03-15T12:00:00Z",
          "removed": [{"store": "accounts", "rows": 1}],
          "kept": [{"store": "ledger", "rows": 1, "basis": "GDPR Article 17(3)(b)"}]}  # fmt: skip
STORED = {"id": "f1", "received_at": "2026-02-01T12:00:00Z"}
EXPORT = {"exported_at": "2026-02-01T12:00:00Z", "stored": [{"table": "accounts", "rows": [{"name": "Ada"}]}]}
POLICY = {"version": "2026-01", "effective_on": "2026-01-01", "sha256": "a" * 64,
          "url": "https://accounts.example.org/privacy"}  # fmt: skip

CALLS = [name for name in vars(Calls) if not name.startswith("_")]
ARGUMENTS: dict[str, object] = {"password": PASSWORD, "current_password": PASSWORD, "token": "mailed-token",
                                "receipt": RECEIPT, "email_updates": False, "erase": True,
                                "key": "the-key"}  # fmt: skip


class Line(NamedTuple):
    """One line of the contract: the request's first line, the answer, and whether the session is sent."""

    method: str
    path: str
    status: int
    answer: object
    session: bool = False


CONTRACT = {
    "register": Line("POST", "/v1/registrations", 202, LINK),
    "confirm_registration": Line("POST", "/v1/registrations/confirm", 201, SIGNED_IN),
    "request_password_reset": Line("POST", "/v1/password-resets", 202, LINK),
    "confirm_password_reset": Line("POST", "/v1/password-resets/confirm", 204, None),
    "sign_in": Line("POST", "/v1/sessions", 201, SIGNED_IN),
    "sessions": Line("GET", "/v1/sessions", 200, SESSIONS, session=True),
    "sign_out": Line("DELETE", "/v1/sessions/current", 204, None, session=True),
    "end_session": Line("DELETE", "/v1/sessions/the%20id%2F%C3%A9", 204, None, session=True),
    "end_all_sessions": Line("DELETE", "/v1/sessions", 204, None, session=True),
    "account": Line("GET", "/v1/account", 200, ACCOUNT, session=True),
    "change_account": Line("PATCH", "/v1/account", 200, ACCOUNT, session=True),
    "remove_name": Line("DELETE", "/v1/account/name", 200, ACCOUNT, session=True),
    "change_password": Line("PUT", "/v1/account/password", 204, None, session=True),
    "request_email_change": Line("POST", "/v1/account/email-changes", 202, LINK, session=True),
    "confirm_email_change": Line("POST", "/v1/email-changes/confirm", 204, None),
    "undo_email_change": Line("POST", "/v1/email-changes/undo", 204, None),
    "export_account": Line("GET", "/v1/account/export", 200, EXPORT, session=True),
    "close_account": Line("POST", "/v1/account/close", 200, CLOSED, session=True),
    "request_erasure": Line("POST", "/v1/erasure-requests", 202, LINK),
    "confirm_erasure": Line("POST", "/v1/erasure-requests/confirm", 200, CLOSED),
    "cancel_erasure": Line("POST", "/v1/erasure-requests/cancel", 204, None),
    "verify_erasure_receipt": Line("POST", "/v1/erasure-receipts/verify", 200, ERASED),
    "send_feedback": Line("POST", "/v1/feedback", 201, STORED, session=True),
    "policy": Line("GET", "/v1/policy", 200, POLICY),
}
every_call = pytest.mark.parametrize("name", CALLS)
both_clients = pytest.mark.parametrize("kind", [Client, AsyncClient])


def arguments_of(name: str) -> dict[str, object]:
    """Every argument of a call, each with a distinct value."""
    parameters = list(inspect.signature(getattr(Calls, name)).parameters)[1:]
    return {parameter: ARGUMENTS.get(parameter, f"the {parameter}/é") for parameter in parameters}


def answer_to(name: str) -> httpx2.Response:
    line = CONTRACT[name]
    return httpx2.Response(line.status) if line.answer is None else httpx2.Response(line.status, json=line.answer)


def problem(code: str, status: int, **more: object) -> httpx2.Response:
    document = {"type": "x", "title": "A title", "status": status, "detail": "A detail.", "code": code, **more}
    return httpx2.Response(status, json=document, headers={"Content-Type": "application/problem+json"})


Kind = type[Client | AsyncClient]
Outcome = httpx2.Response | httpx2.TransportError


class Service:
    """Replaces the network: returns the outcomes in order, then the last one always, and keeps the requests."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, httpx2.TransportError):
            raise outcome
        headers = [(key, value) for key, value in outcome.headers.raw if key.lower() != b"content-length"]
        return httpx2.Response(outcome.status_code, headers=headers, content=outcome.content)


class Driver:
    """Makes calls by name on either kind of client."""

    def __init__(self, kind: Kind, service: Service, session_token: str | None = TOKEN) -> None:
        transport = httpx2.MockTransport(service)
        self.service = service
        self.client = kind(base_url=BASE, session_token=session_token, transport=transport)

    def call(self, name: str, /, **arguments: object) -> object:
        return self.send(name, **(arguments or arguments_of(name)))

    def send(self, name: str, /, **arguments: object) -> object:
        """Make the call with exactly these arguments."""
        result = getattr(self.client, name)(**arguments)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    def failure(self, name: str) -> TilesError:
        with pytest.raises(TilesError) as raised:
            self.call(name)
        return raised.value


def outcome_of(name: str, *outcomes: Outcome, kind: Kind = Client) -> tuple[TilesError, Service]:
    service = Service(*outcomes)
    return Driver(kind, service).failure(name), service


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collects the seconds that either client would have waited."""
    seconds: list[float] = []

    async def collect(pause: float) -> None:
        seconds.append(pause)

    monkeypatch.setattr(asyncio, "sleep", collect)
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def page(status: int) -> httpx2.Response:
    return httpx2.Response(status, html="<h1>Bad gateway</h1>")


def described(outcome: Outcome) -> str:
    return str(outcome.status_code) if isinstance(outcome, httpx2.Response) else type(outcome).__name__
