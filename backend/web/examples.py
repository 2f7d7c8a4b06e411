"""Examples of requests and responses for the OpenAPI document, about a person who does not exist."""

from typing import Any

from backend.errors import InvalidRequest, Problem, WeakPassword, problems

ID, VERSION, MOMENT = "5f0c0b9e-3c1d-4e43-9a53-6d2f8b7e1a90", "2026-01", "2026-11-30T07:38:00Z"
PASSWORD, NEW_PASSWORD = "quiet lemon gravel piano", "seven wooden boats drift"
WEAK = "It is shorter than 15 characters: use a few words that do not belong together."
URL = "https://accounts.example.org"

EXAMPLES: dict[str, Any] = {
    "name": "Ada Lovelace",
    "remove_name.name": None,
    "email": "ada@example.org",
    "EmailChangeRequest.email": "countess@example.org",
    "password": PASSWORD,
    "current_password": PASSWORD,
    "new_password": NEW_PASSWORD,
    "PasswordResetConfirmation.password": NEW_PASSWORD,
    "token": "CODE-FROM-THE-EMAIL",
    "receipt": "RECEIPT-FROM-THE-EMAIL",
    "message": "More tiles, please.",
    "AccountUpdate": {"name": "Ada King", "email_updates": False},
    "change_account.name": "Ada King",
    "change_account.email_updates": False,
    "AccountClosureRequest": {"password": PASSWORD, "erase": True},
    "link_valid_for_seconds": 86_400,
    "request_email_change.link_valid_for_seconds": 3_600,
    "email_updates": True,
    "created_at": MOMENT,
    "accepted": VERSION,
    "current": VERSION,
    "NewSession.token": "tiles_" + "example-" * 5 + "key",
    "id": ID,
    "last_used_on": "2026-11-30",
    "expires_at": "2026-12-31T00:00:00Z",
    "SessionEntry.current": True,
    "closed_at": MOMENT,
    "erase_after": "2026-12-14T07:38:00Z",
    "ErasureReceipt.account": ID,
    "requested_at": MOMENT,
    "erased_at": "2026-12-14T07:38:20Z",
    "store": "accounts",
    "KeptRows.store": "audit",
    "rows": 1,
    "basis": "GDPR Art. 5(2)",
    "received_at": MOMENT,
    "version": VERSION,
    "effective_on": "2026-01-01",
    "sha256": "0123456789abcdef" * 4,
    "url": f"{URL}/privacy",
    "exported_at": MOMENT,
    "table": "accounts",
    "purpose": "Each person with an account",
    "columns": {"email": "For signing in and for resetting the password (as long as the account)"},
    "ExportedTable.rows": [{"email": "ada@example.org"}],
    "request_id": "0123456789abcdef" * 2,
}
"""By field, more precisely `Schema.field` or `operation.field`, or by schema for one with optional fields."""

ERRORS = {
    InvalidRequest.code: [{"pointer": "/email", "detail": "write an email address, such as ada@example.org"}],
    WeakPassword.code: [{"pointer": "/password", "detail": WEAK}],
}


def add_to(document: dict[str, Any]) -> None:
    """Add examples to every request body and response of an OpenAPI document."""
    components = document["components"]
    components["examples"] = {code: {"value": _problem(kind)} for code, kind in problems().items()}
    for operation in (operation for item in document["paths"].values() for operation in item.values()):
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in part.get("content", {}).values():
                _add_example(content, operation["operationId"], components["schemas"])


def _add_example(content: dict[str, Any], operation: str, schemas: dict[str, Any]) -> None:
    schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
    if "allOf" in schema:
        codes = schema["allOf"][1]["properties"]["code"]["enum"]
        content["examples"] = {code: {"$ref": f"#/components/examples/{code}"} for code in codes}
    else:
        content["example"] = _example(content["schema"], operation, schemas)


def _example(schema: dict[str, Any], operation: str, schemas: dict[str, Any]) -> object:
    """Return an example of a schema, of its required fields where none is declared for it as a whole."""
    if schema.get("type") == "array":
        return [_example(schema["items"], operation, schemas)]
    name = schema["$ref"].rpartition("/")[2]
    if name in EXAMPLES:
        return EXAMPLES[name]
    example = {}
    for field in schemas[name]["required"]:
        declared = [EXAMPLES[key] for key in (f"{operation}.{field}", f"{name}.{field}", field) if key in EXAMPLES]
        inner = schemas[name]["properties"][field]
        example[field] = declared[0] if declared else _example(inner, operation, schemas)
    return example


def _problem(kind: type[Problem]) -> dict[str, object]:
    return {
        "type": f"{URL}/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.explanation,
        "code": kind.code,
        "request_id": EXAMPLES["request_id"],
        "errors": ERRORS.get(kind.code, []),
    }
