"""The pages: what a person sees behind a mailed link, and the few pages that explain the service.

They use no cookie and need no JavaScript. GET shows, POST acts, so a mail scanner can open every link. Asking for a
mail is answered elsewhere than the mail's link leads: else a link that is opened over the answer would load nothing.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from backend import clock
from backend.accounts import closing, email_change, passwords, profile
from backend.accounts import registration as accounts
from backend.config import settings
from backend.database.inventory import inventory
from backend.database.models import RECORD
from backend.errors import InvalidRequest, InvalidToken, NotFound, problems
from backend.privacy import policy
from backend.web import forms
from backend.web import problems as web
from backend.web.api import operations
from backend.web.bodies import read_body

# RFC 9116 section 2.5.5 recommends less than a year; this file renews itself.
SECURITY_TXT_LIFETIME = timedelta(days=90)
NOTHING_CAME = "Nothing came? Look into the spam folder, and check that the address is the one you registered with."

door = Blueprint("pages", __name__)


@door.app_context_processor
def _everywhere() -> dict[str, Any]:
    given = settings()
    return {
        "support_email": given.support_email,
        "data_manager_email": given.data_manager_email,
        "min_length": given.password_min_length,
        "grace_days": given.erasure_grace_days,
        "closed_retention_days": given.closed_retention_days,
        "record": RECORD,
    }


@door.before_request
def _read_forms_of_our_own() -> None:
    """Keep a foreign page from having its visitors ask for mails, each under a limit of their own."""
    if request.method != "POST":
        return
    web.charge_request()
    # A mail program on the web unsubscribes from its own page (RFC 8058); the token in the path is its permission.
    elsewhere = request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}
    foreign = elsewhere and request.endpoint != "pages.confirm_unsubscribe"
    if foreign:
        raise InvalidRequest("Open this page itself, and send the form from there.")
    read_body()


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
    token = forms.token()

    def act() -> str:
        accounts.confirm_registration(token=token, password=forms.new_password(), client=web.client())
        return forms.message(
            "Your account is ready",
            "Open the TILES app and sign in with your email address and your new password.",
            step=(4, "sign in"),
        )

    return forms.submit(act, "registration.html", token=token)


@door.get("/password-reset")
def password_reset() -> str:
    """Show both steps: asking for a mail, and choosing a password with the code from it."""
    return render_template("password_reset.html", errors={}, token="", email="", step="both")


@door.post("/password-reset")
def request_password_reset() -> ResponseReturnValue:
    """Have a reset mailed."""

    def act() -> str:
        passwords.request_reset(email=forms.email(), client=web.client())
        # The same whether or not there is an account.
        return forms.message(
            "Look into your mailbox",
            "If there is an account with this address, a mail with a link is on its way. The link works for 24 hours.",
            NOTHING_CAME,
            step=(2, "your mailbox"),
        )

    return forms.submit(act, "password_reset.html", email=forms.field("email"), token="", step="request")


@door.post("/password-reset/confirm")
def confirm_password_reset() -> ResponseReturnValue:
    """Replace the password."""
    token = forms.token()

    def act() -> str:
        passwords.reset(token=token, password=forms.new_password(), client=web.client())
        return forms.message(
            "Your password is changed",
            "You are signed out everywhere. Open the TILES app and sign in with the new password.",
            step=(4, "sign in"),
        )

    return forms.submit(act, "password_reset.html", email="", token=token, step="confirm")


@door.get("/email-change")
def new_address() -> str:
    """Show the button behind the link that proves a new address."""
    return render_template("email_change.html", errors={}, token="")


@door.post("/email-change")
def confirm_new_address() -> ResponseReturnValue:
    """Put the new address in the place of the old one."""
    token = forms.token()

    def act() -> str:
        email_change.confirm(token=token, client=web.client())
        return forms.message(
            "Your address is changed", "From now on, sign in with the new one. Your password stays as it is."
        )

    return forms.submit(act, "email_change.html", token=token)


@door.get("/email-change-undo")
def old_address() -> str:
    """Show the button behind the link that an address gets which was replaced."""
    return render_template("email_change_undo.html", errors={}, token="")


@door.post("/email-change-undo")
def take_back_old_address() -> ResponseReturnValue:
    """Give the account its old address back."""
    token = forms.token()

    def act() -> str:
        email_change.undo(token=token, client=web.client())
        return forms.message(
            "Your account has its old address back",
            "Everybody is signed out. A mail with a link to choose a new password is on its way to that address. "
            "Choose one now: whoever changed the address may know the old password.",
            "Change the password of your mailbox too. Somebody else may be reading it.",
            link=("/password-reset", "No mail? Ask for another"),
        )

    return forms.submit(act, "email_change_undo.html", token=token)


@door.get("/erasure")
def erasure() -> str:
    """Show both steps, and what is erased and what is kept: app stores ask for this page."""
    return render_template("erasure.html", errors={}, token="", email="", step="both")


@door.post("/erasure")
def request_erasure() -> ResponseReturnValue:
    """Have a link mailed with which the erasure is confirmed."""

    def act() -> str:
        closing.request_erasure(email=forms.email(), client=web.client())
        # The same whether or not there is an account.
        return forms.message(
            "Look into your mailbox",
            "If there is an account with this address, a mail with a link is on its way. The link works for 24 hours, "
            "and nothing is erased before you confirm with it.",
            NOTHING_CAME,
            step=(2, "your mailbox"),
        )

    return forms.submit(act, "erasure.html", email=forms.field("email"), token="", step="request")


@door.post("/erasure/confirm")
def confirm_erasure() -> ResponseReturnValue:
    """Close the account and have it erased."""
    token = forms.token()

    def act() -> str:
        closed = closing.confirm_erasure(token=token, client=web.client())
        due = closed.erase_after
        # With no grace period a legal hold may still delay it; and an account may have been closed long before.
        return render_template("erasure_confirmed.html", erase_after=due, waits=due is not None and due > clock.now())

    return forms.submit(act, "erasure.html", email="", token=token, step="confirm")


@door.get("/erasure-cancel")
def erasure_cancel() -> str:
    """Show the button behind the link that opens a closed account again."""
    return render_template("erasure_cancel.html", errors={}, token="")


@door.post("/erasure-cancel")
def cancel_erasure() -> ResponseReturnValue:
    """Open the account again."""
    token = forms.token()

    def act() -> str:
        closing.cancel(token=token, client=web.client())
        return forms.message(
            "Your account is open again",
            "Open the TILES app and sign in as before.",
            "Was it not you who closed it? Then choose a new password now.",
            link=("/password-reset", "Choose a new password"),
        )

    return forms.submit(act, "erasure_cancel.html", token=token)


@door.get("/unsubscribe/<token>")
def unsubscribe(token: str) -> str:  # noqa: ARG001 - whoever only looks stays subscribed
    """Show the button behind the link in every mail about TILES."""
    return render_template("unsubscribe.html", errors={})


@door.post("/unsubscribe/<token>")
def confirm_unsubscribe(token: str) -> ResponseReturnValue:
    """Switch the mails off, for the page's button and for a mail program's one click (RFC 8058)."""

    def act() -> str:
        try:
            profile.unsubscribe(token=token, client=web.client())
        except InvalidToken:
            raise InvalidToken("Open it from the mail again, all of it, or switch the mails off in the app.") from None
        return forms.message("You are unsubscribed", "No more mails about TILES will come to you.")

    return forms.submit(act, "unsubscribe.html")


@door.get("/privacy")
def privacy() -> str:
    """Show what is promised and what is stored."""
    try:
        in_force, upcoming, unknown = policy.current(), policy.upcoming(), False
    except web.DATABASE_AWAY:
        # What is stored can be said without the store.
        in_force, upcoming, unknown = None, [], True
    stored = Markup(_rendered_once("_inventory.html", lambda: {"inventory": inventory()}))  # noqa: S704 - rendered here
    return render_template("privacy.html", inventory=stored, policy=in_force, upcoming=upcoming, policy_unknown=unknown)


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
    return _rendered_once("docs.html", lambda: {"api": operations.document})


def _rendered_once(template: str, context: Callable[[], dict[str, Any]]) -> str:
    """Return what is the same for everybody: it takes long to render, and anybody may ask for it."""
    rendered: dict[str, str] = current_app.extensions.setdefault("tiles.pages", {})
    if template not in rendered:
        rendered[template] = render_template(template, **context())
    return rendered[template]


@door.app_template_filter("resolve")
def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a `$ref` of the OpenAPI document refers to, or the schema itself."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = operations.document["components"]["schemas"][name] if name else schema
    return found


@door.get("/password-reset/confirm")
@door.get("/erasure/confirm")
def both_steps() -> ResponseReturnValue:
    """Lead whoever reloads the second step, from the address bar, to where both are."""
    return redirect(request.path.removesuffix("/confirm"), 303)


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
