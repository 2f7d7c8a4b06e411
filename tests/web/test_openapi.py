"""The OpenAPI document: it describes every route, and every response of a test is checked against it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from caller import PURPOSES, Caller
from contract import DOCUMENT, OPERATIONS, PROBLEM
from journeys import moment
from jsonschema_rs import ValidationError
from support import PASSWORD, Service, any_database

from backend.errors import problems
from tiles_client import Client

COMPONENTS = DOCUMENT["components"]
ID = {"X-Request-Id": "0" * 32}


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
    assert len({described["operationId"] for described in OPERATIONS.values()}) == len(OPERATIONS)
    assert all(described["summary"] and described["tags"] for described in OPERATIONS.values())


def test_every_reference_has_a_target_and_every_schema_is_used() -> None:
    used = {part["$ref"] for part in inside(DOCUMENT) if "$ref" in part}
    referred = ("schemas", "headers", "examples")
    # Every path can lead to a method that it does not take.
    unused = {"#/components/examples/method-not-allowed"}
    assert used | unused == {f"#/components/{kind}/{name}" for kind in referred for name in COMPONENTS[kind]}


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
        assert method != "PATCH" or not any("default" in part for part in inside(body))
        required = set() if method == "PATCH" else body["properties"].keys() - optional
        assert set(body.get("required", [])) == required


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
    caller = Caller(service)
    for path, defaults in declared.items():
        responses = []
        for fields in ({}, defaults):
            body: dict[str, object] = {"password": PASSWORD, **fields}
            if path in PURPOSES:
                body["token"] = caller.token(PURPOSES[path])
            response = service.http.post(path, json=body, headers=caller.headers)
            responses.append(COMPARED[path](response.json))
            caller.renew()
        assert responses[0] == responses[1]


# Responses


@any_database
def test_a_response_with_an_undocumented_field_fails_its_test(service: Service) -> None:
    described = OPERATIONS["GET", "/v1/policy"]["responses"]["200"]["content"]["application/json"]["example"]
    service.app.view_functions["api.show_policy"] = lambda: described
    assert service.http.get("/v1/policy").json == described
    service.app.view_functions["api.show_policy"] = lambda: {**described, "phone": None}
    with pytest.raises(ValidationError):
        service.http.get("/v1/policy")
    responses = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=ID, json={**described, "phone": None}))
    with pytest.raises(ValidationError), Client(base_url="http://127.0.0.1", transport=responses) as tiles:
        tiles.policy()
