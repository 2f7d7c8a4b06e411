"""Check every response of a test's service against the OpenAPI document.

A response has the documented status, headers and media type, every required field, and no field that is not documented.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import httpx2
import pytest
from flask import Flask
from jsonschema_rs import Draft202012Validator
from werkzeug.test import run_wsgi_app

from backend.database import outbox
from backend.web.api import operations

DOCUMENT = operations.document
OPERATIONS = {
    (method.upper(), path): described for path, item in DOCUMENT["paths"].items() for method, described in item.items()
}
PROBLEM = "application/problem+json"
TEMPLATES = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in DOCUMENT["paths"] if "{" in path}
# A validator of JSON Schema takes any RFC 3339 time; the contract's are in whole seconds.
FORMATS = {"date-time": lambda text: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text) is not None}


def _closed(part: Any) -> Any:  # noqa: ANN401 - any JSON
    """Close a schema to fields that it does not name. Each part of an allOf names some of them."""
    if isinstance(part, list):
        return [_closed(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    closed = {name: inner if name == "allOf" else _closed(inner) for name, inner in part.items()}
    return {"additionalProperties": False, **closed} if isinstance(part.get("properties"), dict) else closed


# A schema of `allOf` narrows another one, which is closed already.
_COMPONENTS = {
    "schemas": {
        name: schema if "allOf" in schema else _closed(schema)
        for name, schema in DOCUMENT["components"]["schemas"].items()
    }
}


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Return a validator for a schema of the document."""
    return Draft202012Validator({**schema, "components": _COMPONENTS}, formats=FORMATS, validate_formats=True)


PROBLEMS = validator({"$ref": "#/components/schemas/Problem"})


@cache
def _validator_of(operation: tuple[str, str], status: str, media_type: str) -> Draft202012Validator:
    return validator(OPERATIONS[operation]["responses"][status]["content"][media_type]["schema"])


def operation_of(method: str, path: str) -> tuple[str, str]:
    """Return the method and the path, as in the document."""
    templates = [template for template, pattern in TEMPLATES.items() if pattern.fullmatch(path)]
    return method.upper().replace("HEAD", "GET"), path if path in DOCUMENT["paths"] or not templates else templates[0]


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Check a response against the document."""
    name, request_id = operation_of(method, path), headers["X-Request-Id"]
    media_type = headers.get("Content-Type", "").partition(";")[0]
    content = json.loads(body) if media_type in {"application/json", PROBLEM} and method != "HEAD" else None
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert body == b"" or (media_type and method != "HEAD")
    if media_type == PROBLEM and content:
        PROBLEMS.validate(content)
        assert (content["status"], content["request_id"]) == (status, request_id)
    if name in OPERATIONS:
        _check_operation(name, str(status), headers, media_type, content)
    else:
        assert status >= 300 or not path.startswith("/v1/"), f"{method} {path} is not documented"


def _check_operation(
    name: tuple[str, str], status: str, headers: Mapping[str, str], media_type: str, content: object
) -> None:
    assert status in OPERATIONS[name]["responses"], f"{name}: {status} is not documented"
    described = OPERATIONS[name]["responses"][status]
    for header in DOCUMENT["components"]["headers"]:
        assert (header in headers) == (header in described["headers"]), f"{name}: {status}: {header}"
    assert re.fullmatch("[1-9][0-9]*", headers.get("Retry-After", "1"))
    assert ({media_type} if media_type else set()) == set(described.get("content", ()))
    if content is not None:
        _validator_of(name, status, media_type).validate(content)


def check_responses(app: Flask) -> None:
    """Check every response of an app from now on."""
    inner = app.wsgi_app

    def checked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 - as WSGI has it
        body, status, headers = run_wsgi_app(inner, environ, buffered=True)
        # The server discards the response if a read failed in the event loop.
        if not ((request := outbox.collected.get()) and request.failed):
            check(environ["REQUEST_METHOD"], environ["PATH_INFO"], int(status[:3]), headers, b"".join(body))
        start_response(status, headers.to_wsgi_list())
        return body

    app.wsgi_app = checked  # type: ignore[method-assign]


def _check_served(response: httpx2.Response, *, stream: bool = False, **_: object) -> httpx2.Response:
    """Check a response of a running service; others have no X-Request-Id."""
    url = response.request.url
    if url.host == "127.0.0.1" and "X-Request-Id" in response.headers and not stream:
        check(response.request.method, url.path, response.status_code, response.headers, response.content)
    return response


@pytest.fixture(autouse=True, scope="session")
def served_responses_are_as_documented() -> Iterator[None]:
    """Check the responses of running services to the SDK and to the tests."""
    send, send_async = httpx2.Client.send, httpx2.AsyncClient.send

    def checked(client: httpx2.Client, request: httpx2.Request, **options: Any) -> httpx2.Response:
        return _check_served(send(client, request, **options), **options)

    async def checked_async(client: httpx2.AsyncClient, request: httpx2.Request, **options: Any) -> httpx2.Response:
        return _check_served(await send_async(client, request, **options), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx2.Client, "send", checked)
        patch.setattr(httpx2.AsyncClient, "send", checked_async)
        yield
