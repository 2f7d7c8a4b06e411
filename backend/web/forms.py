"""The forms of the pages: their fields and errors."""

import uuid
from collections.abc import Callable
from datetime import date
from typing import TypeVar
from urllib.parse import parse_qsl

from flask import g, request

from backend import clock
from backend.accounts import fields
from backend.errors import FieldError, InvalidRequest, Problem
from backend.privacy import policy
from backend.security.password_rules import clean_password
from backend.security.tokens import joined
from backend.web.bodies import BODY_BYTES, most_bytes, read_body
from backend.web.problems import charge_request

T = TypeVar("T")

MEDIA_TYPE = "application/x-www-form-urlencoded"
MOST_FIELDS = 8
MOST_DIGITS = 9


def check() -> None:
    """Charge a form, and refuse it from another site: its visitors would each have a limit of their own."""
    if request.method != "POST":
        return
    # A mail provider unsubscribes many people from a few machines (RFC 8058), each with the token of the path.
    if request.endpoint != "links.confirm_unsubscribe":
        charge_request()
        if request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
            raise InvalidRequest("Open this page itself, and send the form from there.")
    read_body()


def field(name: str) -> str:
    """Return a field as it was typed; empty if it is missing."""
    if "fields" not in g:
        g.fields = _fields()
    value: str = g.fields.get(name, "")
    return value


def _fields() -> dict[str, str]:
    if request.mimetype == MEDIA_TYPE:
        return _parse(read_body())
    # At the desk long texts and files arrive in this type, from who is signed in.
    is_long = request.mimetype == "multipart/form-data" and most_bytes(request.path) > BODY_BYTES
    return request.form.to_dict() if is_long else {}


def file(name: str) -> bytes:
    """Return the content of a file that was chosen; empty if none was."""
    upload = request.files.get(name)
    return upload.read() if upload else b""


def _parse(body: bytes) -> dict[str, str]:
    # An escape has three characters. Broken ones take five times as long to read.
    if 3 * body.count(b"%") > len(body):
        return {}
    try:
        return dict(
            parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
        )
    except ValueError:
        return {}


def token() -> str:
    """Return the code from an email."""
    return joined(field("token"))


def email() -> str:
    """Return the email address.

    Raises:
        InvalidRequest: it is not one.
    """
    return cleaned("email", fields.clean_email)


def new_password() -> str:
    """Return the new password, which may still be easy to guess.

    Raises:
        InvalidRequest: it breaks the rule of the field.
    """
    return cleaned("password", clean_password)


def number(name: str) -> int:
    """Return the number in a hidden field; -1 if there is none."""
    text = field(name)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < MOST_DIGITS else -1


def random_id(name: str) -> uuid.UUID:
    """Return the id in a hidden field, or a new one if there is none."""
    try:
        return uuid.UUID(field(name))
    except ValueError:
        return uuid.uuid4()


def day(name: str, text: str | None = None) -> date:
    """Return the day in a field, or in the text of one in the address.

    Raises:
        InvalidRequest: it is not one.
    """
    return cleaned(name, clock.day, (field(name) if text is None else text).strip())


def accepted_policy() -> str | None:
    """Return the version of the policy that the page named."""
    version = field("accepted_policy")
    return version if policy.VERSION.fullmatch(version) else None


def cleaned(name: str, clean: Callable[[str], T], value: str | None = None) -> T:
    """Return a field, or another value, as a rule leaves it.

    Raises:
        InvalidRequest: it breaks the rule.
    """
    try:
        return clean(field(name) if value is None else value)
    except ValueError as error:
        raise InvalidRequest(errors=[FieldError(f"/{name}", str(error))]) from None


def errors_of(problem: Problem) -> dict[str, list[str]]:
    """Return the error texts of each field."""
    by_field: dict[str, list[str]] = {}
    for error in problem.errors:
        text = error.detail[:1].upper() + error.detail[1:]
        by_field.setdefault(error.pointer.removeprefix("/"), []).append(text)
    return by_field
