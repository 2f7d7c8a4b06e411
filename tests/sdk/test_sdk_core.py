"""The SDK by itself: what it sends, what it makes of answers, when it asks again. No backend takes part."""

import asyncio
import contextlib
import inspect
import json
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

import tiles_client
from tiles_client import AsyncClient, Client, ServiceRefused, ServiceUnreachable, TilesError, errors
from tiles_client.client import Calls

README = Path(__file__).parents[2] / "client_sdk" / "README.md"
BASE = "https://accounts.example.org/tiles"
TOKEN = "tiles_the-session-token"
PASSWORD = "the password of the example"
RECEIPT = "signed-receipt"

ACCOUNT = {
    "name": "Ada",
    "email": "ada@example.org",
    "email_updates": True,
    "created_at": "2026-01-31T12:00:00Z",
    "policy": {"accepted": "2026-01", "current": None},
}
SESSION = {"token": TOKEN, "id": "s1", "expires_at": "2026-07-30T12:00:00Z"}
LISTED = {
    "id": "s1",
    "created_at": "2026-01-31T12:00:00Z",
    "last_used_on": "2026-02-01",
    "expires_at": "2026-07-30T12:00:00Z",
    "current": True,
}
SIGNED_IN = {"account": ACCOUNT, "session": SESSION}
SESSIONS = {"sessions": [LISTED, {**LISTED, "id": "s2", "current": False}]}

CLOSED = {"closed_at": "2026-03-01T12:00:00Z", "erase_after": "2026-03-15T12:00:00Z"}
ERASED = {
    "account": "9b2f1f8e-6d0a-4a53-9d3c-2f6d2b1f0c11",
    "requested_at": None,
    "erased_at": "2026-03-15T12:00:00Z",
    "removed": [{"store": "accounts", "rows": 1}],
    "kept": [{"store": "ledger", "rows": 1, "basis": "GDPR Article 17(3)(b)"}],
}
STORED = {"id": "f1", "received_at": "2026-02-01T12:00:00Z"}
EXPORT = {"exported_at": "2026-02-01T12:00:00Z", "stored": [{"table": "accounts", "rows": [{"name": "Ada"}]}]}
POLICY = {
    "version": "2026-01",
    "effective_on": "2026-01-01",
    "sha256": "a" * 64,
    "url": "https://accounts.example.org/privacy",
}

CALLS = [name for name in vars(Calls) if not name.startswith("_")]
ARGUMENTS: dict[str, object] = {
    "password": PASSWORD,
    "current_password": PASSWORD,
    "token": "mailed-token",
    "receipt": RECEIPT,
    "email_updates": False,
    "erase": True,
    "key": "the-key",
}


class Line(NamedTuple):
    """One line of the contract: the request's first line, the answer, and whether the session is sent."""

    method: str
    path: str
    status: int
    answer: object
    session: bool = False


CONTRACT = {
    "register": Line("POST", "/v1/registrations", 202, {}),
    "confirm_registration": Line("POST", "/v1/registrations/confirm", 201, SIGNED_IN),
    "request_password_reset": Line("POST", "/v1/password-resets", 202, {}),
    "confirm_password_reset": Line("POST", "/v1/password-resets/confirm", 204, None),
    "sign_in": Line("POST", "/v1/sessions", 201, SIGNED_IN),
    "sessions": Line("GET", "/v1/sessions", 200, SESSIONS, session=True),
    "sign_out": Line("DELETE", "/v1/sessions/current", 204, None, session=True),
    "end_session": Line("DELETE", "/v1/sessions/the%20id%2F%C3%A9", 204, None, session=True),
    "end_all_sessions": Line("DELETE", "/v1/sessions", 204, None, session=True),
    "account": Line("GET", "/v1/account", 200, ACCOUNT, session=True),
    "change_account": Line("PATCH", "/v1/account", 200, ACCOUNT, session=True),
    "change_password": Line("PUT", "/v1/account/password", 204, None, session=True),
    "request_email_change": Line("POST", "/v1/account/email-changes", 202, {}, session=True),
    "confirm_email_change": Line("POST", "/v1/email-changes/confirm", 204, None),
    "undo_email_change": Line("POST", "/v1/email-changes/undo", 204, None),
    "export_account": Line("GET", "/v1/account/export", 200, EXPORT, session=True),
    "close_account": Line("POST", "/v1/account/close", 200, CLOSED, session=True),
    "request_erasure": Line("POST", "/v1/erasure-requests", 202, {}),
    "confirm_erasure": Line("POST", "/v1/erasure-requests/confirm", 200, CLOSED),
    "cancel_erasure": Line("POST", "/v1/erasure-requests/cancel", 204, None),
    "verify_erasure_receipt": Line("POST", "/v1/erasure-receipts/verify", 200, ERASED),
    "send_feedback": Line("POST", "/v1/feedback", 201, STORED, session=True),
    "policy": Line("GET", "/v1/policy", 200, POLICY),
}
BEGINS_SESSION = {"confirm_registration", "sign_in"}
ENDS_SESSION = {"sign_out", "end_all_sessions", "close_account"}
REPEATABLE = {
    *("sessions", "account", "export_account", "policy"),  # they read
    *("change_account", "verify_erasure_receipt", "send_feedback"),  # twice is as once
}
AS_IT_IS = {"export_account"}  # the document that it returns is the answer, unread
NOT_IN_THE_BODY = {"end_session": {"id"}, "send_feedback": {"key"}}

CODES = {
    "malformed-json": (400, errors.MalformedJson),
    "unsupported-media-type": (415, errors.UnsupportedMediaType),
    "payload-too-large": (413, errors.PayloadTooLarge),
    "invalid-request": (422, errors.InvalidRequest),
    "weak-password": (422, errors.WeakPassword),
    "unauthenticated": (401, errors.Unauthenticated),
    "wrong-credentials": (401, errors.WrongCredentials),
    "wrong-password": (403, errors.WrongPassword),
    "invalid-token": (400, errors.InvalidToken),
    "email-in-use": (409, errors.EmailInUse),
    "not-found": (404, errors.NotFound),
    "method-not-allowed": (405, errors.MethodNotAllowed),
    "too-many-requests": (429, errors.TooManyRequests),
    "overloaded": (503, errors.Overloaded),
}

every_call = pytest.mark.parametrize("name", CALLS)
both_clients = pytest.mark.parametrize("kind", [Client, AsyncClient])


def arguments_of(name: str) -> dict[str, object]:
    """Every argument of a call, each with a value of its own."""
    parameters = list(inspect.signature(getattr(Calls, name)).parameters)[1:]
    return {parameter: ARGUMENTS.get(parameter, f"the {parameter}/é") for parameter in parameters}


def answer_to(name: str) -> httpx2.Response:
    line = CONTRACT[name]
    return httpx2.Response(line.status) if line.answer is None else httpx2.Response(line.status, json=line.answer)


def problem(code: str, status: int, **more: object) -> httpx2.Response:
    document = {"type": "x", "title": "A title", "status": status, "detail": "A detail.", "code": code, **more}
    return httpx2.Response(status, json=document, headers={"Content-Type": "application/problem+json"})


Outcome = httpx2.Response | httpx2.TransportError


class Service:
    """Stands in for the network: gives the outcomes in their order, the last one for ever, and keeps the requests."""

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
    """Makes calls by name, on a client of either kind."""

    def __init__(self, kind: type[Client | AsyncClient], service: Service, session_token: str | None = TOKEN) -> None:
        transport = httpx2.MockTransport(service)
        self.service = service
        self.client = kind(base_url=BASE, session_token=session_token, transport=transport)

    def call(self, name: str, /, **arguments: object) -> object:
        return self.send(name, **(arguments or arguments_of(name)))

    def send(self, name: str, /, **arguments: object) -> object:
        """Make the call with these arguments and no others."""
        result = getattr(self.client, name)(**arguments)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    def failure(self, name: str) -> TilesError:
        with pytest.raises(TilesError) as raised:
            self.call(name)
        return raised.value


def outcome_of(name: str, *outcomes: Outcome, kind: type[Client | AsyncClient] = Client) -> tuple[TilesError, Service]:
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


# What is sent


def test_every_call_has_its_line_of_the_contract_here() -> None:
    assert set(CALLS) == set(CONTRACT)


@every_call
def test_every_call_is_documented_and_takes_its_arguments_by_name(name: str) -> None:
    for owner in (Client, AsyncClient, Client(base_url=BASE)):
        method = getattr(owner, name)
        assert inspect.getdoc(method)
        parameters = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
        assert {parameter.kind for parameter in parameters} <= {inspect.Parameter.KEYWORD_ONLY}


@both_clients
@every_call
def test_a_call_sends_its_line_of_the_contract(kind: type[Client | AsyncClient], name: str) -> None:
    driver = Driver(kind, Service(answer_to(name)))
    driver.call(name)
    (request,) = driver.service.requests
    line = CONTRACT[name]
    assert (request.method, request.url.raw_path.decode()) == (line.method, "/tiles" + line.path)
    assert request.headers.get("Authorization") == (f"Bearer {TOKEN}" if line.session else None)
    if line.method in {"GET", "DELETE"}:
        assert not request.content
    else:
        elsewhere = NOT_IN_THE_BODY.get(name, set())
        assert json.loads(request.content) == {
            argument: value for argument, value in arguments_of(name).items() if argument not in elsewhere
        }


@every_call
def test_both_clients_send_identical_requests(name: str) -> None:
    sent = []
    for kind in (Client, AsyncClient):
        driver = Driver(kind, Service(answer_to(name)))
        driver.call(name)
        (request,) = driver.service.requests
        sent.append((request.method, request.url, request.headers.raw, request.content))
    assert sent[0] == sent[1]


@both_clients
@every_call
def test_the_headers_are_a_fixed_set_that_tells_nothing(kind: type[Client | AsyncClient], name: str) -> None:
    tracking = httpx2.Response(200, headers={"Set-Cookie": "who=you; Path=/", "ETag": '"you"'})
    driver = Driver(kind, Service(tracking, answer_to(name)))
    with contextlib.suppress(TilesError):
        driver.call(name)
    driver.call(name)
    for request in driver.service.requests:
        headers = dict(request.headers)
        headers.pop("authorization", None)
        if name == "send_feedback":
            assert headers.pop("idempotency-key") == "the-key"
        if request.content:
            assert headers.pop("content-type") == "application/json"
        headers.pop("content-length", None)
        assert headers == {
            "host": "accounts.example.org",
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": "tiles-client",
        }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": None},
        {"name": "Ada King"},
        {"email_updates": False},
        {"email_updates": True, "accepted_policy": "2026-01", "name": "Ada King"},
    ],
)
@both_clients
def test_of_the_account_only_what_is_passed_is_changed(
    kind: type[Client | AsyncClient], changes: dict[str, object]
) -> None:
    driver = Driver(kind, Service(answer_to("change_account")))
    driver.send("change_account", **changes)
    assert json.loads(driver.service.requests[0].content) == changes


def test_closing_erases_only_when_asked_to() -> None:
    driver = Driver(Client, Service(answer_to("close_account")))
    driver.send("close_account", password=PASSWORD)
    driver.send("close_account", password=PASSWORD, erase=True)
    bodies = [json.loads(request.content) for request in driver.service.requests]
    assert [body.get("erase", False) for body in bodies] == [False, True]


@pytest.mark.parametrize("arguments", [{}, {"name": "Ada"}, {"name": "Ada", "email": "a@example.org", "phone": "1"}])
@both_clients
def test_a_call_with_an_argument_too_few_or_too_many_is_not_sent(
    kind: type[Client | AsyncClient], arguments: dict[str, object]
) -> None:
    driver = Driver(kind, Service(answer_to("register")))
    with pytest.raises(TypeError, match=r"register\(\)"):
        driver.send("register", **arguments)
    assert not driver.service.requests


def test_any_text_travels_and_a_lone_surrogate_is_left_for_the_service_to_refuse() -> None:
    driver = Driver(Client, Service(answer_to("register")))
    driver.call("register", name="Ærlig 🦊 \ud800 \x00", email='a"\\@example.org')
    body = driver.service.requests[0].content
    assert "Ærlig 🦊".encode() in body
    assert json.loads(body) == {"name": "Ærlig 🦊 \ud800 \x00", "email": 'a"\\@example.org'}


@pytest.mark.parametrize("session_id", ["", ".", ".."])
def test_an_id_that_would_lead_to_another_path_is_refused(session_id: str) -> None:
    driver = Driver(Client, Service(answer_to("end_session")))
    with pytest.raises(ValueError, match=r"^id: "):
        driver.call("end_session", id=session_id)
    assert not driver.service.requests


# What a key is for


def keys_of(service: Service) -> list[str]:
    return [request.headers["Idempotency-Key"] for request in service.requests]


@both_clients
def test_feedback_carries_a_key_of_its_own_that_stays_over_all_attempts(
    kind: type[Client | AsyncClient], pauses: list[float]
) -> None:
    driver = Driver(kind, Service(httpx2.ReadTimeout(""), problem("overloaded", 503), answer_to("send_feedback")))
    driver.send("send_feedback", message="More tiles, please.")
    driver.send("send_feedback", message="More tiles, please.", key=None)
    first, second, third, other = keys_of(driver.service)
    assert first == second == third != other
    assert all(len(key) == 32 and key.isalnum() for key in (first, other))
    assert len(pauses) == 2


def test_a_message_goes_with_the_key_that_it_is_given_also_after_a_restart(pauses: list[float]) -> None:
    lost, later = Service(httpx2.ReadTimeout("")), Service(answer_to("send_feedback"))
    with pytest.raises(ServiceUnreachable):
        Driver(Client, lost).send("send_feedback", message="More tiles, please.", key="message-17")
    Driver(AsyncClient, later).send("send_feedback", message="More tiles, please.", key="message-17")
    assert keys_of(lost) + keys_of(later) == ["message-17"] * 4
    assert json.loads(later.requests[0].content) == {"message": "More tiles, please."}
    assert len(pauses) == 2


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "schl\u00fcssel", "a\n"])
def test_what_cannot_be_a_key_is_refused_and_nothing_is_sent(key: str) -> None:
    driver = Driver(Client, Service(answer_to("send_feedback")))
    with pytest.raises(ValueError, match=r"^key: "):
        driver.send("send_feedback", message="More tiles, please.", key=key)
    assert not driver.service.requests


@both_clients
def test_feedback_goes_as_nobodys_where_nobody_is_signed_in(kind: type[Client | AsyncClient]) -> None:
    driver = Driver(kind, Service(answer_to("send_feedback")), session_token=None)
    driver.call("send_feedback")
    assert "Authorization" not in driver.service.requests[0].headers


@both_clients
def test_feedback_of_an_ended_session_is_not_made_nobodys_unasked(kind: type[Client | AsyncClient]) -> None:
    driver = Driver(kind, Service(problem("unauthenticated", 401), answer_to("send_feedback")))
    assert isinstance(driver.failure("send_feedback"), errors.Unauthenticated)
    assert len(driver.service.requests) == 1
    driver.call("send_feedback")
    assert ["Authorization" in request.headers for request in driver.service.requests] == [True, False]
    assert keys_of(driver.service) == ["the-key", "the-key"]


# Where it is sent


@pytest.mark.parametrize(
    "address",
    [
        "https://accounts.example.org",
        "https://accounts.example.org:8443/tiles/",
        "http://127.0.0.1:8000",
        "http://[::1]:8000",
        "http://localhost",
    ],
)
def test_https_and_loopback_addresses_are_accepted(address: str) -> None:
    Client(base_url=address).close()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "accounts.example.org",
        "https://",
        "http://accounts.example.org",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://127.0.0.1@example.org",
        "ftp://127.0.0.1",
        "https://ada:hidden@example.org",
        "https://example.org/?hidden=1",
        "https://example.org/#hidden",
        "https://example.org:hidden",
    ],
)
@both_clients
def test_any_other_address_is_refused_and_told_what_to_write(kind: type[Client | AsyncClient], address: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url: write https://") as raised:
        kind(base_url=address)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("token", ["", "hidden\r\nX: y", "hidden token", "hiddené", "hidden\n"])
def test_what_cannot_be_a_session_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match=r"^session_token: ") as raised:
        Client(base_url=BASE, session_token=token)
    assert "hidden" not in str(raised.value)


# What answers become


def test_answers_become_values() -> None:
    driver = Driver(Client, Service(answer_to("sign_in"), answer_to("sessions")))
    signed_in = driver.call("sign_in")
    assert isinstance(signed_in, tiles_client.models.SignedIn)
    assert signed_in.account.created_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert (signed_in.account.policy.accepted, signed_in.account.policy.current) == ("2026-01", None)
    assert signed_in.session.token == TOKEN
    sessions = driver.call("sessions")
    assert isinstance(sessions, tuple)
    assert [(session.id, session.current) for session in sessions] == [("s1", True), ("s2", False)]
    assert sessions[0].last_used_on == date(2026, 2, 1)


def test_the_answers_about_the_end_of_an_account_become_values() -> None:
    service = Service(answer_to("close_account"), httpx2.Response(200, json={**CLOSED, "erase_after": None}))
    driver = Driver(Client, service)
    closed, until_asked = driver.call("close_account"), driver.call("confirm_erasure")
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert closed == tiles_client.models.Closed(closed_at=moment, erase_after=moment + timedelta(days=14))
    assert until_asked == tiles_client.models.Closed(closed_at=moment, erase_after=None)
    receipt = Driver(Client, Service(answer_to("verify_erasure_receipt"))).call("verify_erasure_receipt")
    assert isinstance(receipt, tiles_client.models.ErasureReceipt)
    assert (receipt.account, receipt.requested_at, receipt.erased_at) == (ERASED["account"], None, closed.erase_after)
    assert receipt.removed == (tiles_client.models.Removed("accounts", 1),)
    assert receipt.kept == (tiles_client.models.Kept("ledger", 1, "GDPR Article 17(3)(b)"),)


def test_the_other_answers_become_values() -> None:
    assert Driver(Client, Service(answer_to("policy"))).call("policy") == tiles_client.models.Policy(
        version="2026-01", effective_on=date(2026, 1, 1), sha256="a" * 64, url="https://accounts.example.org/privacy"
    )
    stored = Driver(Client, Service(answer_to("send_feedback"))).call("send_feedback")
    assert stored == tiles_client.models.StoredFeedback(id="f1", received_at=datetime(2026, 2, 1, 12, tzinfo=UTC))


@both_clients
def test_an_export_is_the_document_itself(kind: type[Client | AsyncClient]) -> None:
    exported = Driver(kind, Service(answer_to("export_account"))).call("export_account")
    assert type(exported) is dict
    assert exported == EXPORT


@pytest.mark.parametrize("answer", [[EXPORT], "everything", None])
def test_an_export_that_is_no_document_is_a_broken_answer(answer: object) -> None:
    failure, _ = outcome_of("export_account", httpx2.Response(200, json=answer))
    assert str(failure) == "GET /v1/account/export: HTTP 200: the JSON object is missing or wrong"


def test_a_removed_name_is_none() -> None:
    account = Driver(Client, Service(httpx2.Response(200, json={**ACCOUNT, "name": None}))).call("account")
    assert isinstance(account, tiles_client.models.Account)
    assert account.name is None


def with_members(value: object) -> object:
    """Add a member that nobody knows to each object in the value."""
    if isinstance(value, dict):
        return {key: with_members(item) for key, item in value.items()} | {"unheard_of": [1]}
    return [with_members(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", [name for name in CALLS if name not in AS_IT_IS])
def test_members_of_a_later_version_are_ignored(name: str) -> None:
    line = CONTRACT[name]
    later = answer_to(name) if line.answer is None else httpx2.Response(line.status, json=with_members(line.answer))
    assert Driver(Client, Service(later)).call(name) == Driver(Client, Service(answer_to(name))).call(name)


def spoiled(value: object, spoil: Callable[[dict[str, object], str], None]) -> Iterator[tuple[str, object]]:
    """Yield the value once for each member in it, with this one spoiled."""
    if isinstance(value, list):
        yield from ((name, [item, *value[1:]]) for name, item in spoiled(value[0], spoil))
    if isinstance(value, dict):
        for name in value:
            copy = dict(value)
            spoil(copy, name)
            yield name, copy
            yield from ((inner, {**value, name: item}) for inner, item in spoiled(value[name], spoil))


def remove(members: dict[str, object], name: str) -> None:
    del members[name]


def mistype(members: dict[str, object], name: str) -> None:
    members[name] = 1.5


SPOILED = [
    pytest.param(call, member, answer, id=f"{call} {spoil.__name__} {member}")
    for call in CALLS
    if call not in AS_IT_IS
    for spoil in (remove, mistype)
    for member, answer in spoiled(CONTRACT[call].answer, spoil)
]


@pytest.mark.parametrize(("name", "member", "answer"), SPOILED)
def test_a_member_that_is_missing_or_of_another_type_is_named(name: str, member: str, answer: object) -> None:
    failure, _ = outcome_of(name, httpx2.Response(CONTRACT[name].status, json=answer))
    assert type(failure) is errors.InvalidResponse
    assert str(failure).endswith(f": {member} is missing or wrong")
    assert TOKEN not in "".join(traceback.format_exception(failure))


@pytest.mark.parametrize("moment", ["2026-01-31T12:00:00", "2026-01-31", "yesterday", "", None, 0])
def test_a_time_without_its_zone_is_no_time(moment: object) -> None:
    failure, _ = outcome_of("account", httpx2.Response(200, json={**ACCOUNT, "created_at": moment}))
    assert "created_at is missing or wrong" in str(failure)


def page(status: int) -> httpx2.Response:
    return httpx2.Response(status, html="<h1>Bad gateway</h1>")


PROBLEM = {"Content-Type": "application/problem+json"}


@pytest.mark.parametrize(
    "answer",
    [
        page(500),
        page(200),
        httpx2.Response(200),
        httpx2.Response(200, json=[ACCOUNT]),
        httpx2.Response(200, content=b'{"name": "\xff"}'),
        httpx2.Response(200, content=b"[" * 200_000),
        httpx2.Response(204),
        httpx2.Response(201, json=ACCOUNT),
        httpx2.Response(302, headers={"Location": "https://elsewhere.example.org/"}),
        httpx2.Response(400, json={"code": "invalid-token", "title": "t", "detail": "d"}),
        httpx2.Response(400, headers=PROBLEM, json={"title": "t", "detail": "d"}),
        httpx2.Response(400, headers=PROBLEM, json={"code": ["x"], "title": "t", "detail": "d"}),
        httpx2.Response(400, headers=PROBLEM, json={"code": "x", "title": "t", "detail": "d", "errors": [1]}),
        httpx2.Response(400, headers=PROBLEM, json=[]),
        httpx2.Response(400, headers=PROBLEM, content=b"{"),
    ],
)
@both_clients
def test_what_the_service_does_not_answer_is_a_broken_answer(
    kind: type[Client | AsyncClient], answer: httpx2.Response
) -> None:
    failure, service = outcome_of("account", answer, kind=kind)
    assert type(failure) is errors.InvalidResponse
    assert isinstance(failure, ServiceUnreachable)
    assert str(failure).startswith(f"GET /v1/account: HTTP {answer.status_code}: ")
    assert len(service.requests) == 1


@pytest.mark.parametrize("answer", [[LISTED], {}, {"sessions": LISTED}, {"sessions": [[LISTED]]}])
def test_sessions_come_as_a_list_in_an_object_and_not_otherwise(answer: object) -> None:
    failure, _ = outcome_of("sessions", httpx2.Response(200, json=answer))
    assert str(failure) == "GET /v1/sessions: HTTP 200: sessions is missing or wrong"


def test_a_page_that_says_200_is_not_taken_for_a_registration() -> None:
    failure, _ = outcome_of("register", page(200))
    assert type(failure) is errors.InvalidResponse


# What refusals become


@pytest.mark.parametrize("code", CODES)
@both_clients
def test_each_problem_code_has_its_class(kind: type[Client | AsyncClient], code: str) -> None:
    status, expected = CODES[code]
    refused, _ = outcome_of(
        "sign_in", problem(code, status, errors=[{"pointer": "/email", "detail": "Why."}]), kind=kind
    )
    assert type(refused) is expected
    assert (refused.code, refused.status, refused.title, refused.detail) == (code, status, "A title", "A detail.")
    assert refused.errors == (errors.FieldError("/email", "Why."),)
    assert refused.retry_after is None
    assert str(refused) == f"{code}: A detail.; /email: Why."


def test_an_unknown_code_is_a_plain_refusal() -> None:
    refused, _ = outcome_of("sign_in", problem("no-tuesdays", 418))
    assert type(refused) is ServiceRefused
    assert (refused.code, refused.status, refused.errors) == ("no-tuesdays", 418, ())


def test_a_refusal_can_be_collected_and_pickled() -> None:
    refused, _ = outcome_of("sign_in", problem("weak-password", 422, errors=[{"pointer": "/password", "detail": "x"}]))
    assert isinstance(refused, ServiceRefused)
    assert hash(refused) == hash(refused)
    copy = pickle.loads(pickle.dumps(refused))
    assert type(copy) is errors.WeakPassword
    assert (str(copy), copy.errors) == (str(refused), refused.errors)


ERRORS = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, TilesError)]


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_says_what_it_means_and_is_drawn_in_the_tree(error: type[TilesError]) -> None:
    assert vars(error)["__doc__"]
    (tree,) = re.findall(r"^```\n(TilesError .*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert re.search(rf"\b{error.__name__}\b", tree)


def test_each_refusal_has_its_code() -> None:
    assert {code: error for code, (_, error) in CODES.items()} == errors.REFUSALS
    assert set(errors.REFUSALS.values()) == set(ServiceRefused.__subclasses__())


# Which session it runs in


def test_a_session_can_be_stored_and_resumed() -> None:
    first = Driver(Client, Service(answer_to("sign_in")), session_token=None)
    first.call("sign_in")
    assert first.client.session_token == TOKEN
    second = Driver(Client, Service(answer_to("account")), session_token=first.client.session_token)
    second.call("account")
    assert second.service.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


@both_clients
@every_call
def test_only_signing_in_and_ending_the_session_change_what_is_remembered(
    kind: type[Client | AsyncClient], name: str
) -> None:
    driver = Driver(kind, Service(answer_to(name)), session_token="tiles_earlier")
    driver.call(name)
    expected = TOKEN if name in BEGINS_SESSION else None if name in ENDS_SESSION else "tiles_earlier"
    assert driver.client.session_token == expected


@both_clients
@pytest.mark.parametrize("name", sorted(ENDS_SESSION))
def test_a_session_that_could_not_be_ended_is_kept(kind: type[Client | AsyncClient], name: str) -> None:
    for outcome in (httpx2.ReadTimeout(""), problem("overloaded", 503)):
        driver = Driver(kind, Service(outcome))
        driver.failure(name)
        assert driver.client.session_token == TOKEN


@pytest.mark.parametrize("name", [name for name, line in CONTRACT.items() if line.session])
def test_a_session_that_the_service_has_ended_is_forgotten(name: str) -> None:
    driver = Driver(Client, Service(problem("unauthenticated", 401)))
    assert isinstance(driver.failure(name), errors.Unauthenticated)
    assert driver.client.session_token is None


@pytest.mark.parametrize("late", [problem("unauthenticated", 401), httpx2.Response(204)])
def test_a_late_word_about_an_old_session_leaves_the_new_one_alone(late: httpx2.Response) -> None:
    async def race() -> str | None:
        signed_in = asyncio.Event()

        async def service(request: httpx2.Request) -> httpx2.Response:
            if request.method == "POST":
                return answer_to("sign_in")
            await signed_in.wait()
            return late

        transport = httpx2.MockTransport(service)
        async with AsyncClient(base_url=BASE, session_token="tiles_old", transport=transport) as client:
            leaving = asyncio.create_task(client.sign_out())
            await asyncio.sleep(0)
            await client.sign_in(email="ada@example.org", password=PASSWORD)
            signed_in.set()
            await asyncio.wait([leaving])
            leaving.exception()
            return client.session_token

    assert asyncio.run(race()) == TOKEN


# When it asks again

SENT: list[Outcome] = [
    httpx2.ReadTimeout(""),
    httpx2.WriteTimeout(""),
    httpx2.ReadError("cut"),
    httpx2.RemoteProtocolError("cut"),
]
UNSENT: list[Outcome] = [
    httpx2.ConnectError("refused"),
    httpx2.ConnectTimeout(""),
    httpx2.PoolTimeout(""),
    httpx2.ProxyError("no"),
]
PASSING: list[Outcome] = [problem("too-many-requests", 429), problem("overloaded", 503), page(502)]


def described(outcome: Outcome) -> str:
    return str(outcome.status_code) if isinstance(outcome, httpx2.Response) else type(outcome).__name__


@pytest.mark.parametrize("outcome", UNSENT, ids=described)
@every_call
@both_clients
def test_what_was_not_sent_is_tried_again(
    kind: type[Client | AsyncClient], name: str, outcome: Outcome, pauses: list[float]
) -> None:
    driver = Driver(kind, Service(outcome, outcome, answer_to(name)))
    driver.call(name)
    assert len(driver.service.requests) == 3
    assert len(pauses) == 2


@pytest.mark.parametrize("outcome", SENT + PASSING, ids=described)
@every_call
@both_clients
def test_what_was_sent_is_sent_again_only_when_that_does_no_harm(
    kind: type[Client | AsyncClient], name: str, outcome: Outcome, pauses: list[float]
) -> None:
    driver = Driver(kind, Service(outcome, answer_to(name)))
    if name in REPEATABLE:
        driver.call(name)
        assert (len(driver.service.requests), len(pauses)) == (2, 1)
    else:
        driver.failure(name)
        assert (len(driver.service.requests), len(pauses)) == (1, 0)


@pytest.mark.parametrize("outcome", SENT + UNSENT + PASSING, ids=described)
@both_clients
def test_it_gives_up_after_three_attempts(
    kind: type[Client | AsyncClient], outcome: Outcome, pauses: list[float]
) -> None:
    failure, service = outcome_of("account", outcome, kind=kind)
    assert (len(service.requests), len(pauses)) == (3, 2)
    if isinstance(outcome, httpx2.TransportError):
        assert type(failure) is (errors.NotConnected if outcome in UNSENT else ServiceUnreachable)
        assert failure.__cause__ is outcome


def test_pauses_grow_and_differ(pauses: list[float]) -> None:
    for _ in range(50):
        outcome_of("account", httpx2.ReadTimeout(""))
    first, second = pauses[::2], pauses[1::2]
    assert 0.25 <= min(first) < max(first) <= 0.5 <= min(second) < max(second) <= 1.0


@both_clients
def test_the_wait_that_the_service_asks_for_is_kept(kind: type[Client | AsyncClient], pauses: list[float]) -> None:
    busy = problem("overloaded", 503)
    busy.headers["Retry-After"] = "4"
    refused, service = outcome_of("account", busy, kind=kind)
    assert isinstance(refused, errors.Overloaded)
    assert (refused.retry_after, pauses, len(service.requests)) == (4.0, [4.0, 4.0], 3)


def test_a_wait_until_a_date_is_kept_too(pauses: list[float]) -> None:
    busy = httpx2.Response(
        503, headers={"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)}
    )
    Driver(Client, Service(busy, answer_to("account"))).call("account")
    assert 3 < pauses[0] <= 5


@pytest.mark.parametrize("asked", ["11", "86400", "9" * 5000, "Fri, 31 Dec 2999 23:59:59 GMT"])
@both_clients
def test_a_wait_too_long_for_a_person_is_not_waited(
    kind: type[Client | AsyncClient], asked: str, pauses: list[float]
) -> None:
    busy = problem("too-many-requests", 429)
    busy.headers["Retry-After"] = asked
    refused, service = outcome_of("account", busy, kind=kind)
    assert isinstance(refused, errors.TooManyRequests)
    assert refused.retry_after is not None
    assert refused.retry_after > 10
    assert (len(service.requests), pauses) == (1, [])


def test_all_pauses_together_stay_within_ten_seconds(pauses: list[float]) -> None:
    busy = problem("overloaded", 503)
    busy.headers["Retry-After"] = "6"
    _, service = outcome_of("account", busy)
    assert (len(service.requests), pauses) == (2, [6.0])


@pytest.mark.parametrize("asked", ["soon", "-1", "", "٣", "1.5", "Mon, 01 Jan 2024 00:00:00 -0000"])
def test_a_wait_that_makes_no_sense_is_as_none(asked: str, pauses: list[float]) -> None:
    busy = httpx2.Response(503, headers=[(b"Retry-After", asked.encode())])
    Driver(Client, Service(busy, answer_to("account"))).call("account")
    assert 0.25 <= pauses[0] <= 0.5


# What is told to logs


def secrets_in(text: str) -> list[str]:
    secrets = (TOKEN, PASSWORD, RECEIPT, "mailed-token", "ada@example.org", "Ada")
    return [secret for secret in secrets if secret in text]


@both_clients
@pytest.mark.parametrize("name", [name for name in CALLS if name not in AS_IT_IS])
def test_nothing_that_is_shown_holds_a_secret(kind: type[Client | AsyncClient], name: str) -> None:
    driver = Driver(kind, Service(answer_to(name)))
    before, answer = repr(driver.client), driver.call(name)
    assert not secrets_in(before + repr(answer) + repr(driver.client))


@pytest.mark.parametrize(
    "outcome",
    [
        httpx2.ReadTimeout(""),
        httpx2.Response(201, content=json.dumps(SIGNED_IN)[:-1]),
        httpx2.Response(201, json={**SIGNED_IN, "session": {**SESSION, "expires_at": TOKEN}}),
        httpx2.Response(201, json={**SIGNED_IN, "session": {**SESSION, "token": f"{TOKEN}\n"}}),
        problem("wrong-credentials", 401),
    ],
    ids=described,
)
@pytest.mark.parametrize("name", ["sign_in", "confirm_registration"])
def test_no_failure_shows_a_secret(outcome: Outcome, name: str, pauses: list[float]) -> None:
    failure, _ = outcome_of(name, outcome)
    assert not secrets_in("".join(traceback.format_exception(failure)) + repr(failure))
    shown_with_it = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    assert not secrets_in(repr(vars(shown_with_it)) if shown_with_it else "")
    assert not pauses


# Over a real socket


@contextlib.contextmanager
def listening(answers: Callable[[socket.socket], object], times: int = 1) -> Iterator[str]:
    """A server that reads each request and answers as it is told; yields its address."""

    def serve() -> None:
        for _ in range(times):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                answers(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def ask(kind: type[Client | AsyncClient], address: str, timeout: float = 5.0) -> None:
    """Register on a real connection."""
    arguments = arguments_of("register")
    if issubclass(kind, Client):
        with kind(base_url=address, timeout=timeout) as client:
            client.register(**arguments)
        return

    async def main() -> None:
        async with AsyncClient(base_url=address, timeout=timeout) as client:
            await client.register(**arguments)

    asyncio.run(main())


@both_clients
def test_an_answer_comes_through_whatever_proxy_the_environment_names(
    kind: type[Client | AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with listening(lambda connection: connection.sendall(answer)) as address:
        ask(kind, address)


@both_clients
def test_a_silent_service_is_unreachable_after_the_time_out(kind: type[Client | AsyncClient]) -> None:
    patience = threading.Event()
    with listening(lambda _: patience.wait(5)) as address:
        with pytest.raises(ServiceUnreachable) as raised:
            ask(kind, address, timeout=0.2)
        patience.set()
    assert type(raised.value) is ServiceUnreachable


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n", b"SSH-2.0-x\r\n"])
@both_clients
def test_a_cut_connection_is_unreachable_and_nothing_is_sent_twice(
    kind: type[Client | AsyncClient], answer: bytes
) -> None:
    with (
        listening(lambda connection: connection.sendall(answer)) as address,
        pytest.raises(ServiceUnreachable) as raised,
    ):
        ask(kind, address)
    assert type(raised.value) is ServiceUnreachable


@both_clients
def test_a_closed_port_is_not_connected(kind: type[Client | AsyncClient], pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(errors.NotConnected):
        ask(kind, address)
    assert len(pauses) == 2


def test_it_is_thin() -> None:
    files = [*Path(tiles_client.__file__).parent.glob("*.py")]
    assert sum(len(file.read_text().splitlines()) for file in files) < 700


def test_every_call_is_in_the_readme() -> None:
    text = README.read_text()
    assert [name for name in CALLS if f"`{name}(" not in text] == []


def test_importing_loads_the_http_library_and_hardly_more() -> None:
    # What makes an import slow is what it loads; how long that takes is for a benchmark to say.
    probe = "import sys, httpx2; known = {*sys.modules}; import tiles_client; print(*sys.modules.keys() - known)"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout.split()
    assert {name for name in loaded if not name.startswith("tiles_client")} <= {"dataclasses", "random", "email.utils"}
    assert "asyncio" not in loaded
