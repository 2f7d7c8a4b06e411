"""The types of the JSON contract: what operations take and answer, and how their fields are cleaned."""

import uuid
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from backend.accounts import feedback
from backend.accounts.fields import clean_email, clean_name
from backend.accounts.sessions import SignedIn
from backend.database.engine import AnyRow
from backend.database.models import EMAIL_LENGTH, NAME_LENGTH
from backend.privacy import policy
from backend.security.password_rules import MAXIMUM, clean_password
from backend.web.bodies import Body

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
# A version that could not have been published is not looked up: PostgreSQL takes no NUL.
Version = Annotated[str, Field(pattern=f"^{policy.VERSION.pattern}$")]


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


class AccountChange(Body):
    """What shall be another; what is not named stays. A name of null is removed."""

    name: Name | None = None
    email_updates: bool = False
    accepted_policy: Version = ""


class EmailChange(Body):
    """The address that shall take the place of the present one, and the password again."""

    email: Email
    password: Password


class MailedToken(Body):
    """A mailed token."""

    token: Token


class Closing(Body):
    """The password again, and whether everything is to be erased."""

    password: Password
    erase: bool = False


class SignedReceipt(Body):
    """The receipt from the mail that confirmed an erasure."""

    receipt: Token


class Message(Body):
    """What somebody wants to tell us."""

    message: Annotated[
        str,
        AfterValidator(feedback.clean_message),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": feedback.MESSAGE_LENGTH}),
    ]


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
        return cls(
            name=row.name,
            email=row.email,
            email_updates=row.email_updates,
            created_at=row.created_at,
            policy=Policy(accepted=row.accepted_policy, current=row.current_policy),
        )


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


class Stored(Answer):
    """That the message was stored, under which id and when."""

    id: uuid.UUID
    received_at: AwareDatetime


class Closed(Answer):
    """When the account was closed, and from when on it is erased; null: not before somebody asks for it."""

    closed_at: AwareDatetime
    erase_after: AwareDatetime | None


class ExportedTable(Answer):
    """What one table holds about the account: every column of every row, and what each column is for."""

    table: str
    purpose: str
    columns: dict[str, str]
    rows: list[dict[str, JsonValue]]


class Export(Answer):
    """Everything that is held about the account."""

    exported_at: AwareDatetime
    stored: list[ExportedTable]


class Removed(Answer):
    """How many rows of a store were removed."""

    store: str
    rows: int


class Kept(Removed):
    """How many rows of a store were kept, and on which legal basis."""

    basis: str


class Receipt(Answer):
    """What was erased and what was kept; `account` is a random number. `requested_at` is null when nobody asked."""

    account: uuid.UUID
    requested_at: AwareDatetime | None
    erased_at: AwareDatetime
    removed: list[Removed]
    kept: list[Kept]


class PolicyInForce(Answer):
    """A version of the privacy policy; `sha256` is that of its text in UTF-8."""

    version: str
    effective_on: date
    sha256: str
    url: str


class Health(Answer):
    """The process is up."""

    status: Literal["up"] = "up"


class Readiness(Answer):
    """The service is able to serve."""

    status: Literal["ready"] = "ready"
