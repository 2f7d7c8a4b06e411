"""The pages: behind the mailed links, and those that explain the service.

They use no cookie and need no JavaScript. GET shows and POST acts, so that an email scanner can open every link. The
second step posts to a path of its own: a link opened on top of a response from its own path would load nothing.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from backend import clock
from backend.accounts import closing, email_change, passwords, profile, registration
from backend.config import settings
from backend.database.inventory import inventory
from backend.database.models import RECORD
from backend.errors import InvalidRequest, InvalidToken, NotFound, problems
from backend.privacy import policy
from backend.web import forms
from backend.web.api import operations
from backend.web.bodies import read_body
from backend.web.problems import DATABASE_AWAY, charge_request, client

# RFC 9116 (section 2.5.5) recommends less than a year; this file renews itself.
SECURITY_TXT_LIFETIME = timedelta(days=90)

door = Blueprint("pages", __name__)


@door.app_context_processor
def _template_globals() -> dict[str, Any]:
    values = settings()
    return {
        "support_email": values.support_email,
        "data_manager_email": values.data_manager_email,
        "min_length": values.password_min_length,
        "grace_days": values.erasure_grace_days,
        "closed_retention_days": values.closed_retention_days,
        "record": RECORD,
    }


@door.before_request
def _check_form() -> None:
    """Charge a form, and refuse it from another site: its visitors would each have a limit of their own."""
    if request.method != "POST":
        return
    charge_request()
    # A webmail program unsubscribes from its own page (RFC 8058), with the token of the path.
    is_foreign = request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}
    if is_foreign and request.endpoint != "pages.confirm_unsubscribe":
        raise InvalidRequest("Open this page itself, and send the form from there.")
    read_body()


@door.get("/")
def home() -> str:
    """Show what this service is."""
    return render_template("home.html")


@door.get("/registration")
@door.get("/password-reset")
@door.get("/email-change")
@door.get("/email-change-undo")
@door.get("/erasure")
@door.get("/erasure-cancel")
def link_page() -> str:
    """Show the page behind a mailed link."""
    template = request.path.removeprefix("/").replace("-", "_")
    return render_template(f"{template}.html", errors={}, token="", email="", step="both")


@door.post("/registration")
@forms.shown_again("registration.html")
def confirm_registration() -> str:
    """Create the account."""
    registration.confirm(token=forms.token(), password=forms.new_password(), client=client())
    return forms.message(
        "Your account is ready",
        "Open the TILES app and sign in with your email address and your new password.",
        step=(4, "sign in"),
    )


def _look_into_mailbox(more: str = "") -> str:
    # The same whether or not there is an account.
    return forms.message(
        "Look into your inbox",
        "If there is an account with this address, an email with a link is on its way. "
        f"The link works for 24 hours{more}.",
        "Nothing came? Look into the spam folder, and check that the address is the one you registered with.",
        step=(2, "your inbox"),
    )


@door.post("/password-reset")
@forms.shown_again("password_reset.html", step="request")
def request_password_reset() -> str:
    """Ask for the email with a reset link."""
    passwords.request_reset(email=forms.email(), client=client())
    return _look_into_mailbox()


@door.post("/password-reset/confirm")
@forms.shown_again("password_reset.html", step="confirm")
def confirm_password_reset() -> str:
    """Replace the password."""
    passwords.reset(token=forms.token(), password=forms.new_password(), client=client())
    return forms.message(
        "Your password is changed",
        "You are signed out everywhere. Open the TILES app and sign in with the new password.",
        step=(4, "sign in"),
    )


@door.post("/email-change")
@forms.shown_again("email_change.html")
def confirm_email_change() -> str:
    """Replace the old address by the new one."""
    email_change.confirm(token=forms.token(), client=client())
    return forms.message(
        "Your address is changed", "From now on, sign in with the new one. Your password stays as it is."
    )


@door.post("/email-change-undo")
@forms.shown_again("email_change_undo.html")
def undo_email_change() -> str:
    """Restore the old address."""
    email_change.undo(token=forms.token(), client=client())
    return forms.message(
        "Your account has its old address back",
        "Everybody is signed out. An email with a link to choose a new password is on its way to that address. "
        "Choose one now: the person who changed the address may know the old password.",
        "Change the password of your email account too. Somebody else may be reading it.",
        link=("/password-reset", "No email? Ask for another"),
    )


@door.post("/erasure")
@forms.shown_again("erasure.html", step="request")
def request_erasure() -> str:
    """Ask for the email with which the erasure is confirmed."""
    closing.request_erasure(email=forms.email(), client=client())
    return _look_into_mailbox(", and nothing is erased before you confirm with it")


@door.post("/erasure/confirm")
@forms.shown_again("erasure.html", step="confirm")
def confirm_erasure() -> str:
    """Close the account and have it erased."""
    due = closing.confirm_erasure(token=forms.token(), client=client()).erase_after
    # Without a grace period, a legal hold may still delay it; and the account may have been closed long before.
    return render_template("erasure_confirmed.html", erase_after=due, waits=due is not None and due > clock.now())


@door.post("/erasure-cancel")
@forms.shown_again("erasure_cancel.html")
def cancel_erasure() -> str:
    """Open the account again."""
    closing.cancel(token=forms.token(), client=client())
    return forms.message(
        "Your account is open again",
        "Open the TILES app and sign in as before.",
        "Was it not you who closed it? Then choose a new password now.",
        link=("/password-reset", "Choose a new password"),
    )


@door.get("/unsubscribe/<token>")
def unsubscribe(token: str) -> str:  # noqa: ARG001 - showing the page changes nothing
    """Show the button behind the link of every email about TILES."""
    return render_template("unsubscribe.html", errors={})


@door.post("/unsubscribe/<token>")
@forms.shown_again("unsubscribe.html")
def confirm_unsubscribe(token: str) -> str:
    """Unsubscribe, from the page's button or an email program's one click (RFC 8058)."""
    try:
        profile.unsubscribe(token=token, client=client())
    except InvalidToken:
        raise InvalidToken("Open it from the email again, all of it, or switch the emails off in the app.") from None
    return forms.message("You are unsubscribed", "No more emails about TILES will come to you.")


@door.get("/privacy")
def privacy() -> str:
    """Show what is promised and what is stored; without its database, all but the policy."""
    try:
        current, upcoming, unknown = policy.current(), policy.upcoming(), False
    except DATABASE_AWAY:
        current, upcoming, unknown = None, [], True
    stored = Markup(_rendered_once("_inventory.html", lambda: {"inventory": inventory()}))  # noqa: S704 - rendered here
    return render_template("privacy.html", inventory=stored, policy=current, upcoming=upcoming, policy_unknown=unknown)


@door.get("/problems")
@door.get("/problems/")
def all_problems() -> str:
    """List the problem codes."""
    return render_template("problems.html", problems=list(problems().values()))


@door.get("/problems/<code>")
def problem(code: str) -> str:
    """Explain a problem code."""
    try:
        return render_template("problem.html", problem=problems()[code])
    except KeyError:
        raise NotFound from None


@door.get("/docs")
def docs() -> str:
    """Show the API's documentation, made from its OpenAPI document."""
    context = {"api": operations.document, "problems": list(problems().values()), "url": settings().public_url}
    return _rendered_once("docs.html", lambda: context)


def _rendered_once(template: str, context: Callable[[], dict[str, Any]]) -> str:
    """Return a page that is the same for everybody. It is cached because nothing limits these requests."""
    rendered: dict[str, str] = current_app.extensions.setdefault("tiles.pages", {})
    if template not in rendered:
        rendered[template] = render_template(template, **context())
    return rendered[template]


@door.app_template_filter("resolve")
def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the target of the OpenAPI document's `$ref`, or the schema itself."""
    name = schema.get("$ref", "").rpartition("/")[2]
    target: dict[str, Any] = operations.document["components"]["schemas"][name] if name else schema
    return target


@door.get("/password-reset/confirm")
@door.get("/erasure/confirm")
def both_steps() -> ResponseReturnValue:
    """Redirect a reload of the second step to the page with both."""
    return redirect(request.path.removesuffix("/confirm"), 303)


@door.get("/.well-known/change-password")
def change_password() -> ResponseReturnValue:
    """Redirect a password manager to the reset (W3C, A Well-Known URL for Changing Passwords)."""
    return redirect("/password-reset", 303)


@door.get("/.well-known/security.txt")
def security_txt() -> Response:
    """Return the contact for reports of vulnerabilities (RFC 9116)."""
    url, email = settings().public_url, settings().support_email or settings().data_manager_email
    lines = (
        f"Contact: {f'mailto:{email}' if email else f'{url}/'}",
        f"Expires: {clock.now() + SECURITY_TXT_LIFETIME:%Y-%m-%dT00:00:00Z}",
        "Preferred-Languages: en",
        f"Canonical: {url}/.well-known/security.txt",
        f"Policy: {url}/privacy",
    )
    return Response("\n".join(lines) + "\n", mimetype="text/plain")
