"""The SDK and the OpenAPI document use the same names."""

from dataclasses import fields, is_dataclass

import pytest
from contract import DOCUMENT, OPERATIONS
from simulated_service import CALLS, CONTRACT, arguments_of

from tiles_client import errors, models

SCHEMAS = DOCUMENT["components"]["schemas"]
IN_THE_PATH_OR_A_HEADER = {"id", "key"}
# The classes of results; an export stays a document.
MODELS = [value for value in vars(models).values() if is_dataclass(value)]
BY_NAME = {described["operationId"]: (line, described) for line, described in OPERATIONS.items()}


def operation_of(call: str) -> str:
    """Return the name of a call's operation; a call that only returns something has no verb."""
    return {"account": "show_account", "policy": "show_policy", "sessions": "list_sessions"}.get(call, call)


def test_there_is_a_call_for_each_operation_and_no_other() -> None:
    assert {operation_of(call) for call in CALLS} == BY_NAME.keys()


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_its_operation_with_the_same_arguments(call: str) -> None:
    (method, path), described = BY_NAME[operation_of(call)]
    line = CONTRACT[call]
    assert (method, path.split("{")[0]) == (line.method, line.path[: len(path.split("{")[0])])
    assert str(line.status) in described["responses"]
    assert line.session == ("security" in described)
    schema = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    body = SCHEMAS[schema["$ref"].rpartition("/")[2]]["properties"].keys() if schema else set()
    assert arguments_of(call).keys() - IN_THE_PATH_OR_A_HEADER == body


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_result_has_the_name_and_the_fields_of_its_schema(model: type) -> None:
    assert {field.name for field in fields(model)} == SCHEMAS[model.__name__]["properties"].keys()


def test_each_code_of_the_document_has_its_error() -> None:
    codes = set(SCHEMAS["Problem"]["properties"]["code"]["enum"])
    # An app has no separate case for a bug of the service.
    assert errors.REFUSALS.keys() == codes - {"internal-error"}
    assert {field.name for field in fields(errors.FieldError)} == SCHEMAS["FieldError"]["properties"].keys()
