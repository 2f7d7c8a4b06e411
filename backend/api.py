"""The JSON door: what each operation takes and answers. It parses, calls one function, answers."""

import uuid
from datetime import date
from http import HTTPStatus
from typing import Annotated, Literal

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, WithJsonSchema

from backend import accounts, mail, passwords, sessions, web
from backend.accounts import SignedIn, clean_email, clean_name
from backend.db import AnyRow, is_current
from backend.errors import (
    EmailInUse,
    InvalidToken,
    NotFound,
    Overloaded,
    TooManyRequests,
    WeakPassword,
    WrongCredentials,
    WrongPassword,
)
from backend.models import EMAIL_LENGTH, NAME_LENGTH
from backend.openapi import Operations
from backend.sessions import Viewer
from backend.strength import MAXIMUM, clean_password
from backend.web import Body

OLDEST_MAIL_SECONDS = 3600
READY_RETRY_SECONDS = 5

door = Blueprint("api", __name__)
operations = Operations(door)

Name = Annotated[
    str,
    AfterValidator(clean_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": NAME_LENGTH}),
]
Email = Annotated[
    str,
    AfterValidator(clean_email),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": EMAIL_LENGTH}),
]
Password = Annotated[
    str,
    AfterValidator(clean_password),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAXIMUM}),
]
Token = Annotated[str, Field(min_length=1)]


class Registration(Body):
    """Who wants an account."""

    name: Name
    email: Email


class Address(Body):
    """An email address."""

    email: Email


class NewPassword(Body):
    """A mailed token, and the password that it allows to choose."""

    token: Token
    password: Password


class Credentials(Body):
    """What somebody signs in with."""

    email: Email
    password: Password


class PasswordChange(Body):
    """The password as it is, and as it shall be."""

    current_password: Password
    new_password: Password


class Answer(BaseModel):
    """What the service answers."""

    model_config = ConfigDict(from_attributes=True)


class Accepted(Answer):
    """The request was taken; what comes of it comes by mail."""


class Policy(Answer):
    """Which version of the privacy policy the person accepted, and which is in force."""

    accepted: str | None
    current: str | None


class Account(Answer):
    """All that the service knows about a person."""

    name: str | None
    email: str
    email_updates: bool
    created_at: AwareDatetime
    policy: Policy

    @classmethod
    def of(cls, row: AnyRow) -> "Account":
        """Answer with an account as it was read."""
        policy = Policy(accepted=row.accepted_policy, current=None)
        return cls.model_validate({**row._asdict(), "policy": policy})


class Session(Answer):
    """A new session. Its token is shown here and never again."""

    token: str
    id: uuid.UUID
    expires_at: AwareDatetime


class AccountAndSession(Answer):
    """Who signed in, and the session that came of it."""

    account: Account
    session: Session

    @classmethod
    def of(cls, signed_in: SignedIn) -> "AccountAndSession":
        """Answer to somebody who signed in."""
        return cls(account=Account.of(signed_in.account), session=Session.model_validate(signed_in.session))


class ListedSession(Answer):
    """A session as its owner sees it."""

    id: uuid.UUID
    created_at: AwareDatetime
    last_used_on: date
    expires_at: AwareDatetime
    current: bool


class Sessions(Answer):
    """The sessions that are good now, the newest first."""

    sessions: list[ListedSession]


@operations.add("POST", "/v1/registrations", tag="Registering", status=HTTPStatus.ACCEPTED,
                body=Registration, answer=Accepted, problems=(TooManyRequests,))  # fmt: skip
def register(body: Registration) -> Accepted:
    """Ask for an account.

    A mail with a link follows, whether or not the address has an account already.
    """
    accounts.request_registration(name=body.name, email=body.email, client=web.client())
    return Accepted()


@operations.add("POST", "/v1/registrations/confirm", tag="Registering", status=HTTPStatus.CREATED,
                body=NewPassword, answer=AccountAndSession,
                problems=(InvalidToken, EmailInUse, WeakPassword, TooManyRequests))  # fmt: skip
def confirm_registration(body: NewPassword) -> AccountAndSession:
    """Make the account that a mailed link stands for, and sign in.

    The token is what follows the # in the link. It works once, for 24 hours.
    """
    signed_in = accounts.confirm_registration_and_sign_in(token=body.token, password=body.password, client=web.client())
    return AccountAndSession.of(signed_in)


@operations.add("POST", "/v1/password-resets", tag="Passwords", status=HTTPStatus.ACCEPTED,
                body=Address, answer=Accepted, problems=(TooManyRequests,))  # fmt: skip
def request_password_reset(body: Address) -> Accepted:
    """Ask for a link with which a forgotten password can be replaced.

    A mail follows if the address has an account. The answer is the same if it has none.
    """
    passwords.request_reset(email=body.email, client=web.client())
    return Accepted()


@operations.add("POST", "/v1/password-resets/confirm", tag="Passwords", status=HTTPStatus.NO_CONTENT,
                body=NewPassword, problems=(InvalidToken, WeakPassword, TooManyRequests))  # fmt: skip
def confirm_password_reset(body: NewPassword) -> None:
    """Replace the password that a mailed link stands for.

    Every session and every older link of the account ends. The token works once, for an hour.
    """
    passwords.reset(token=body.token, password=body.password, client=web.client())


@operations.add("PUT", "/v1/account/password", tag="Passwords", status=HTTPStatus.NO_CONTENT, session=True,
                body=PasswordChange, problems=(WrongPassword, WeakPassword, TooManyRequests))  # fmt: skip
def change_password(viewer: Viewer, body: PasswordChange) -> None:
    """Replace a password that is known.

    Every other session and every mailed link of the account ends.
    """
    passwords.change(viewer, current_password=body.current_password, new_password=body.new_password)


@operations.add("POST", "/v1/sessions", tag="Sessions", status=HTTPStatus.CREATED,
                body=Credentials, answer=AccountAndSession,
                problems=(WrongCredentials, TooManyRequests))  # fmt: skip
def sign_in(body: Credentials) -> AccountAndSession:
    """Sign in with an address and a password."""
    signed_in = accounts.authenticate(email=body.email, password=body.password, client=web.client())
    return AccountAndSession.of(signed_in)


@operations.add("GET", "/v1/sessions", tag="Sessions", answer=Sessions, session=True)
def list_sessions(viewer: Viewer) -> Sessions:
    """List the account's sessions."""
    found = [ListedSession.model_validate(entry) for entry in sessions.listed(viewer)]
    return Sessions(sessions=found)


@operations.add("DELETE", "/v1/sessions/current", tag="Sessions", status=HTTPStatus.NO_CONTENT, session=True)
def sign_out(viewer: Viewer) -> None:
    """End this session."""
    sessions.end(viewer, viewer.session_id)


@operations.add("DELETE", "/v1/sessions/<uuid:id>", tag="Sessions", status=HTTPStatus.NO_CONTENT,
                session=True, problems=(NotFound,))  # fmt: skip
def end_session(viewer: Viewer, id: uuid.UUID) -> None:  # noqa: A002 - the contract's word
    """End one of the account's sessions."""
    sessions.end(viewer, id)


@operations.add("DELETE", "/v1/sessions", tag="Sessions", status=HTTPStatus.NO_CONTENT, session=True)
def end_all_sessions(viewer: Viewer) -> None:
    """End every session of the account, this one too."""
    sessions.end_all(viewer)


@operations.add("GET", "/v1/account", tag="Account", answer=Account, session=True)
def show_account(viewer: Viewer) -> Account:
    """Show all that is known about the person."""
    return Account.of(viewer.account)


class Health(Answer):
    """The process is up."""

    status: Literal["up"] = "up"


class Readiness(Answer):
    """The service is able to serve."""

    status: Literal["ready"] = "ready"


@operations.add("GET", "/healthz", tag="Operation", answer=Health)
def healthz() -> Health:
    """Tell that the process is up."""
    return Health()


@operations.add("GET", "/readyz", tag="Operation", answer=Readiness)
def readyz() -> Readiness:
    """Tell whether the service is able to serve.

    The database answers, its schema is this release's, and no mail has waited for an hour.
    """
    if not is_current():
        raise Overloaded("The database schema is not this release's: run `tiles db upgrade`.",
                         retry_after=READY_RETRY_SECONDS)  # fmt: skip
    # How long a mail waits is not said: it would tell whose address has an account.
    if mail.status().oldest_seconds > OLDEST_MAIL_SECONDS:
        raise Overloaded("Mails have been waiting for over an hour.", retry_after=READY_RETRY_SECONDS)
    return Readiness()


@door.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """Answer with the OpenAPI 3.1 document."""
    return current_app.json.response(operations.document)
