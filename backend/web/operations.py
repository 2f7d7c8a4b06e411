"""Operations of the JSON API: what each takes and answers, and the OpenAPI 3.1 document drawn from that.

The Flask libraries that write such a document also read the bodies, and read broken JSON as an empty object;
none describes problem documents. So the declarations are ours, and the schemas are pydantic's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Literal, TypedDict, Unpack

from flask import Blueprint, Response
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from backend.errors import (
    InternalError,
    InvalidRequest,
    MalformedJson,
    Overloaded,
    PayloadTooLarge,
    Problem,
    Unauthenticated,
    UnsupportedMediaType,
)
from backend.web import problems as web
from backend.web.bodies import Body, read_json, refuse_body

HEADER_LENGTH = 255
Answered = BaseModel | bytes | None
Access = Literal["none", "optional", "required"]
Runs = Literal["loop", "thread", "hashing"]
"""Where the server runs an operation: in the event loop (it waits for nothing, and what it writes goes through the
outbox), in a thread, or in one of the threads that wait for a password hash."""
SCHEMAS = "#/components/schemas/"
DESCRIPTION = (
    "JSON in, JSON out, in UTF-8. Times are RFC 3339 in UTC. A session is sent as `Authorization: Bearer TOKEN`. "
    "A member that is not named here is refused, and every refusal is a problem document (RFC 9457): decide by its "
    "`code`."
)
OF_A_BODY = (MalformedJson, PayloadTooLarge, UnsupportedMediaType, InvalidRequest)
OF_NO_BODY = (InvalidRequest,)
OF_ALL = (InternalError, Overloaded)


class FieldErrorDocument(BaseModel):
    """One field that broke its rule."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) into the request's body")
    detail: str


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457). It never repeats what was sent."""

    type: str = Field(description="URL of a page that explains the problem")
    title: str
    status: int
    detail: str
    code: str = Field(description="stable; decide by this one")
    errors: list[FieldErrorDocument] = Field(default=[], description="what is wrong with which field")


class Details(TypedDict, total=False):
    """What an operation may take and answer beyond the least."""

    status: HTTPStatus
    body: type[Body]
    answer: type[BaseModel]
    media_type: str
    session: Access
    headers: tuple[str, ...]
    problems: tuple[type[Problem], ...]
    runs: Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path: its words, its types and its refusals."""

    method: str
    path: str
    tag: str
    name: str
    summary: str
    description: str
    status: HTTPStatus = HTTPStatus.OK
    body: type[Body] | None = None
    answer: type[BaseModel] | None = None
    media_type: str | None = None
    session: Access = "none"
    headers: tuple[str, ...] = ()
    problems: tuple[type[Problem], ...] = ()
    runs: Runs = "thread"

    @property
    def refusals(self) -> tuple[type[Problem], ...]:
        """Every problem that it may answer with."""
        of_session = () if self.session == "none" else (Unauthenticated,)
        return (*of_session, *(OF_A_BODY if self.body else OF_NO_BODY), *self.problems, *OF_ALL)


@dataclass
class Operations:
    """A door's operations, in the order in which they are declared."""

    blueprint: Blueprint
    declared: list[Operation] = field(default_factory=list)

    def add(
        self, method: str, path: str, *, tag: str, **details: Unpack[Details]
    ) -> Callable[[Callable[..., Answered]], Callable[..., Response]]:
        """Declare an operation: its function is given `viewer` and `body` where it has them, and returns the answer."""

        def declare(function: Callable[..., Answered]) -> Callable[..., Response]:
            summary, _, text = (function.__doc__ or "").partition("\n")
            words = {"name": function.__name__, "summary": summary, "description": " ".join(text.split())}
            operation = Operation(method=method, path=path, tag=tag, **words, **details)
            self.declared.append(operation)
            view = _view(operation, function)
            self.blueprint.add_url_rule(path, view_func=view, methods=[method])
            return view

        return declare

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of these operations, made once."""
        paths: dict[str, Any] = {}
        for operation in self.declared:
            path = operation.path.replace("<uuid:", "{").replace(">", "}")
            paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
        return {
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
                "schemas": _schemas(self.declared),
                "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
            },
        }


def _view(operation: Operation, function: Callable[..., Answered]) -> Callable[..., Response]:
    @wraps(function)
    def view(**arguments: Any) -> Response:
        if operation.body:
            web.charge_request()
        if operation.session != "none":
            arguments["viewer"] = web.viewer() if operation.session == "required" else web.viewer_if_any()
        if operation.body:
            arguments["body"] = read_json(operation.body)
        else:
            refuse_body()
        found = function(**arguments)
        if isinstance(found, bytes):
            return Response(found, operation.status, content_type=operation.media_type)
        return _answer(found, operation.status)

    return view


def _answer(found: BaseModel | None, status: HTTPStatus) -> Response:
    if found is not None:
        return Response(found.model_dump_json(), status, content_type="application/json")
    response = Response(status=status)
    del response.headers["Content-Type"]
    return response


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {str(operation.status.value): _success(operation)} | _refusals(operation.refusals),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.session != "none":
        described["security"] = [{"session": []}, *([{}] if operation.session == "optional" else [])]
    if operation.body:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "header", "schema": {"type": "string", "maxLength": HEADER_LENGTH, "pattern": "^[ -~]+$"}}
        for name in operation.headers
    ]
    if "<uuid:" in operation.path:
        name = operation.path.partition("<uuid:")[2].partition(">")[0]
        schema = {"type": "string", "format": "uuid"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if parameters:
        described["parameters"] = parameters
    return described


def _content(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": SCHEMAS + model.__name__}}}


def _success(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"description": operation.status.phrase}
    if operation.answer:
        described["content"] = _content(operation.answer)
    if operation.media_type:
        described["content"] = {operation.media_type.partition(";")[0]: {"schema": {"type": "string"}}}
    return described


def _refusals(problems: Iterable[type[Problem]]) -> dict[str, Any]:
    by_status: dict[int, list[type[Problem]]] = {}
    for problem in problems:
        by_status.setdefault(problem.status, []).append(problem)
    return {
        str(status): {
            "description": "; ".join(f"`{problem.code}`: {problem.title}" for problem in found),
            "content": _content(ProblemDocument, web.PROBLEM_TYPE),
        }
        for status, found in sorted(by_status.items())
    }


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    bodies = {operation.body for operation in operations if operation.body}
    answers = {operation.answer for operation in operations if operation.answer} | {ProblemDocument}
    named = lambda model: model.__name__  # noqa: E731
    _, schema = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=named)]
        + [(answer, "serialization") for answer in sorted(answers, key=named)],
        ref_template=SCHEMAS + "{model}",
    )
    found: dict[str, Any] = schema["$defs"]
    return found
