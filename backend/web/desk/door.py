"""Access to the desk: its cookie, its sessions, and the checks of every form."""

import hmac
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue

from backend import clock
from backend.accounts import audit
from backend.config import settings
from backend.database.paging import Key
from backend.desk import managers
from backend.desk.managers import Visitor
from backend.errors import Impossible, InvalidRequest, Problem, Unknown
from backend.web import forms

SIGN_IN = "/desk/sign-in"

door = Blueprint("desk", __name__, url_prefix="/desk")


def _is_https() -> bool:
    return settings().public_url.startswith("https://")


def _cookie() -> str:
    # A browser takes the prefix only over HTTPS (RFC 6265bis, section 4.1.3.1).
    return "__Secure-tiles_desk" if _is_https() else "tiles_desk"


def remember(response: Response, session_token: str) -> None:
    """Set the session's cookie, or delete it with an empty token."""
    age = int(managers.LONGEST.total_seconds()) if session_token else 0
    response.set_cookie(
        _cookie(), session_token, max_age=age, path="/desk", secure=_is_https(), httponly=True, samesite="Strict"
    )


@door.before_request
def _enter() -> ResponseReturnValue | None:
    """Let in who is signed in, and refuse a form that another site sent."""
    if request.method == "POST":
        _refuse_foreign()
    forms.check()
    g.visitor = visitor = managers.identify(request.cookies.get(_cookie(), ""))
    if str(request.url_rule).startswith(SIGN_IN):
        return None
    if visitor is None:
        return _signed_out()
    if request.method == "POST" and not _proves(visitor):
        raise InvalidRequest("This form belongs to another sign-in. Go back, reload the page, and send it again.")
    g.as_manager = ExitStack()
    g.as_manager.enter_context(audit.acting(visitor.manager.id))
    return None


def _proves(visitor: Visitor) -> bool:
    return hmac.compare_digest(forms.field("form_token").encode(), visitor.form_token.encode())


def _refuse_foreign() -> None:
    """Refuse a form of another site (OWASP, Cross-Site Request Forgery Prevention: Fetch Metadata, then Origin)."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = site == "same-origin" if site else origin in {None, settings().public_url}
    if not own:
        raise InvalidRequest("Open the desk itself over https://, in a current browser, and send the form from there.")


@door.teardown_request
def _leave(_: BaseException | None) -> None:
    if "as_manager" in g:
        g.as_manager.close()


def _signed_out() -> ResponseReturnValue:
    if request.method != "POST":
        return redirect(SIGN_IN, HTTPStatus.SEE_OTHER)
    return make_response(page("signed_out.html"), HTTPStatus.FORBIDDEN)


def visitor() -> Visitor:
    """Return the data manager who sent the request, and the session."""
    signed_in: Visitor = g.visitor
    return signed_in


def after_key() -> Key | None:
    """Return the key after which the page of a list begins; raise Impossible if the address has another text."""
    text = request.args.get("after")
    return Key.parse(text) if text else None


def page(template: str, **context: Any) -> str:
    """Return a page of the desk."""
    defaults = {"visitor": g.visitor, "now": clock.now(), "errors": {}, "problem": None, "failure": None}
    return render_template(f"desk/{template}", **defaults | context)


def refused(template: str, error: Problem | Impossible, **context: Any) -> Response:
    """Return a form again with its errors: a field breaks its rule, or the act cannot be done."""
    if isinstance(error, Problem):
        response = make_response(page(template, problem=error, errors=forms.errors_of(error), **context), error.status)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response
    text = str(error)
    return make_response(page(template, failure=text[:1].upper() + text[1:], **context), HTTPStatus.CONFLICT)


@door.errorhandler(Impossible)
def _impossible(error: Impossible) -> Response:
    response = refused("impossible.html", error)
    if isinstance(error, Unknown):
        response.status_code = HTTPStatus.NOT_FOUND
    return response


def sign_in_again() -> Response:
    """Ask for a sign-in of the last ten minutes, before something that cannot be undone (ASVS 5.0, 7.5)."""
    return make_response(page("again.html"), HTTPStatus.FORBIDDEN)


def redirect_to(path: str) -> ResponseReturnValue:
    """Redirect to the page that shows the result of a form."""
    return redirect(path, HTTPStatus.SEE_OTHER)
