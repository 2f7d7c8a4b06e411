"""The pages: what a person sees behind a mailed link, and the few pages that explain the service.

They use no cookie and need no JavaScript. GET shows, POST acts, so a mail scanner can open every link.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request
from flask.typing import ResponseReturnValue

from backend import accounts, clock, passwords, policy, web
from backend.api import operations
from backend.config import settings
from backend.errors import FieldError, InvalidRequest, InvalidToken, NotFound, Problem, problems
from backend.privacy import inventory
from backend.strength import clean_password

# RFC 9116 section 2.5.5 recommends less than a year; this file renews itself.
SECURITY_TXT_LIFETIME = timedelta(days=90)

door = Blueprint("pages", __name__)


@door.app_context_processor
def _everywhere() -> dict[str, Any]:
    given = settings()
    return {
        "support_email": given.support_email,
        "data_manager_email": given.data_manager_email,
        "min_length": given.password_min_length,
    }


def _field(name: str) -> str:
    return request.form.get(name, "").strip()


def _token() -> str:
    # Mail programs wrap a long code, and copying it takes the line breaks along.
    return "".join(request.form.get("token", "").split())


def _new_password() -> str:
    password = request.form.get("password", "")
    try:
        return clean_password(password)
    except ValueError as error:
        raise InvalidRequest(errors=[FieldError("/password", str(error))]) from None


def _email() -> str:
    try:
        return accounts.clean_email(_field("email"))
    except ValueError as error:
        raise InvalidRequest(errors=[FieldError("/email", str(error))]) from None


def _by_field(problem: Problem) -> dict[str, list[str]]:
    """Sort what is wrong by the form's fields; what concerns no field is under the empty name."""
    if isinstance(problem, InvalidToken):
        return {"token": [f"{problem.title}. {problem.remedy}"]}
    found: dict[str, list[str]] = {}
    for entry in problem.errors:
        sentence = entry.detail[:1].upper() + entry.detail[1:]
        found.setdefault(entry.pointer.removeprefix("/"), []).append(sentence)
    return found or {"": [f"{problem.title}. {problem.detail}"]}


def _submit(action: Callable[[], None], template: str, **context: Any) -> Response | None:
    """Do what a form asks for; on a refusal return the same page with what was written and what to mend."""
    try:
        action()
    except Problem as problem:
        page = render_template(template, errors=_by_field(problem), **context)
        response = current_app.make_response((page, problem.status))
        if problem.retry_after is not None:
            response.headers["Retry-After"] = str(problem.retry_after)
        return response
    return None


def _message(title: str, *paragraphs: str) -> str:
    return render_template("message.html", title=title, paragraphs=paragraphs)


@door.before_request
def _read_forms_of_our_own() -> None:
    """Keep a foreign page from having its visitors ask for mails, each under a limit of their own."""
    if request.method != "POST":
        return
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise InvalidRequest("Open this page itself, and send the form from there.")
    web.read_body()


@door.get("/")
def home() -> str:
    """Say what this is."""
    return render_template("home.html")


@door.get("/registration")
def registration() -> str:
    """Show the form behind the link that finishes a registration."""
    return render_template("registration.html", errors={}, token="")


@door.post("/registration")
def confirm_registration() -> ResponseReturnValue:
    """Make the account; the person signs in with the app."""
    token = _token()

    def act() -> None:
        accounts.confirm_registration(token=token, password=_new_password(), client=web.client())

    return _submit(act, "registration.html", token=token) or _message(
        "Your account is ready", "Open the TILES app and sign in with your email address and your new password."
    )


@door.get("/password-reset")
def password_reset() -> str:
    """Show both steps: asking for a mail, and choosing a password with the code from it."""
    return render_template("password_reset.html", errors={}, token="", email="", step="both")


@door.post("/password-reset")
def request_password_reset() -> ResponseReturnValue:
    """Have a reset mailed."""
    email = _field("email")

    def act() -> None:
        passwords.request_reset(email=_email(), client=web.client())

    return _submit(act, "password_reset.html", email=email, token="", step="request") or _message(
        "Look into your mailbox",
        "If there is an account with this address, a mail with a link is on its way. The link works for one hour.",
        "Nothing came? Look into the spam folder, and check that the address is the one you registered with.",
    )


@door.post("/password-reset/confirm")
def confirm_password_reset() -> ResponseReturnValue:
    """Replace the password."""
    token = _token()

    def act() -> None:
        passwords.reset(token=token, password=_new_password(), client=web.client())

    return _submit(act, "password_reset.html", email="", token=token, step="confirm") or _message(
        "Your password is changed",
        "You are signed out everywhere. Open the TILES app and sign in with the new password.",
    )


@door.get("/privacy")
def privacy() -> str:
    """Show what is promised and what is stored."""
    try:
        in_force, unknown = policy.current(), False
    except web.DATABASE_AWAY:
        # What is stored can be said without the store.
        in_force, unknown = None, True
    return render_template("privacy.html", inventory=inventory(), policy=in_force, policy_unknown=unknown)


@door.get("/problems")
@door.get("/problems/")
def all_problems() -> str:
    """List the problem codes."""
    return render_template("problems.html", problems=list(problems().values()))


@door.get("/problems/<code>")
def problem(code: str) -> str:
    """Explain one problem code."""
    try:
        return render_template("problem.html", problem=problems()[code])
    except KeyError:
        raise NotFound from None


@door.get("/docs")
def docs() -> str:
    """Show the API's documentation, drawn from its OpenAPI document."""
    return render_template("docs.html", api=operations.document)


@door.app_template_filter("resolve")
def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a `$ref` of the OpenAPI document refers to, or the schema itself."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = operations.document["components"]["schemas"][name] if name else schema
    return found


@door.get("/password-reset/confirm")
def password_reset_again() -> ResponseReturnValue:
    """Lead whoever reloads the second step, from the address bar, to where both are."""
    return redirect("/password-reset", 303)


@door.get("/.well-known/change-password")
def change_password() -> ResponseReturnValue:
    """Lead a password manager to where a password is changed (W3C, A Well-Known URL for Changing Passwords)."""
    return redirect("/password-reset", 303)


@door.get("/.well-known/security.txt")
def security_txt() -> Response:
    """Say whom to tell about a vulnerability (RFC 9116)."""
    given = settings()
    email = given.support_email or given.data_manager_email
    expires = (clock.now() + SECURITY_TXT_LIFETIME).strftime("%Y-%m-%dT00:00:00Z")
    lines = (
        f"Contact: {f'mailto:{email}' if email else f'{given.public_url}/'}",
        f"Expires: {expires}",
        "Preferred-Languages: en",
        f"Canonical: {given.public_url}/.well-known/security.txt",
        f"Policy: {given.public_url}/privacy",
    )
    return Response("\n".join(lines) + "\n", mimetype="text/plain")
