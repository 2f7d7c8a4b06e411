"""The forms of the pages: their fields, and the page that shows them again with what is wrong."""

from collections.abc import Callable
from functools import wraps
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


def _field(name: str) -> str:
    if "fields" not in g:
        g.fields = _parse(read_body()) if request.mimetype == MEDIA_TYPE else {}
    value: str = g.fields.get(name, "")
    return value


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
    return _field("token")


def email() -> str:
    """Return the email address.

    Raises:
        InvalidRequest: it is not one.
    """
    return _clean("email", fields.clean_email, _field("email"))


def new_password() -> str:
    """Return the new password, which may still be easy to guess.

    Raises:
        InvalidRequest: it breaks the rule of the field.
    """
    return _clean("password", clean_password, _field("password"))


def _clean(name: str, clean: Callable[[str], str], value: str) -> str:
    try:
        return clean(value)
    except ValueError as error:
        raise InvalidRequest(errors=[FieldError(f"/{name}", str(error))]) from None


Submit = Callable[..., ResponseReturnValue]


def shown_again(template: str, step: str = "") -> Callable[[Submit], Submit]:
    """Decorate the function of a form: if it raises a problem, show the form's page with the fields and the errors."""

    def decorate(submit: Submit) -> Submit:
        @wraps(submit)
        def view(**arguments: Any) -> ResponseReturnValue:
            try:
                return submit(**arguments)
            except Problem as problem:
                context = {"token": token(), "email": _field("email"), "step": step}
                page = render_template(template, errors=_by_field(problem), **context)
                response = current_app.make_response((page, problem.status))
                if problem.retry_after is not None:
                    response.headers["Retry-After"] = str(problem.retry_after)
                return response

        return view

    return decorate


def _by_field(problem: Problem) -> dict[str, list[str]]:
    """Return the error texts of each field; those of no field are under the empty name."""
    by_field: dict[str, list[str]] = {}
    for error in problem.errors:
        text = error.detail[:1].upper() + error.detail[1:]
        by_field.setdefault(error.pointer.removeprefix("/"), []).append(text)
    # A token that is a part of the page's address has no field.
    field = "token" if isinstance(problem, InvalidToken) and not request.view_args else ""
    return by_field or {field: [f"{problem.title}. {problem.detail}"]}


def message(
    title: str, *paragraphs: str, step: tuple[int, str] | None = None, link: tuple[str, str] | None = None
) -> str:
    """Return a page that confirms an action; `step` is its number of four and its name, `link` a path and a text."""
    return render_template("message.html", title=title, paragraphs=paragraphs, step=step, link=link)
