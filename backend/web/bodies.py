"""What a request's body says, or what is wrong with it."""

import json
from typing import NamedTuple, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from backend.errors import FieldError, InvalidRequest, MalformedJson, PayloadTooLarge, UnsupportedMediaType

BODY_BYTES = 16 * 1024
ARRIVED = "tiles.arrived"
"""In a request's WSGI environment: the `Arrived` that the HTTP server read."""


class Arrived(NamedTuple):
    """A request's body as far as it arrived in time."""

    body: bytes
    complete: bool


B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A request's JSON object: members that it does not name are refused, and no type is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def refuse_body() -> None:
    """Refuse what an operation would not read.

    Raises:
        InvalidRequest: the request has a body.
    """
    if request.environ.get("CONTENT_LENGTH", "0") not in {"", "0"} or "HTTP_TRANSFER_ENCODING" in request.environ:
        raise InvalidRequest("This operation takes no body.")


def read_json(model: type[B]) -> B:
    """Return the request's body as the model.

    Raises:
        UnsupportedMediaType, PayloadTooLarge, MalformedJson, InvalidRequest: it cannot be.
    """
    environ = request.environ
    # As almost everybody writes it, it needs no parsing.
    is_json = environ.get("CONTENT_TYPE") == "application/json" or request.mimetype == "application/json"
    if not is_json or environ.get("HTTP_CONTENT_ENCODING"):
        raise UnsupportedMediaType
    body = read_body()
    try:
        # Its cache of strings would be shared by all senders.
        content = from_json(body, allow_inf_nan=False, cache_strings=False)
        # It takes the last of two members with one name: whoever reads the first one disagrees (RFC 7493 section 2.3).
        if isinstance(content, dict) and _MEMBERS.decode(body.decode()) > len(content):
            raise ValueError  # noqa: TRY301 - as for all that is no JSON
    except ValueError:
        raise MalformedJson from None
    if isinstance(content, dict):
        # One unknown member is refused as thousands are; an error for each takes longer than to read them.
        unknown = (name for name in content if name not in model.model_fields)
        names = {*model.model_fields, next(unknown, "")}
        content = {name: content[name] for name in names & content.keys()}
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidRequest(errors=_field_errors(error)) from None


def read_body() -> bytes:
    """Return the request's body, whole.

    Raises:
        PayloadTooLarge, MalformedJson: it is too large, or shorter than announced.
    """
    arrived: Arrived | None = request.environ.get(ARRIVED)
    if arrived is None:
        # The framework stops reading one byte past the limit, so that nothing is cut off unseen.
        body = request.get_data(parse_form_data=False)
        arrived = Arrived(body, complete=len(body) >= (request.content_length or 0))
    if len(arrived.body) > BODY_BYTES:
        raise PayloadTooLarge
    if not arrived.complete:
        raise MalformedJson("The body did not arrive, or not all of it.")
    return arrived.body


# Returns how many members an object has, repeated ones included. Made once: the module's own function makes a decoder
# for each body, which takes as long as to read most.
_MEMBERS = json.JSONDecoder(object_pairs_hook=len)


def _field_errors(error: ValidationError) -> list[FieldError]:
    """Return what is wrong with each field, without repeating what was sent."""
    found = (
        FieldError(_pointer(entry["type"], entry["loc"]), _wording(entry["type"], entry["msg"]))
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    )
    return list(dict.fromkeys(found))


def _pointer(kind: str, location: tuple[int | str, ...]) -> str:
    # An unknown member's name is the sender's own text: point at the object that holds it.
    known = location[:-1] if kind == "extra_forbidden" else location
    return "".join(f"/{part}" for part in known)


def _wording(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "holds a member that is not part of the contract"
    return message.removeprefix("Value error, ")
