"""Request bodies: read within their limit, parsed and validated."""

import json
from typing import NamedTuple, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from backend.errors import FieldError, InvalidRequest, MalformedJson, PayloadTooLarge, UnsupportedMediaType

BODY_BYTES = 16 * 1024
# 4,000 characters outside the BMP, written as JSON escapes of 12 bytes each.
FEEDBACK_BODY_BYTES = 64 * 1024
# Only a signed-in data manager may send so much: the server checks the session before it reads (serving/front.py).
LARGEST_BODY_BYTES = 256 * 1024
MOST_BYTES = {
    "/v1/feedback": FEEDBACK_BODY_BYTES,
    "/desk/announcements/new": FEEDBACK_BODY_BYTES,
    "/desk/policies/new": LARGEST_BODY_BYTES,
}
MEDIA_TYPE = "application/json"
ARRIVED = "tiles.arrived"
"""The key of a request's WSGI environment that holds the `Arrived` of the HTTP server."""


class Arrived(NamedTuple):
    """A request's body, or as much of it as arrived in time, and how many bytes it may have."""

    body: bytes
    most: int
    complete: bool = True


NO_BODY = Arrived(b"", 0)

B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A request's JSON object. Unknown fields are refused, and no type is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def most_bytes(path: str) -> int:
    """Return how many bytes a body for a path may have. The server reads the body before there is a route."""
    is_reply = path.startswith("/desk/feedback/") and path.endswith("/reply")
    return FEEDBACK_BODY_BYTES if is_reply else MOST_BYTES.get(path, BODY_BYTES)


def refuse_body() -> None:
    """Check that a request has no body.

    Raises:
        InvalidRequest: it has one.
    """
    environ = request.environ
    if environ.get("CONTENT_LENGTH", "0") not in {"", "0"} or "HTTP_TRANSFER_ENCODING" in environ:
        raise InvalidRequest("This operation takes no body.")


def read_json(model: type[B]) -> B:
    """Return the request's body as the model.

    Raises:
        UnsupportedMediaType, PayloadTooLarge, MalformedJson, InvalidRequest: it is not one.
    """
    environ = request.environ
    # The usual type needs no parsing.
    is_json = environ.get("CONTENT_TYPE") == MEDIA_TYPE or request.mimetype == MEDIA_TYPE
    if not is_json or environ.get("HTTP_CONTENT_ENCODING"):
        raise UnsupportedMediaType
    content = _parse(read_body())
    if isinstance(content, dict):
        # Report one unknown field: an error for each of thousands takes longer than reading them.
        unknown = next((name for name in content if name not in model.model_fields), "")
        content = {name: content[name] for name in {*model.model_fields, unknown} & content.keys()}
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidRequest(errors=_field_errors(error)) from None


def read_body() -> bytes:
    """Return the request's whole body.

    Raises:
        PayloadTooLarge, MalformedJson: it is too large, or shorter than its announced length.
    """
    arrived: Arrived | None = request.environ.get(ARRIVED)
    if arrived is None:
        body = request.get_data(parse_form_data=False)
        complete = len(body) >= (request.content_length or 0)
        arrived = Arrived(body, most_bytes(request.path), complete)
    if len(arrived.body) > arrived.most:
        raise PayloadTooLarge
    if not arrived.complete:
        raise MalformedJson("The body did not arrive completely.")
    return arrived.body


# Returns the number of an object's fields, repeated ones included.
_COUNTING = json.JSONDecoder(object_pairs_hook=len)


def _parse(body: bytes) -> object:
    """Parse JSON twice: pydantic's parser takes a repeated name (RFC 7493, section 2.3), Python's a lone surrogate."""
    try:
        # Its cache of strings would be shared by all clients, who could measure it.
        content = from_json(body, allow_inf_nan=False, cache_strings=False)
        if isinstance(content, dict) and _COUNTING.decode(body.decode()) > len(content):
            raise MalformedJson
    except ValueError:
        raise MalformedJson from None
    return content


RULES = {
    "missing": "is missing",
    "extra_forbidden": "contains a field that is not part of the contract",
    "model_type": "send one JSON object",
    "string_type": "write a string",
    "string_too_short": "write at least one character",
    "string_pattern_mismatch": "write the name of a version, such as 2026-01",
    "bool_type": "write true or false",
}
"""What is said of a field for each type of pydantic's errors; a value_error brings its own words."""


def _field_errors(error: ValidationError) -> list[FieldError]:
    """Return an error for each invalid field, without repeating any part of the request."""
    errors = []
    for entry in error.errors(include_url=False, include_context=False, include_input=False):
        location, message = entry["loc"], RULES.get(entry["type"], "is not as the contract says")
        if entry["type"] == "extra_forbidden":
            # An unknown field's name is the client's own text, so point at the object that contains it.
            location = location[:-1]
        if entry["type"] == "value_error":
            message = entry["msg"].removeprefix("Value error, ")
        errors.append(FieldError("".join(f"/{part}" for part in location), message))
    return list(dict.fromkeys(errors))
