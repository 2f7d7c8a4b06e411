"""Every example of the OpenAPI document works: the requests are accepted, and the responses are like the real ones."""

from typing import Any

import pytest
from caller import Caller
from contract import DOCUMENT, OPERATIONS, PROBLEM, validator
from support import Service, any_database, assert_problem

from backend import clock
from backend.errors import problems
from backend.privacy import policy

every_operation = pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=" ".join)


def content_of(part: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON content of a request's body or of a response; empty if there is none."""
    content: dict[str, Any] = part.get("content", {}).get("application/json", {})
    return content


def test_every_example_of_a_request_is_accepted_and_answered_as_its_example(service: Service) -> None:
    service.run(policy.publish, version="2026-01", effective_on=clock.now().date(), text="We store little.")
    caller = Caller(service)
    for (method, path), described in OPERATIONS.items():
        options: dict[str, Any] = {"headers": caller.headers if "security" in described else None}
        if "requestBody" in described:
            options["json"] = dict(content_of(described["requestBody"])["example"])
            caller.complete(path, options["json"])
        response = service.http.open(path.replace("{id}", str(caller.session.id)), method=method, **options)
        assert response.status_code < 300, response.text
        example = content_of(described["responses"][str(response.status_code)]).get("example")
        # The service's own response is checked against the same schema.
        assert (example is None) == (response.data == b"")
        if path not in {"/v1/account/export", "/v1/erasure-receipts/verify"}:
            assert fields(example) == fields(response.json if response.data else None)
        if "link_valid_for_seconds" in (example or {}):
            assert example == response.json
        caller.renew()


def fields(value: object) -> object:
    """Return the names of a value's fields, nested ones included."""
    if isinstance(value, list):
        return [fields(value[0])]
    return {name: fields(inner) for name, inner in value.items()} if isinstance(value, dict) else None


@every_operation
def test_every_example_is_as_its_schema_says(method: str, path: str) -> None:
    described = OPERATIONS[method, path]
    for parameter in described.get("parameters", []):
        validator(parameter["schema"]).validate(parameter["example"])
    for part in (described.get("requestBody", {}), *described["responses"].values()):
        content = content_of(part)
        if content:
            validator(content["schema"]).validate(content["example"])
    for status, response in described["responses"].items():
        problem = response["content"].get(PROBLEM) if "content" in response else None
        for code, reference in problem["examples"].items() if problem else ():
            example = DOCUMENT["components"]["examples"][code]["value"]
            assert reference == {"$ref": f"#/components/examples/{code}"}
            assert (example["code"], example["status"]) == (code, int(status))
            validator(problem["schema"]).validate(example)


@any_database
def test_the_example_of_a_problem_is_a_real_response(service: Service) -> None:
    for path, code in (("/v1/account", "unauthenticated"), ("/v1/policy", "not-found")):
        document = assert_problem(service.http.get(path), problems()[code].status, code)
        example = DOCUMENT["components"]["examples"][code]["value"]
        assert {**example, "type": None, "request_id": None} == {**document, "type": None, "request_id": None}
