"""What a page's form sends, and how a refusal comes back: as the same page, beside the field that it is about."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from flask import current_app, g, render_template, request
from flask.typing import ResponseReturnValue

from backend.accounts import fields
from backend.errors import FieldError, InvalidRequest, InvalidToken, Problem
from backend.security.password_rules import clean_password
from backend.web.bodies import read_body

MEDIA_TYPE = "application/x-www-form-urlencoded"
MOST_FIELDS = 8


def _fields() -> dict[str, str]:
    """Return the fields of the form, each by its name; none where the body is no form that our pages send."""
    if "fields" not in g:
        g.fields = _parsed(read_body()) if request.mimetype == MEDIA_TYPE else {}
    fields: dict[str, str] = g.fields
    return fields


def _parsed(body: bytes) -> dict[str, str]:
    # An escape has three characters; to look at broken ones takes five times as long as at the others.
    if 3 * body.count(b"%") > len(body):
        return {}
    try:
        return dict(
            parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
        )
    except ValueError:
        return {}


def field(name: str) -> str:
    """Return what was written into a field."""
    return _fields().get(name, "").strip()


def token() -> str:
    """Return the code from a mail, whole."""
    # Mail programs wrap a long code, and copying it takes the line breaks along.
    return "".join(_fields().get("token", "").split())


def email() -> str:
    """Return the address.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return fields.clean_email(field("email"))
    except ValueError as error:
        raise InvalidRequest(errors=[FieldError("/email", str(error))]) from None


def new_password() -> str:
    """Return the new password; whether it is easy to guess is not looked at here.

    Raises:
        InvalidRequest: it cannot be one.
    """
    try:
        return clean_password(_fields().get("password", ""))
    except ValueError as error:
        raise InvalidRequest(errors=[FieldError("/password", str(error))]) from None


def submit(act: Callable[[], ResponseReturnValue], template: str, **context: Any) -> ResponseReturnValue:
    """Do what a form asks for; on a refusal return the same page with what was written and what to mend."""
    try:
        return act()
    except Problem as problem:
        page = render_template(template, errors=_by_field(problem), **context)
        response = current_app.make_response((page, problem.status))
        if problem.retry_after is not None:
            response.headers["Retry-After"] = str(problem.retry_after)
        return response


def _by_field(problem: Problem) -> dict[str, list[str]]:
    """Sort what is wrong by the form's fields; what concerns no field is under the empty name."""
    found: dict[str, list[str]] = {}
    for entry in problem.errors:
        sentence = entry.detail[:1].upper() + entry.detail[1:]
        found.setdefault(entry.pointer.removeprefix("/"), []).append(sentence)
    # A token that is a part of the address has no field.
    concerned = "token" if isinstance(problem, InvalidToken) and not request.view_args else ""
    return found or {concerned: [f"{problem.title}. {problem.detail}"]}


def message(
    title: str, *paragraphs: str, step: tuple[int, str] | None = None, link: tuple[str, str] | None = None
) -> str:
    """Return a page that says what was done, at which of the four steps that is, and where to go from there."""
    return render_template("message.html", title=title, paragraphs=paragraphs, step=step, link=link)
