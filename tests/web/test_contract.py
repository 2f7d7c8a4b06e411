"""The check of every response finds what is not as the document says."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from contract import DOCUMENT, OPERATIONS, PROBLEM, check
from jsonschema_rs import ValidationError
from support import Service, any_database

from tiles_client import AsyncClient, Client

ACCOUNT: dict[str, Any] = OPERATIONS["GET", "/v1/account"]["responses"]["200"]["content"]["application/json"]["example"]
UNAUTHENTICATED: dict[str, Any] = DOCUMENT["components"]["examples"]["unauthenticated"]["value"]
BUSY: dict[str, Any] = DOCUMENT["components"]["examples"]["overloaded"]["value"]
ID = {"X-Request-Id": UNAUTHENTICATED["request_id"]}
JSON, REFUSED = {**ID, "Content-Type": "application/json"}, {**ID, "Content-Type": PROBLEM}


def test_a_response_as_the_document_says_is_right() -> None:
    check("GET", "/v1/account", 200, JSON, json.dumps(ACCOUNT).encode())
    check("GET", "/v1/account", 401, REFUSED, json.dumps(UNAUTHENTICATED).encode())
    check("GET", "/v1/account", 503, {**REFUSED, "Retry-After": "5"}, json.dumps(BUSY).encode())
    check("DELETE", "/v1/sessions/5f0c0b9e-3c1d-4e43-9a53-6d2f8b7e1a90", 204, ID, b"")


@pytest.mark.parametrize(
    ("status", "headers", "content"),
    [
        pytest.param(200, JSON, {**ACCOUNT, "phone": None}, id="unknown field"),
        pytest.param(200, JSON, {**ACCOUNT, "policy": {"accepted": None}}, id="missing field"),
        pytest.param(200, JSON, {**ACCOUNT, "email_updates": 1}, id="type"),
        pytest.param(200, JSON, {**ACCOUNT, "created_at": "2026-11-30T07:38:00.5Z"}, id="fraction of a second"),
        pytest.param(201, JSON, ACCOUNT, id="status"),
        pytest.param(200, {**ID, "Content-Type": "text/html"}, ACCOUNT, id="media type"),
        pytest.param(200, {**JSON, "X-Request-Id": "1"}, ACCOUNT, id="request id"),
        pytest.param(200, {**JSON, "Retry-After": "5"}, ACCOUNT, id="undocumented header"),
        pytest.param(503, REFUSED, BUSY, id="missing header"),
        pytest.param(401, REFUSED, {**UNAUTHENTICATED, "code": "wrong-credentials"}, id="code of another operation"),
        pytest.param(401, REFUSED, {**UNAUTHENTICATED, "status": 403}, id="status of the problem"),
        pytest.param(401, REFUSED, {**UNAUTHENTICATED, "request_id": "0" * 32}, id="request id of the problem"),
        pytest.param(401, REFUSED, {k: v for k, v in UNAUTHENTICATED.items() if k != "errors"}, id="no errors"),
    ],
)
def test_any_other_is_found(status: int, headers: dict[str, str], content: dict[str, Any]) -> None:
    with pytest.raises((AssertionError, ValidationError)):
        check("GET", "/v1/account", status, headers, json.dumps(content).encode())


def test_an_undocumented_operation_and_a_body_where_there_is_none_are_found() -> None:
    with pytest.raises(AssertionError):
        check("GET", "/v1/accounts", 200, JSON, b"{}")
    with pytest.raises(AssertionError):
        check("DELETE", "/v1/sessions/current", 204, ID, b"{}")


@any_database
def test_every_response_of_an_app_is_checked(service: Service) -> None:
    service.app.view_functions["api.show_policy"] = lambda: {"version": 1}
    with pytest.raises(ValidationError):
        service.http.get("/v1/policy")


def test_every_response_of_a_running_service_is_checked() -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=JSON, json={"version": 1}))

    async def ask() -> None:
        async with AsyncClient(base_url="http://127.0.0.1", transport=transport) as tiles:
            await tiles.policy()

    with pytest.raises(ValidationError), Client(base_url="http://127.0.0.1", transport=transport) as tiles:
        tiles.policy()
    with pytest.raises(ValidationError):
        asyncio.run(ask())
