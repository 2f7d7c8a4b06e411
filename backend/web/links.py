"""The pages behind the emailed links.

They use no cookie and need no JavaScript. GET shows and POST acts, so that an email scanner can open every link. A link
is looked at first: the script posts the token that it finds in the fragment, or the person pastes it. Each step posts
to a path of its own: on a page with the link's own path, opening the link would change only the fragment.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from backend import clock
from backend.accounts import closing, email_change, links, passwords, profile, registration
from backend.accounts.links import State
from backend.errors import EmailInUse, InvalidToken, Problem, WeakPassword
from backend.privacy import erasure, policy
from backend.security.tokens import MAILED, Purpose
from backend.web import forms
from backend.web.problems import client
from backend.web.schemas import ErasureReceipt

PAGES = (*MAILED, Purpose.RECEIPT)
# The features raise these after they charged for the token.
CHARGED = InvalidToken, EmailInUse, WeakPassword

door = Blueprint("links", __name__)
door.before_request(forms.check)

Submit = Callable[..., ResponseReturnValue]


def _page(purpose: Purpose, view: str, **context: Any) -> str:
    """Return a view of the page that is named after the purpose."""
    defaults: dict[str, Any] = {"errors": {}, "problem": None, "token": "", "email": "", "link": None}
    if view == State.LIVE and purpose is Purpose.REGISTRATION:
        context["policy"] = policy.current()
    template = f"{purpose.replace('-', '_')}.html"
    return render_template(template, **defaults | context, purpose=purpose, view=view)


def _start_again(purpose: Purpose, problem: Problem, view: str = "start") -> Response:
    """Return a form of the page again, with the typed values and the errors."""
    shown = {"token": forms.token(), "email": forms.field("email"), "errors": forms.errors_of(problem)}
    return _refused(_page(purpose, view, **shown, problem=problem), problem)


def _refused(page: str, problem: Problem) -> Response:
    response = make_response(page, problem.status)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response


def _each_page(suffix: str, method: str, purposes: Sequence[Purpose] = PAGES) -> Callable[[Submit], Submit]:
    """Decorate the function that is the same for the pages of several emailed links."""

    def decorate(view: Submit) -> Submit:
        for purpose in purposes:
            path = f"/{purpose}{suffix}"
            door.add_url_rule(path, f"{view.__name__} {path}", partial(view, purpose), methods=[method])
        return view

    return decorate


@_each_page("", "GET")
@_each_page("/look", "GET")
def start(purpose: Purpose) -> str:
    """Show the page behind an emailed link, which asks for the code. A reload after the POST shows it too."""
    return _page(purpose, "start")


@_each_page("/look", "POST", MAILED)
def look(purpose: Purpose) -> ResponseReturnValue:
    """Show the question of an emailed link, or its state if it is dead. Nothing is changed."""
    try:
        link = links.look(purpose, token=forms.token(), client=client())
    except Problem as limited:
        return _start_again(purpose, limited)
    return _looked_at(purpose, link, None)


def _looked_at(purpose: Purpose, link: links.Link, problem: Problem | None) -> ResponseReturnValue:
    view = "start" if link.state is State.DAMAGED else str(link.state)
    shown = InvalidToken() if link.state is State.DAMAGED else problem if link.state is State.LIVE else None
    errors = forms.errors_of(shown) if shown else {}
    page = _page(purpose, view, link=link, email=link.email, token=forms.token(), problem=shown, errors=errors)
    refusal = problem or shown
    return _refused(page, refusal) if refusal else page


@_each_page("#<path:code>", "GET")
def mangled(purpose: Purpose, code: str) -> ResponseReturnValue:  # noqa: ARG001 - a mailbox's reader pastes it
    """Redirect a link whose # a mail program wrote as %23 to the page with the field for the code."""
    return redirect(f"/{purpose}", HTTPStatus.SEE_OTHER)


@door.get("/password-reset/confirm")
@door.get("/erasure/confirm")
@door.get("/registration/again")
def last_step() -> ResponseReturnValue:
    """Redirect a reload of the last step to the first."""
    return redirect(request.path.rpartition("/")[0], HTTPStatus.SEE_OTHER)


def _using(purpose: Purpose) -> Callable[[Submit], Submit]:
    """Decorate the function that uses a link: if it raises a problem, show the link's page with it."""

    def decorate(use: Submit) -> Submit:
        @wraps(use)
        def view() -> ResponseReturnValue:
            try:
                return use()
            except Problem as problem:
                return _not_used(purpose, problem)

        return view

    return decorate


def _not_used(purpose: Purpose, problem: Problem) -> ResponseReturnValue:
    if problem.retry_after is not None:
        return _start_again(purpose, problem)
    try:
        charged = isinstance(problem, CHARGED)
        token = forms.token()
        link = links.find(purpose, token) if charged else links.look(purpose, token=token, client=client())
    except Problem as limited:
        return _start_again(purpose, limited)
    if link.state is State.LIVE and isinstance(problem, InvalidToken):
        # Another request used it in this moment, or its account is being erased.
        link = links.Link(State.REPLACED)
    return _looked_at(purpose, link, problem)


def _ask(purpose: Purpose, request_email: Callable[..., None], view: str = "start") -> ResponseReturnValue:
    """Ask for an email. The response is the same whether or not there is an account."""
    try:
        request_email(email=forms.email(), client=client())
    except Problem as problem:
        return _start_again(purpose, problem, "start" if isinstance(problem, InvalidToken) else view)
    return _page(purpose, "sent", token=forms.token(), email=forms.field("email"))


@door.post("/registration")
@_using(Purpose.REGISTRATION)
def confirm_registration() -> str:
    """Create the account."""
    accepted = forms.accepted_policy()
    registration.confirm(token=forms.token(), password=forms.new_password(), accepted_policy=accepted, client=client())
    return _page(Purpose.REGISTRATION, "done")


@door.post("/registration/again")
def request_registration_again() -> ResponseReturnValue:
    """Ask for another email in place of an expired one."""
    return _ask(Purpose.REGISTRATION, partial(registration.request_again, token=forms.token()), "expired")


@door.post("/password-reset")
def request_password_reset() -> ResponseReturnValue:
    """Ask for the email with a reset link."""
    return _ask(Purpose.PASSWORD_RESET, passwords.request_reset)


@door.post("/password-reset/confirm")
@_using(Purpose.PASSWORD_RESET)
def confirm_password_reset() -> str:
    """Replace the password."""
    passwords.reset(token=forms.token(), password=forms.new_password(), client=client())
    return _page(Purpose.PASSWORD_RESET, "done")


@door.post("/email-change")
@_using(Purpose.EMAIL_CHANGE)
def confirm_email_change() -> str:
    """Replace the old address by the new one."""
    email_change.confirm(token=forms.token(), client=client())
    return _page(Purpose.EMAIL_CHANGE, "done")


@door.post("/email-change-undo")
@_using(Purpose.EMAIL_CHANGE_UNDO)
def undo_email_change() -> str:
    """Restore the old address."""
    email_change.undo(token=forms.token(), client=client())
    return _page(Purpose.EMAIL_CHANGE_UNDO, "done")


@door.post("/erasure")
def request_erasure() -> ResponseReturnValue:
    """Ask for the email with which the erasure is confirmed."""
    return _ask(Purpose.ERASURE, closing.request_erasure)


@door.post("/erasure/confirm")
@_using(Purpose.ERASURE)
def confirm_erasure() -> str:
    """Close the account and have it erased."""
    due = closing.confirm_erasure(token=forms.token(), client=client()).erase_after
    # Without a grace period, a legal hold may still delay it; and the account may have been closed long before.
    return _page(Purpose.ERASURE, "done", erase_after=due, waits=due is not None and due > clock.now())


@door.post("/erasure-cancel")
@_using(Purpose.ERASURE_CANCEL)
def cancel_erasure() -> str:
    """Open the account again."""
    closing.cancel(token=forms.token(), client=client())
    return _page(Purpose.ERASURE_CANCEL, "done")


@door.post("/erasure-receipt/look")
def show_receipt() -> ResponseReturnValue:
    """Show the content of a receipt. It can be shown any number of times."""
    try:
        content = erasure.verify(receipt=forms.token(), client=client())
        receipt = ErasureReceipt.model_validate(content)
    except ValidationError:
        return _start_again(Purpose.RECEIPT, InvalidToken())
    except Problem as problem:
        return _start_again(Purpose.RECEIPT, problem)
    return _page(Purpose.RECEIPT, "live", receipt=receipt)


@door.get("/unsubscribe/<token>")
def unsubscribe(token: str) -> str:  # noqa: ARG001 - showing the page changes nothing
    """Show the button behind the link of every email about TILES."""
    return render_template("unsubscribe.html", problem=None, done=False)


@door.post("/unsubscribe/<token>")
def confirm_unsubscribe(token: str) -> ResponseReturnValue:
    """Unsubscribe, from the page's button or an email program's one click (RFC 8058)."""
    try:
        profile.unsubscribe(token=token, client=client())
    except Problem as problem:
        return _refused(render_template("unsubscribe.html", problem=problem, done=False), problem)
    return render_template("unsubscribe.html", problem=None, done=True)
