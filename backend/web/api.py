"""The JSON API: each operation calls one function of a feature and returns its response."""

import uuid
from collections.abc import Callable
from contextlib import suppress

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from backend.accounts import closing, email_change, feedback, passwords, profile, registration, sessions
from backend.accounts.sessions import Viewer
from backend.accounts.sign_in import authenticate
from backend.config import settings
from backend.database.engine import has_room, is_read_only
from backend.database.export import AccountExport
from backend.database.schema import is_current
from backend.errors import (
    EmailInUse,
    InvalidToken,
    NotFound,
    Overloaded,
    TooManyRequests,
    Unauthenticated,
    WeakPassword,
    WrongCredentials,
    WrongPassword,
)
from backend.mail import queue
from backend.privacy import erasure, policy
from backend.security import keys
from backend.security.tokens import Purpose
from backend.web import metrics, schemas
from backend.web.operations import Operations

READY_RETRY_SECONDS = 5

door = Blueprint("api", __name__)
operations = Operations(door)


@operations.add("POST", "/v1/registrations", tag="Registering", status=202, runs="loop")
def register(body: schemas.RegistrationRequest, client: str) -> schemas.LinkRequested:
    """Ask for an account.

    An email with a link follows, whether or not the address has an account already.
    """
    registration.request(name=body.name, email=body.email, client=client)
    return schemas.LinkRequested.to(Purpose.REGISTRATION)


@operations.add("POST", "/v1/registrations/confirm", tag="Registering", status=201, runs="hashing",
                errors=(InvalidToken, EmailInUse, WeakPassword))  # fmt: skip
def confirm_registration(body: schemas.RegistrationConfirmation, client: str) -> schemas.SignedIn:
    """Create the account of an emailed link, and sign in.

    The token is the part of the link after the #. It works once, for 24 hours. `accepted_policy` is the policy version
    that the person accepted.
    """
    return schemas.SignedIn.of(registration.confirm_and_sign_in(**dict(body), client=client))


@operations.add("POST", "/v1/password-resets", tag="Passwords", status=202, runs="loop")
def request_password_reset(body: schemas.PasswordResetRequest, client: str) -> schemas.LinkRequested:
    """Ask for a link to replace a forgotten password.

    An email follows if the address has an account. The response is the same if it has none.
    """
    passwords.request_reset(email=body.email, client=client)
    return schemas.LinkRequested.to(Purpose.PASSWORD_RESET)


@operations.add("POST", "/v1/password-resets/confirm", tag="Passwords", runs="hashing",
                errors=(InvalidToken, WeakPassword))  # fmt: skip
def confirm_password_reset(body: schemas.PasswordResetConfirmation, client: str) -> None:
    """Replace the password of an emailed link's account.

    Every session and every older link of the account ends. The token works once, for 24 hours.
    """
    passwords.reset(token=body.token, password=body.password, client=client)


@operations.add("PUT", "/v1/account/password", tag="Passwords", runs="hashing", errors=(WrongPassword, WeakPassword))
def change_password(viewer: Viewer, body: schemas.PasswordChangeRequest, client: str) -> None:
    """Replace the current password.

    Every other session and every emailed link of the account ends.
    """
    passwords.change(viewer, current_password=body.current_password, new_password=body.new_password, client=client)


@operations.add("POST", "/v1/sessions", tag="Sessions", status=201, runs="hashing", errors=(WrongCredentials,))
def sign_in(body: schemas.SignInRequest, client: str) -> schemas.SignedIn:
    """Sign in with an email address and a password."""
    return schemas.SignedIn.of(authenticate(email=body.email, password=body.password, client=client))


@operations.add("GET", "/v1/sessions", tag="Sessions")
def list_sessions(viewer: Viewer) -> schemas.SessionList:
    """List the account's sessions."""
    return schemas.SessionList(sessions=sessions.listed(viewer))


@operations.add("DELETE", "/v1/sessions/current", tag="Sessions")
def sign_out(viewer: Viewer) -> None:
    """End this session."""
    # Another request may have ended it in this moment.
    with suppress(NotFound):
        sessions.end(viewer, viewer.session_id)


@operations.add("DELETE", "/v1/sessions/<uuid:id>", tag="Sessions", errors=(NotFound,))
def end_session(viewer: Viewer, id: uuid.UUID) -> None:  # noqa: A002 - the contract's word
    """End one of the account's sessions."""
    sessions.end(viewer, id)


@operations.add("DELETE", "/v1/sessions", tag="Sessions")
def end_all_sessions(viewer: Viewer) -> None:
    """End every session of the account, this one too."""
    sessions.end_all(viewer)


@operations.add("GET", "/v1/account", tag="Account", runs="loop")
def show_account(viewer: Viewer) -> schemas.AccountDetails:
    """Show everything that is known about the person."""
    return schemas.AccountDetails.of(viewer.account)


@operations.add("PATCH", "/v1/account", tag="Account")
def change_account(viewer: Viewer, body: schemas.AccountUpdate) -> schemas.AccountDetails:
    """Change or remove the name, turn emails about TILES on or off, accept a policy version."""
    return schemas.AccountDetails.of(profile.change(viewer, **body.model_dump(exclude_unset=True)))


@operations.add("DELETE", "/v1/account/name", tag="Account")
def remove_name(viewer: Viewer) -> schemas.AccountDetails:
    """Remove the name, as a PATCH with a name of null does."""
    return schemas.AccountDetails.of(profile.change(viewer, name=None))


@operations.add("POST", "/v1/account/email-changes", tag="Account", status=202, runs="hashing", errors=(WrongPassword,))
def request_email_change(viewer: Viewer, body: schemas.EmailChangeRequest, client: str) -> schemas.LinkRequested:
    """Ask for another email address.

    An email with a link follows to the new address. A new password ends the request.
    """
    email_change.request(viewer, email=body.email, password=body.password, client=client)
    return schemas.LinkRequested.to(Purpose.EMAIL_CHANGE)


@operations.add("POST", "/v1/email-changes/confirm", tag="Account", errors=(InvalidToken, EmailInUse))
def confirm_email_change(body: schemas.TokenRequest, client: str) -> None:
    """Replace the old address by the new one.

    The old address gets a notice with a link that undoes it, good for 72 hours. The token works once, for an hour.
    """
    email_change.confirm(token=body.token, client=client)


@operations.add("POST", "/v1/email-changes/undo", tag="Account", errors=(InvalidToken, EmailInUse))
def undo_email_change(body: schemas.TokenRequest, client: str) -> None:
    """Restore the old address.

    Every session ends, the password stops working, and the address is sent a link to choose a new one. The token works
    once, for 72 hours after the change.
    """
    email_change.undo(token=body.token, client=client)


@operations.add("GET", "/v1/account/export", tag="Account", errors=(TooManyRequests,))
def export_account(viewer: Viewer) -> AccountExport:
    """Return everything that is stored about the account, table by table, and the purpose of each column."""
    return profile.export(viewer)


@operations.add("POST", "/v1/account/close", tag="Erasure", runs="hashing", errors=(WrongPassword,))
def close_account(viewer: Viewer, body: schemas.AccountClosureRequest, client: str) -> closing.AccountClosure:
    """Close the account, and have everything erased if the request says so.

    Every session ends. An email confirms it, with a link that opens the account again until it is erased.
    """
    return closing.close(viewer, password=body.password, erase=body.erase, client=client)


@operations.add("POST", "/v1/erasure-requests", tag="Erasure", status=202, runs="loop")
def request_erasure(body: schemas.ErasureRequest, client: str) -> schemas.LinkRequested:
    """Ask for a link to erase an account without the app.

    An email follows if the address has or had an account. The response is the same if not.
    """
    closing.request_erasure(email=body.email, client=client)
    return schemas.LinkRequested.to(Purpose.ERASURE)


@operations.add("POST", "/v1/erasure-requests/confirm", tag="Erasure", errors=(InvalidToken,))
def confirm_erasure(body: schemas.TokenRequest, client: str) -> closing.AccountClosure:
    """Close the account of an emailed link, and have everything erased.

    The token works once, for 24 hours.
    """
    return closing.confirm_erasure(token=body.token, client=client)


@operations.add("POST", "/v1/erasure-requests/cancel", tag="Erasure", errors=(InvalidToken, EmailInUse))
def cancel_erasure(body: schemas.TokenRequest, client: str) -> None:
    """Open a closed account again.

    The token comes from the email about the closing. It works once, until the account is erased.
    """
    closing.cancel(token=body.token, client=client)


@operations.add("POST", "/v1/erasure-receipts/verify", tag="Erasure", errors=(InvalidToken,))
def verify_erasure_receipt(body: schemas.ReceiptVerificationRequest, client: str) -> schemas.ErasureReceipt:
    """Show the content of an erasure's receipt, if it is genuine and unaltered."""
    content = erasure.verify(receipt=body.receipt, client=client)
    try:
        return schemas.ErasureReceipt.model_validate(content)
    except ValidationError:
        raise InvalidToken from None


@operations.add("POST", "/v1/feedback", tag="Feedback", status=201, runs="loop")
def send_feedback(
    viewer: Viewer | None, body: schemas.FeedbackRequest, idempotency_key: str | None, client: str
) -> feedback.FeedbackReceipt:
    """Send feedback, signed in or not.

    With an `Idempotency-Key` (IETF draft), a repeated message is stored once and gets the same response.
    """
    return feedback.submit(viewer, message=body.message, key=idempotency_key, client=client)


@operations.add("GET", "/v1/policy", tag="Policy", errors=(NotFound,))
def show_policy() -> schemas.PolicyVersion:
    """Show the version of the privacy policy that is in force; not-found before the first."""
    row = policy.current()
    if row is None:
        raise NotFound
    url = f"{settings().public_url}/privacy"
    return schemas.PolicyVersion(version=row.version, effective_on=row.effective_on, sha256=row.sha256, url=url)


@operations.add("GET", "/healthz", tag="Operation", documented=False, runs="loop")
def healthz() -> schemas.Health:
    """Report that the process is up."""
    return schemas.Health()


# Checked in this order: each check assumes that the earlier ones passed.
UNREADY: dict[str, Callable[[], object]] = {
    "The database schema is older than this release's: run `tiles db upgrade`.": lambda: not is_current(),
    "The database knows none of this process's keys, but others: run `tiles check`.": keys.are_others,
    "The disk is full: make room beside the database.": lambda: not has_room(),
    "The database's file system is read-only, or its file is: run `tiles check`.": is_read_only,
    "No email leaves: `tiles check` says why.": queue.is_blocked,
    # Without the number of seconds, which would tell whether an address has an account.
    "Emails have been waiting for over an hour.": lambda: queue.oldest_seconds() > queue.LATE_SECONDS,
}


@operations.add("GET", "/readyz", tag="Operation", documented=False)
def readyz() -> schemas.Readiness:
    """Report whether the service is ready.

    The database responds, its schema is this release's or a later one's, it knows a key of this process, SQLite's disk
    has room and accepts writes, no email has waited untried for an hour, and nothing keeps every email from leaving.
    """
    for reason, applies in UNREADY.items():
        if applies():
            raise Overloaded(reason, retry_after=READY_RETRY_SECONDS)
    return schemas.Readiness()


@operations.add(
    "GET",
    "/metrics",
    tag="Operation",
    documented=False,
    media_type=CONTENT_TYPE_LATEST,
    errors=(NotFound, Unauthenticated),
)
def show_metrics() -> bytes:
    """Return Prometheus metrics: requests by route and status, password hashes, emails and erasures.

    They need TILES_METRICS_TOKEN as the bearer token or, where it is not set, a request from this machine that came
    through no proxy.
    """
    metrics.require_operator()
    return metrics.exposition()


@door.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """Return the OpenAPI 3.1 document."""
    return current_app.json.response(operations.document)
