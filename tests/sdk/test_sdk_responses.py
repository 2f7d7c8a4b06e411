"""How the SDK handles responses: values, errors, no secrets in them. There is no backend."""

import json
import pickle
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import httpx2
import pytest
from simulated_service import (
    ACCOUNT,
    CALLS,
    CLOSED,
    CONTRACT,
    ERASED,
    EXPORT,
    LISTED,
    PASSWORD,
    RECEIPT,
    SESSION,
    SIGNED_IN,
    TOKEN,
    Driver,
    Kind,
    Outcome,
    Service,
    answer_to,
    both_clients,
    described,
    outcome_of,
    page,
    problem,
)

from tiles_client import Client, ServiceRefused, ServiceUnreachable, errors, models

UNPARSED = {"export_account"}  # it returns the document itself
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
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, 12, tzinfo=UTC)


# Values


def test_sessions_and_their_account_become_values() -> None:
    driver = Driver(Client, Service(answer_to("sign_in"), answer_to("sessions")))
    signed_in = driver.call("sign_in")
    assert isinstance(signed_in, models.SignedIn)
    assert (signed_in.account.created_at, signed_in.session.token) == (NOON, TOKEN)
    assert (signed_in.account.policy.accepted, signed_in.account.policy.current) == ("2026-01", None)
    sessions = driver.call("sessions")
    assert isinstance(sessions, tuple)
    assert [(session.id, session.current) for session in sessions] == [("s1", True), ("s2", False)]
    assert sessions[0].last_used_on == date(2026, 2, 1)


VALUES = {
    "close_account": models.AccountClosure(closed_at=MARCH, erase_after=MARCH + timedelta(days=14)),
    "policy": models.PolicyVersion(version="2026-01", effective_on=date(2026, 1, 1), sha256="a" * 64,
                            url="https://accounts.example.org/privacy"),
    "send_feedback": models.FeedbackReceipt(id="f1", received_at=datetime(2026, 2, 1, 12, tzinfo=UTC)),
    "verify_erasure_receipt": models.ErasureReceipt(
        account=str(ERASED["account"]), requested_at=None, erased_at=MARCH + timedelta(days=14),
        removed=(models.RemovedRows("accounts", 1),), kept=(models.KeptRows("ledger", 1, "GDPR Article 17(3)(b)"),),
    ),
    "export_account": EXPORT,
}  # fmt: skip


@both_clients
@pytest.mark.parametrize("name", VALUES)
def test_a_response_becomes_a_value(kind: Kind, name: str) -> None:
    assert Driver(kind, Service(answer_to(name))).call(name) == VALUES[name]


@pytest.mark.parametrize(("name", "answer", "field"), [("close_account", CLOSED, "erase_after"),
                                                       ("account", ACCOUNT, "name")])  # fmt: skip
def test_null_becomes_none(name: str, answer: dict[str, object], field: str) -> None:
    value = Driver(Client, Service(httpx2.Response(200, json={**answer, field: None}))).call(name)
    assert getattr(value, field) is None


def with_more_fields(value: object) -> object:
    """Add an unknown field to each object in the value."""
    if isinstance(value, dict):
        return {key: with_more_fields(item) for key, item in value.items()} | {"unheard_of": [1]}
    return [with_more_fields(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", [name for name in CALLS if name not in UNPARSED and CONTRACT[name].answer is not None])
def test_fields_of_a_later_version_are_ignored(name: str) -> None:
    later = httpx2.Response(CONTRACT[name].status, json=with_more_fields(CONTRACT[name].answer))
    assert Driver(Client, Service(later)).call(name) == Driver(Client, Service(answer_to(name))).call(name)


# Invalid responses


def spoiled(value: object, spoil: Callable[[dict[str, object], str], object]) -> Iterator[tuple[str, object]]:
    """Yield the value once for each field in it, with this one spoiled."""
    if isinstance(value, list):
        yield from ((name, [item, *value[1:]]) for name, item in spoiled(value[0], spoil))
    if isinstance(value, dict):
        for name in value:
            copy = dict(value)
            spoil(copy, name)
            yield name, copy
            yield from ((inner, {**value, name: item}) for inner, item in spoiled(value[name], spoil))


def mistype(fields: dict[str, object], name: str) -> None:
    fields[name] = 1.5


SPOILED = [
    pytest.param(call, field, answer, id=f"{call} {spoil.__name__} {field}")
    for call in CALLS
    if call not in UNPARSED
    for spoil in (dict.pop, mistype)
    for field, answer in spoiled(CONTRACT[call].answer, spoil)
]


@pytest.mark.parametrize(("name", "field", "answer"), SPOILED)
def test_a_field_that_is_missing_or_of_another_type_is_named(name: str, field: str, answer: object) -> None:
    failure, _ = outcome_of(name, httpx2.Response(CONTRACT[name].status, json=answer))
    assert type(failure) is errors.InvalidResponse
    assert str(failure).endswith(f": {field} is missing or wrong")
    assert TOKEN not in "".join(traceback.format_exception(failure))


ODD = [
    *(("account", {**ACCOUNT, "created_at": time}, "created_at")
      for time in ("2026-01-31T12:00:00", "2026-01-31", "yesterday", "", None, 0)),
    *(("sessions", answer, "sessions") for answer in ([LISTED], {}, {"sessions": LISTED}, {"sessions": [[LISTED]]})),
    *(("export_account", answer, "the JSON object") for answer in ([EXPORT], "everything", None)),
    *(("register", answer, "the JSON object") for answer in ("a page", [])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "field"), ODD)
def test_a_time_without_a_zone_or_a_value_of_another_shape_is_named(name: str, answer: object, field: str) -> None:
    line = CONTRACT[name]
    failure, _ = outcome_of(name, httpx2.Response(line.status, json=answer))
    assert str(failure) == f"{line.method} {line.path}: HTTP {line.status}: {field} is missing or wrong"


PROBLEM = {"Content-Type": "application/problem+json"}
INVALID = [
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
]


@pytest.mark.parametrize("answer", INVALID)
@both_clients
def test_a_response_outside_the_contract_is_invalid(kind: Kind, answer: httpx2.Response) -> None:
    failure, service = outcome_of("account", answer, kind=kind)
    assert type(failure) is errors.InvalidResponse
    assert isinstance(failure, ServiceUnreachable)
    assert str(failure).startswith(f"GET /v1/account: HTTP {answer.status_code}: ")
    assert len(service.requests) == 1


# Refusals


@pytest.mark.parametrize("code", CODES)
@both_clients
def test_each_problem_code_has_its_class(kind: Kind, code: str) -> None:
    status, expected = CODES[code]
    causes = [{"pointer": "/email", "detail": "Why."}]
    refused, _ = outcome_of("sign_in", problem(code, status, errors=causes), kind=kind)
    assert type(refused) is expected is errors.REFUSALS[code]
    assert (refused.code, refused.status, refused.title, refused.detail) == (code, status, "A title", "A detail.")
    assert refused.errors == (errors.FieldError("/email", "Why."),)
    assert refused.retry_after is None
    assert str(refused) == f"{code}: A detail.; /email: Why."


def test_each_refusal_has_its_code_and_an_unknown_code_is_a_plain_refusal() -> None:
    assert errors.REFUSALS.keys() == CODES.keys()
    assert set(errors.REFUSALS.values()) == set(ServiceRefused.__subclasses__())
    refused, _ = outcome_of("sign_in", problem("no-tuesdays", 418))
    assert type(refused) is ServiceRefused
    assert (refused.code, refused.status, refused.errors) == ("no-tuesdays", 418, ())


def test_a_refusal_can_be_hashed_and_pickled() -> None:
    refused, _ = outcome_of("sign_in", problem("weak-password", 422, errors=[{"pointer": "/password", "detail": "x"}]))
    assert isinstance(refused, ServiceRefused)
    assert hash(refused) == hash(refused)
    copy = pickle.loads(pickle.dumps(refused))
    assert type(copy) is errors.WeakPassword
    assert (str(copy), copy.errors) == (str(refused), refused.errors)


# Secrets


def secrets_in(text: str) -> list[str]:
    secrets = (TOKEN, PASSWORD, RECEIPT, "mailed-token", "ada@example.org", "Ada")
    return [secret for secret in secrets if secret in text]


@both_clients
@pytest.mark.parametrize("name", [name for name in CALLS if name not in UNPARSED])
def test_no_representation_shows_a_secret(kind: Kind, name: str) -> None:
    driver = Driver(kind, Service(answer_to(name)))
    before, answer = repr(driver.client), driver.call(name)
    assert not secrets_in(before + repr(answer) + repr(driver.client))


LEAKING: list[Outcome] = [
    httpx2.ReadTimeout(""),
    httpx2.Response(201, content=json.dumps(SIGNED_IN)[:-1]),
    httpx2.Response(201, json={**SIGNED_IN, "session": {**SESSION, "expires_at": TOKEN}}),
    httpx2.Response(201, json={**SIGNED_IN, "session": {**SESSION, "token": f"{TOKEN}\n"}}),
    problem("wrong-credentials", 401),
]


@pytest.mark.parametrize("outcome", LEAKING, ids=described)
@pytest.mark.parametrize("name", ["sign_in", "confirm_registration"])
def test_no_failure_shows_a_secret(outcome: Outcome, name: str, pauses: list[float]) -> None:
    failure, _ = outcome_of(name, outcome)
    assert not secrets_in("".join(traceback.format_exception(failure)) + repr(failure))
    shown_with_it = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    assert not secrets_in(repr(vars(shown_with_it)) if shown_with_it else "")
    assert not pauses
