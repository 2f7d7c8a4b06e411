"""The OpenAPI document is true: every route is in it, and every answer of a journey is as it says."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract import DOCUMENT, OPERATIONS, PROBLEM, operation_of
from flask.testing import FlaskClient
from journeys import RESET, moment, receipt_of, the_mail
from somebody import PURPOSES, Somebody
from support import NOBODY, OTHER_PASSWORD, PASSWORD, WORD, Service, any_database, bearer, token_of
from werkzeug.test import TestResponse

from backend import clock
from backend.desk import operations as desk
from backend.errors import problems
from backend.privacy import erasure, policy
from backend.web import pages

COMPONENTS = DOCUMENT["components"]


def inside(part: object) -> Iterator[dict[str, Any]]:
    """Return every object of a JSON document."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from inside(inner)


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the target of a `$ref`, or the schema itself."""
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    target: dict[str, Any] = COMPONENTS["schemas"][name] if name else schema
    return target


# The document


@any_database
def test_the_document_is_openapi_3_1_and_describes_every_route_and_no_other(service: Service) -> None:
    response = service.http.get("/openapi.json")
    assert (response.status_code, response.mimetype, response.json) == (200, "application/json", DOCUMENT)
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert DOCUMENT["servers"] == [{"url": "/"}]
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in service.app.url_map.iter_rules()
        if rule.rule.startswith("/v1/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == OPERATIONS.keys()


def test_every_reference_has_a_target_and_every_schema_is_used() -> None:
    used = {part["$ref"] for part in inside(DOCUMENT) if "$ref" in part}
    referred = ("schemas", "headers", "examples")
    # Every path can lead to a method that it does not take.
    unused = {"#/components/examples/method-not-allowed"}
    assert used | unused == {f"#/components/{kind}/{name}" for kind in referred for name in COMPONENTS[kind]}


def test_every_operation_has_a_name_of_its_own_a_tag_and_a_summary() -> None:
    names = {described["operationId"] for described in OPERATIONS.values()}
    assert len(names) == len(OPERATIONS)
    assert all(described["summary"] and described["tags"] for described in OPERATIONS.values())


def test_every_operation_describes_its_success_its_problems_and_their_codes() -> None:
    for (_, path), described in OPERATIONS.items():
        statuses = {int(status) for status in described["responses"]}
        assert len([status for status in statuses if status < 300]) == 1
        assert statuses >= {500, 503}
        assert ("requestBody" in described) == ({400, 413, 415, 422, 429} <= statuses)
        assert 401 in statuses or "security" not in described
        in_path = [entry["name"] for entry in described.get("parameters", []) if entry["in"] == "path"]
        assert re.findall(r"{(\w+)}", path) == in_path
        for status, response in described["responses"].items():
            if int(status) >= 400:
                schema = response["content"][PROBLEM]["schema"]
                assert schema.keys() == {"$ref"}
                problem, narrowed = resolve(schema)["allOf"]
                assert problem == {"$ref": "#/components/schemas/Problem"}
                codes = narrowed["properties"]["code"]["enum"]
                assert codes == sorted(re.findall(r"`([a-z-]+)`", response["description"]))
                assert {problems()[code].status for code in codes} == {int(status)}


def test_every_body_refuses_unknown_fields_and_requires_those_without_a_default() -> None:
    bodies = [(method, d["requestBody"]) for (method, _), d in OPERATIONS.items() if "requestBody" in d]
    assert bodies
    for method, described in bodies:
        body = resolve(described["content"]["application/json"]["schema"])
        assert body["additionalProperties"] is False
        null = {"type": "null"}
        optional = {
            name for name, field in body["properties"].items() if "default" in field or null in field.get("anyOf", [])
        }
        # In a PATCH, an absent field means unchanged.
        required = set() if method == "PATCH" else body["properties"].keys() - optional
        assert set(body.get("required", [])) == required


def test_no_patch_declares_a_default() -> None:
    bodies = [described["requestBody"] for (method, _), described in OPERATIONS.items() if method == "PATCH"]
    assert bodies
    for body in bodies:
        schema = resolve(body["content"]["application/json"]["schema"])
        assert not any("default" in part for part in inside(schema))


# What to compare in the response of an operation with a default.
COMPARED: dict[str, Callable[[dict[str, Any]], object]] = {
    "/v1/registrations/confirm": lambda response: response["account"]["policy"],
    "/v1/account/close": lambda response: moment(response["erase_after"]) - moment(response["closed_at"]),
}


def test_an_absent_field_means_its_declared_default(service: Service) -> None:
    declared: dict[str, dict[str, object]] = {}
    for (method, path), described in OPERATIONS.items():
        if "requestBody" in described and method != "PATCH":
            schema = resolve(described["requestBody"]["content"]["application/json"]["schema"])
            optional = schema["properties"].keys() - set(schema["required"])
            # A field that may be null and has no default is null.
            if defaults := {name: schema["properties"][name].get("default") for name in optional}:
                declared[path] = defaults
    assert declared.keys() - COMPARED.keys() == set()
    somebody = Somebody(service)
    for path, defaults in declared.items():
        responses = []
        for fields in ({}, defaults):
            body: dict[str, object] = {"password": PASSWORD, **fields}
            if path in PURPOSES:
                body["token"] = somebody.token(PURPOSES[path])
            response = service.http.post(path, json=body, headers=somebody.headers)
            responses.append(COMPARED[path](response.json))
            somebody.renew()
        assert responses[0] == responses[1]


# Responses


@pytest.fixture
def seen(service: Service) -> set[tuple[str, str, int]]:
    """Collect the operations and statuses of every response. The service checks each against the document."""
    found: set[tuple[str, str, int]] = set()

    class NotingClient(FlaskClient):
        def open(self, *args: Any, **options: Any) -> TestResponse:
            response = super().open(*args, **options)
            found.add((*operation_of(response.request.method, response.request.path), response.status_code))
            return response

    service.app.test_client_class = NotingClient
    return found


def test_every_response_of_a_journey_is_as_the_document_says(service: Service, seen: set[tuple[str, str, int]]) -> None:
    http, ada = service.http, service.register()
    service.confirm(service.ask_to_register(email="eve@example.org"))
    session = service.sign_in().json["session"]
    http.get("/v1/account", headers=ada.headers)
    http.patch("/v1/account", json={"name": None}, headers=ada.headers)
    http.delete("/v1/account/name", headers=ada.headers)
    http.get("/v1/sessions", headers=ada.headers)
    body = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
    http.delete(f"/v1/sessions/{session['id']}", headers=ada.headers)
    http.put("/v1/account/password", json=body, headers=ada.headers)
    service.deliver()
    service.reset(service.ask_for_reset(), PASSWORD)
    for path in ("/v1/sessions/current", "/v1/sessions"):
        http.delete(path, headers=bearer(service.sign_in().json["session"]["token"]))
    http.post("/v1/feedback", json={"message": "Thank you."}, headers={"Idempotency-Key": "k-1"})
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=clock.now().date(), text="We store little.")
    http.get("/v1/policy")
    _change_the_address_and_leave(service, "ada@example.org", PASSWORD)
    successes = {
        (method, path, int(status))
        for (method, path), described in OPERATIONS.items()
        for status in described["responses"]
        if int(status) < 300
    }
    assert {answer for answer in seen if answer[2] < 300} == successes


def _change_the_address_and_leave(service: Service, email: str, password: str) -> None:
    """Change the address and back, take a copy, close, open again, and have everything erased."""
    http, body = service.http, {"email": "countess@example.org", "password": password}
    service.deliver()
    headers = bearer(service.sign_in(email, password).json["session"]["token"])
    http.post("/v1/account/email-changes", json=body, headers=headers)
    http.post("/v1/email-changes/confirm", json={"token": token_of(service.mail())})
    http.get("/v1/account/export", headers=headers)
    http.post("/v1/email-changes/undo", json={"token": token_of(service.mail())})
    service.reset(token_of(the_mail(service.deliver(), email, RESET)), password)
    service.deliver()
    headers = bearer(service.sign_in(email, password).json["session"]["token"])
    http.post("/v1/account/close", json={"password": password, "erase": True}, headers=headers)
    http.post("/v1/erasure-requests/cancel", json={"token": token_of(service.mail())})
    service.deliver()
    http.post("/v1/erasure-requests", json={"email": email})
    http.post("/v1/erasure-requests/confirm", json={"token": token_of(service.mail())})
    service.deliver()
    with service.app.app_context():
        desk.erase(email, at_once=True)
        erasure.erase_due()
    receipt = receipt_of(service.deliver()[-1])
    http.post("/v1/erasure-receipts/verify", json={"receipt": receipt})


@any_database
def test_every_problem_is_as_the_document_says(service: Service, seen: set[tuple[str, str, int]]) -> None:
    ada = service.register()
    for method, path in OPERATIONS:
        for options in ({}, {"data": "{"}, {"json": {}}, {"json": {WORD: WORD}}, {"json": {"email": "x" * 20_000}}):
            for headers in ({}, ada.headers):
                if method != "DELETE":
                    service.http.open(path.replace("{id}", NOBODY), method=method, headers=headers, **options)
    service.http.delete(f"/v1/sessions/{NOBODY}", headers=ada.headers)
    service.http.delete(f"/v1/sessions/{NOBODY}")
    service.sign_in(password=OTHER_PASSWORD)
    service.confirm(ada.token)
    service.confirm(service.ask_to_register(email="eve@example.org"), "short")
    body = {"current_password": OTHER_PASSWORD, "new_password": OTHER_PASSWORD}
    service.http.put("/v1/account/password", json=body, headers=ada.headers)
    assert {status for _, _, status in seen if status >= 400} == {400, 401, 403, 404, 413, 415, 422}


# The page


@any_database
def test_the_docs_show_every_operation_with_its_members_and_codes(http: FlaskClient) -> None:
    page = http.get("/docs").text
    for described in OPERATIONS.values():
        assert f'id="{described["operationId"]}"' in page
        assert described["summary"].rstrip(".") in page.replace("&#39;", "'")
    schemas = {name: schema for name, schema in COMPONENTS["schemas"].items() if name not in {"Problem", "FieldError"}}
    assert all(f"{member}</code>" in page for schema in schemas.values() for member in schema.get("properties", {}))
    codes = re.findall(r"`([a-z-]+)`: ", str(DOCUMENT["paths"]))
    assert all(f'href="/problems/{code}"' in page for code in codes)


@any_database
def test_the_docs_are_rendered_once(http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered, render = [], pages.render_template
    monkeypatch.setattr(
        pages, "render_template", lambda name, **context: rendered.append(name) or render(name, **context)
    )
    assert http.get("/docs").text == http.get("/docs").text
    assert rendered == ["docs.html"]
