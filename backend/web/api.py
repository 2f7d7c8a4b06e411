"""The JSON door: what each operation takes and answers. It parses, calls one function, answers."""

import uuid
from http import HTTPStatus

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from backend.accounts import closing, email_change, feedback, passwords, profile, registration, sessions
from backend.accounts.sessions import Viewer
from backend.accounts.sign_in import authenticate
from backend.config import settings
from backend.database import export
from backend.database.engine import has_room, is_read_only
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
from backend.web import metrics, problems
from backend.web.operations import Operations
from backend.web.schemas import (
    Accepted,
    Account,
    AccountAndSession,
    AccountChange,
    Address,
    Closed,
    Closing,
    Credentials,
    EmailChange,
    Export,
    Health,
    ListedSession,
    MailedToken,
    Message,
    NewPassword,
    PasswordChange,
    PolicyInForce,
    Readiness,
    Receipt,
    Registration,
    Sessions,
    SignedReceipt,
    Stored,
)

OLDEST_MAIL_SECONDS = 3600
READY_RETRY_SECONDS = 5

door = Blueprint("api", __name__)
operations = Operations(door)


@operations.add("POST", "/v1/registrations", runs="loop", tag="Registering", status=HTTPStatus.ACCEPTED,
                body=Registration, answer=Accepted, problems=(TooManyRequests,))  # fmt: skip
def register(body: Registration) -> Accepted:
    """Ask for an account.

    A mail with a link follows, whether or not the address has an account already.
    """
    registration.request_registration(name=body.name, email=body.email, client=problems.client())
    return Accepted()


@operations.add("POST", "/v1/registrations/confirm", runs="hashing", tag="Registering", status=HTTPStatus.CREATED,
                body=NewPassword, answer=AccountAndSession,
                problems=(InvalidToken, EmailInUse, WeakPassword, TooManyRequests))  # fmt: skip
def confirm_registration(body: NewPassword) -> AccountAndSession:
    """Make the account that a mailed link stands for, and sign in.

    The token is what follows the # in the link. It works once, for 24 hours.
    """
    signed_in = registration.confirm_registration_and_sign_in(
        token=body.token, password=body.password, client=problems.client()
    )
    return AccountAndSession.of(signed_in)


@operations.add("POST", "/v1/password-resets", runs="loop", tag="Passwords", status=HTTPStatus.ACCEPTED,
                body=Address, answer=Accepted, problems=(TooManyRequests,))  # fmt: skip
def request_password_reset(body: Address) -> Accepted:
    """Ask for a link with which a forgotten password can be replaced.

    A mail follows if the address has an account. The answer is the same if it has none.
    """
    passwords.request_reset(email=body.email, client=problems.client())
    return Accepted()


@operations.add("POST", "/v1/password-resets/confirm", runs="hashing", tag="Passwords", status=HTTPStatus.NO_CONTENT,
                body=NewPassword, problems=(InvalidToken, WeakPassword, TooManyRequests))  # fmt: skip
def confirm_password_reset(body: NewPassword) -> None:
    """Replace the password that a mailed link stands for.

    Every session and every older link of the account ends. The token works once, for 24 hours.
    """
    passwords.reset(token=body.token, password=body.password, client=problems.client())


@operations.add("PUT", "/v1/account/password",
                runs="hashing", tag="Passwords", status=HTTPStatus.NO_CONTENT, session="required",
                body=PasswordChange, problems=(WrongPassword, WeakPassword, TooManyRequests))  # fmt: skip
def change_password(viewer: Viewer, body: PasswordChange) -> None:
    """Replace a password that is known.

    Every other session and every mailed link of the account ends.
    """
    passwords.change(
        viewer, current_password=body.current_password, new_password=body.new_password, client=problems.client()
    )


@operations.add("POST", "/v1/sessions", runs="hashing", tag="Sessions", status=HTTPStatus.CREATED,
                body=Credentials, answer=AccountAndSession,
                problems=(WrongCredentials, TooManyRequests))  # fmt: skip
def sign_in(body: Credentials) -> AccountAndSession:
    """Sign in with an address and a password."""
    signed_in = authenticate(email=body.email, password=body.password, client=problems.client())
    return AccountAndSession.of(signed_in)


@operations.add("GET", "/v1/sessions", tag="Sessions", answer=Sessions, session="required")
def list_sessions(viewer: Viewer) -> Sessions:
    """List the account's sessions."""
    found = [ListedSession.model_validate(entry) for entry in sessions.listed(viewer)]
    return Sessions(sessions=found)


@operations.add("DELETE", "/v1/sessions/current", tag="Sessions", status=HTTPStatus.NO_CONTENT, session="required")
def sign_out(viewer: Viewer) -> None:
    """End this session."""
    sessions.end(viewer, viewer.session_id)


@operations.add("DELETE", "/v1/sessions/<uuid:id>", tag="Sessions", status=HTTPStatus.NO_CONTENT,
                session="required", problems=(NotFound,))  # fmt: skip
def end_session(viewer: Viewer, id: uuid.UUID) -> None:  # noqa: A002 - the contract's word
    """End one of the account's sessions."""
    sessions.end(viewer, id)


@operations.add("DELETE", "/v1/sessions", tag="Sessions", status=HTTPStatus.NO_CONTENT, session="required")
def end_all_sessions(viewer: Viewer) -> None:
    """End every session of the account, this one too."""
    sessions.end_all(viewer)


@operations.add("GET", "/v1/account", runs="loop", tag="Account", answer=Account, session="required")
def show_account(viewer: Viewer) -> Account:
    """Show all that is known about the person."""
    return Account.of(viewer.account)


@operations.add("PATCH", "/v1/account", tag="Account", answer=Account, session="required", body=AccountChange,
                problems=(TooManyRequests,))  # fmt: skip
def change_account(viewer: Viewer, body: AccountChange) -> Account:
    """Change or remove the name, choose whether mails about TILES come, accept a policy version."""
    return Account.of(profile.change(viewer, **body.model_dump(exclude_unset=True)))


@operations.add("POST", "/v1/account/email-changes",
                runs="hashing", tag="Account", status=HTTPStatus.ACCEPTED, session="required",
                body=EmailChange, answer=Accepted, problems=(WrongPassword, TooManyRequests))  # fmt: skip
def request_email_change(viewer: Viewer, body: EmailChange) -> Accepted:
    """Ask for another email address.

    A mail with a link follows to the new address. A new password ends the request.
    """
    email_change.request(viewer, email=body.email, password=body.password, client=problems.client())
    return Accepted()


@operations.add("POST", "/v1/email-changes/confirm", tag="Account", status=HTTPStatus.NO_CONTENT,
                body=MailedToken, problems=(InvalidToken, EmailInUse, TooManyRequests))  # fmt: skip
def confirm_email_change(body: MailedToken) -> None:
    """Put the new address in the place of the old one.

    The old address gets a notice with a link that takes it back, good for 72 hours. The token works once, for an hour.
    """
    email_change.confirm(token=body.token, client=problems.client())


@operations.add("POST", "/v1/email-changes/undo", tag="Account", status=HTTPStatus.NO_CONTENT,
                body=MailedToken, problems=(InvalidToken, EmailInUse, TooManyRequests))  # fmt: skip
def undo_email_change(body: MailedToken) -> None:
    """Put the old address back.

    Every session and the password end, and a link for a new one is mailed to it. The token works once, for 72 hours
    after the change.
    """
    email_change.undo(token=body.token, client=problems.client())


@operations.add("GET", "/v1/account/export", tag="Account", answer=Export, session="required")
def export_account(viewer: Viewer) -> Export:
    """Return everything that is held about the account, table by table, with what each column is for."""
    return Export.model_validate(export.export(viewer.account.id))


@operations.add("POST", "/v1/account/close",
                runs="hashing", tag="Erasure", session="required", body=Closing, answer=Closed,
                problems=(WrongPassword, TooManyRequests))  # fmt: skip
def close_account(viewer: Viewer, body: Closing) -> Closed:
    """Close the account, and with `erase` have everything erased.

    Every session ends. A mail says how it stands, with a link that opens the account again until it is erased.
    """
    return Closed.model_validate(
        closing.close(viewer, password=body.password, erase=body.erase, client=problems.client())
    )


@operations.add("POST", "/v1/erasure-requests", runs="loop", tag="Erasure", status=HTTPStatus.ACCEPTED,
                body=Address, answer=Accepted, problems=(TooManyRequests,))  # fmt: skip
def request_erasure(body: Address) -> Accepted:
    """Ask for a link with which an account can be erased, without the app.

    A mail follows if the address has or had an account. The answer is the same if not.
    """
    closing.request_erasure(email=body.email, client=problems.client())
    return Accepted()


@operations.add("POST", "/v1/erasure-requests/confirm", tag="Erasure", body=MailedToken, answer=Closed,
                problems=(InvalidToken, TooManyRequests))  # fmt: skip
def confirm_erasure(body: MailedToken) -> Closed:
    """Close the account that a mailed link stands for, and have everything erased.

    The token works once, for 24 hours.
    """
    return Closed.model_validate(closing.confirm_erasure(token=body.token, client=problems.client()))


@operations.add("POST", "/v1/erasure-requests/cancel", tag="Erasure", status=HTTPStatus.NO_CONTENT,
                body=MailedToken, problems=(InvalidToken, EmailInUse, TooManyRequests))  # fmt: skip
def cancel_erasure(body: MailedToken) -> None:
    """Open a closed account again.

    The token is that of the closing mail, and works once, until the account is erased.
    """
    closing.cancel(token=body.token, client=problems.client())


@operations.add("POST", "/v1/erasure-receipts/verify", tag="Erasure", body=SignedReceipt, answer=Receipt,
                problems=(InvalidToken, TooManyRequests))  # fmt: skip
def verify_erasure_receipt(body: SignedReceipt) -> Receipt:
    """Show what the receipt of an erasure says, if it is genuine and unaltered."""
    try:
        return Receipt.model_validate(erasure.verify(receipt=body.receipt, client=problems.client()))
    except ValidationError:
        raise InvalidToken from None


@operations.add("POST", "/v1/feedback", runs="loop", tag="Feedback", status=HTTPStatus.CREATED, session="optional",
                body=Message, answer=Stored, headers=("Idempotency-Key",), problems=(TooManyRequests,))  # fmt: skip
def send_feedback(viewer: Viewer | None, body: Message) -> Stored:
    """Send feedback, signed in or not.

    With an `Idempotency-Key` the same message sent again is stored once, and answered the same.
    """
    key = problems.idempotency_key()
    return Stored.model_validate(feedback.submit(viewer, message=body.message, key=key, client=problems.client()))


@operations.add("GET", "/v1/policy", tag="Policy", answer=PolicyInForce, problems=(NotFound,))
def show_policy() -> PolicyInForce:
    """Show which version of the privacy policy is in force; not-found before the first."""
    found = policy.current()
    if found is None:
        raise NotFound
    url = f"{settings().public_url}/privacy"
    return PolicyInForce(version=found.version, effective_on=found.effective_on, sha256=found.sha256, url=url)


@operations.add("GET", "/healthz", runs="loop", tag="Operation", answer=Health)
def healthz() -> Health:
    """Tell that the process is up."""
    return Health()


@operations.add("GET", "/readyz", tag="Operation", answer=Readiness)
def readyz() -> Readiness:
    """Tell whether the service is able to serve.

    The database answers, its schema is this release's or a later one's, it knows a key of this process, SQLite's disk
    has room and takes writes, no mail has waited untried for an hour, and nothing keeps every mail from leaving.
    """
    if not is_current():
        raise Overloaded("The database schema is older than this release's: run `tiles db upgrade`.",
                         retry_after=READY_RETRY_SECONDS)  # fmt: skip
    if keys.are_others():
        raise Overloaded("The database knows none of this process's keys, but others: run `tiles check`.",
                         retry_after=READY_RETRY_SECONDS)  # fmt: skip
    if not has_room():
        raise Overloaded("The disk is full: make room beside the database.", retry_after=READY_RETRY_SECONDS)
    if is_read_only():
        raise Overloaded("The database's file system is read-only, or its file is: run `tiles check`.",
                         retry_after=READY_RETRY_SECONDS)  # fmt: skip
    if queue.blocked():
        raise Overloaded("No mail leaves: `tiles check` says why.", retry_after=READY_RETRY_SECONDS)
    # How long a mail waits is not said: it would tell whose address has an account.
    if queue.status().oldest_seconds > OLDEST_MAIL_SECONDS:
        raise Overloaded("Mails have been waiting for over an hour.", retry_after=READY_RETRY_SECONDS)
    return Readiness()


@operations.add(
    "GET", "/metrics", tag="Operation", media_type=CONTENT_TYPE_LATEST, problems=(NotFound, Unauthenticated)
)
def show_metrics() -> bytes:
    """Tell Prometheus what was done: requests by route and status, the hasher's line, mails and erasures.

    Only with TILES_METRICS_TOKEN as bearer token or, where none is set, from this machine itself and past no proxy.
    """
    problems.require_operator()
    return metrics.exposition()


@door.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """Answer with the OpenAPI 3.1 document."""
    return current_app.json.response(operations.document)
