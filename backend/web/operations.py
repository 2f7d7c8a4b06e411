"""Operations of the JSON API: each is declared once, and the OpenAPI 3.1 document is made from the declarations.

The Flask libraries that make such a document read broken JSON as an empty object, and none describes problem
documents. So the declarations are ours, and the schemas are pydantic's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from importlib.metadata import version
from types import NoneType
from typing import Any, Literal, get_type_hints

from flask import Blueprint, Response, request
from pydantic import TypeAdapter

from backend import errors
from backend.accounts.feedback import KEY_LENGTH
from backend.accounts.sessions import Viewer
from backend.errors import Problem
from backend.web import examples, problems, schemas
from backend.web.bodies import Body, read_json, refuse_body

RETRIED = {errors.TooManyRequests.status, errors.Overloaded.status}
Runs = Literal["loop", "thread", "hashing"]
"""Where the server runs an operation: in the event loop (it never waits, and writes through the outbox), in a thread,
or in one of the threads that wait for a password hash."""
Function = Callable[..., Any]
SCHEMAS = "#/components/schemas/"
DESCRIPTION = (
    "JSON in, JSON out, in UTF-8. Times are RFC 3339 in UTC. A session is sent as `Authorization: Bearer TOKEN`. "
    "A field that is not named here is refused, and every error is a problem document (RFC 9457): decide by its "
    "`code`."
)
HEADERS = {
    "X-Request-Id": {
        "description": "The name of the request in the service's log. It is random: quote it to support.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
    "Retry-After": {
        "description": "How many seconds to wait before the next try.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}
BODY_ERRORS = (
    errors.MalformedJson,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidRequest,
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path.

    The function's docstring describes it, and its signature has its types: `body` and `client` (who sent it), `viewer`
    (optional where None is allowed), `idempotency_key` and the response. `errors` are those that do not follow from the
    signature.
    """

    method: str
    path: str
    tag: str
    function: Function
    status: int = HTTPStatus.OK
    errors: tuple[type[Problem], ...] = ()
    runs: Runs = "thread"
    media_type: str = "application/json"
    documented: bool = True
    """Whether it is for apps. The others are for the operator."""

    @cached_property
    def types(self) -> dict[str, Any]:
        """The types of the function's parameters and, as `return`, of its response."""
        return get_type_hints(self.function)

    @cached_property
    def body(self) -> type[Body] | None:
        """The type of the request's body."""
        return self.types.get("body")

    @cached_property
    def is_charged(self) -> bool:
        """Whether a request counts for the limit of its client: if it has a body, or changes something."""
        return self.body is not None or self.method != "GET"

    @cached_property
    def response(self) -> TypeAdapter[Any] | None:
        """The type of the response; None for one without a body."""
        return None if self.types["return"] is NoneType else TypeAdapter(self.types["return"])

    @cached_property
    def session(self) -> Literal["none", "optional", "required"]:
        """Whether the request has a session."""
        if "viewer" not in self.types:
            return "none"
        return "required" if self.types["viewer"] is Viewer else "optional"

    def view(self, **arguments: Any) -> Response:
        """Respond to a request."""
        if self.is_charged:
            sender = problems.charge_request()
            if "client" in self.types:
                arguments["client"] = sender
        if self.session != "none":
            arguments["viewer"] = problems.viewer() if self.session == "required" else problems.viewer_if_any()
        if self.body:
            arguments["body"] = read_json(self.body)
        else:
            refuse_body()
        if "idempotency_key" in self.types:
            arguments["idempotency_key"] = request.headers.get("Idempotency-Key")
        result = self.function(**arguments)
        if self.response is None:
            response = Response(status=HTTPStatus.NO_CONTENT)
            del response.headers["Content-Type"]
            return response
        content = result if isinstance(result, bytes) else self.response.dump_json(result)
        return Response(content, self.status, content_type=self.media_type)


@dataclass
class Operations:
    """The operations of a blueprint, in the order of their declaration."""

    blueprint: Blueprint
    declared: list[Operation] = field(default_factory=list)

    def add(self, method: str, path: str, **options: Any) -> Callable[[Function], Function]:
        """Declare the decorated function as an operation, with the options of `Operation`."""

        def declare(function: Function) -> Function:
            operation = Operation(method=method, path=path, function=function, **options)
            self.declared.append(operation)
            self.blueprint.add_url_rule(path, function.__name__, operation.view, methods=[method])
            return function

        return declare

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of these operations."""
        paths: dict[str, Any] = {}
        documented = [operation for operation in self.declared if operation.documented]
        for operation in documented:
            path = operation.path.replace("<uuid:", "{").replace(">", "}")
            paths.setdefault(path, {})[operation.method.lower()] = _described(operation)
        document = {
            "openapi": "3.1.0",
            "info": {
                "title": "TILES accounts",
                "version": version("tiles-accounts"),
                "summary": "A name and an email address, and nothing else.",
                "description": DESCRIPTION,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": _schemas(documented),
                "headers": HEADERS,
                "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
            },
        }
        examples.add_to(document)
        return document


def _described(operation: Operation) -> dict[str, Any]:
    summary, _, text = (operation.function.__doc__ or "").partition("\n")
    described: dict[str, Any] = {
        "operationId": operation.function.__name__,
        "tags": [operation.tag],
        "summary": summary,
        "responses": _responses(operation),
    }
    if text.strip():
        described["description"] = " ".join(text.split())
    if operation.session != "none":
        described["security"] = [{"session": []}, *([{}] if operation.session == "optional" else [])]
    if operation.body:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    key = {"type": "string", "maxLength": KEY_LENGTH, "pattern": "^[ -~]+$"}
    id_ = {"type": "string", "format": "uuid"}
    parameters: dict[str, dict[str, Any]] = {
        "idempotency_key": {"name": "Idempotency-Key", "in": "header", "schema": key},
        "id": {"name": "id", "in": "path", "required": True, "schema": id_},
    }
    return [{**parameter, "example": examples.ID} for name, parameter in parameters.items() if name in operation.types]


def _content(model: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": SCHEMAS + model.__name__}}}


def _responses(operation: Operation) -> dict[str, Any]:
    status = HTTPStatus(operation.status if operation.response else HTTPStatus.NO_CONTENT)
    success: dict[str, Any] = {"description": status.phrase, "headers": _headers("X-Request-Id")}
    if operation.response:
        success["content"] = _content(operation.types["return"])
    refusals = {str(status): _refusal(status, kinds) for status, kinds in _problems(operation).items()}
    return {str(status.value): success} | refusals


def _problems(operation: Operation) -> dict[int, list[type[Problem]]]:
    """Return the problems that an operation responds with, by status."""
    of_session = () if operation.session == "none" else (errors.Unauthenticated,)
    of_body = BODY_ERRORS if operation.body else (errors.InvalidRequest,)
    if operation.is_charged:
        of_body = (*of_body, errors.TooManyRequests)
    by_status: dict[int, list[type[Problem]]] = {}
    for kind in (*of_session, *of_body, *operation.errors, errors.InternalError, errors.Overloaded):
        by_status.setdefault(kind.status, []).append(kind)
    return dict(sorted(by_status.items()))


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refusal(status: int, kinds: list[type[Problem]]) -> dict[str, Any]:
    return {
        "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in kinds),
        "headers": _headers("X-Request-Id", *(["Retry-After"] if status in RETRIED else [])),
        "content": {problems.PROBLEM_TYPE: {"schema": {"$ref": SCHEMAS + _problem_name(kinds)}}},
    }


def _problem_name(kinds: list[type[Problem]]) -> str:
    return "Or".join(sorted(kind.__name__ for kind in kinds)) + "Problem"


def _problem_with(kinds: list[type[Problem]]) -> dict[str, Any]:
    """Return the schema of a problem document with one of these codes."""
    code = {"type": "string", "enum": sorted(kind.code for kind in kinds)}
    narrowed = {"type": "object", "properties": {"code": code}}
    return {"allOf": [{"$ref": SCHEMAS + schemas.Problem.__name__}, narrowed]}


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    inputs = [operation.types["body"] for operation in operations if operation.body]
    outputs = [type_ for type_ in (operation.types["return"] for operation in operations) if type_ is not NoneType]
    types: list[tuple[type, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        *((type_, "validation", TypeAdapter(type_)) for type_ in inputs),
        *((type_, "serialization", TypeAdapter(type_)) for type_ in (*outputs, schemas.Problem)),
    ]
    _, schema = TypeAdapter.json_schemas(types, ref_template=SCHEMAS + "{model}")
    definitions: dict[str, Any] = schema["$defs"]
    # A generator makes a type of every schema without a name: there would be nearly 200.
    refused = [kinds for operation in operations for kinds in _problems(operation).values()]
    return definitions | {_problem_name(kinds): _problem_with(kinds) for kinds in refused}
