"""The types of the JSON contract: requests, with the rules of their fields, and the responses that no feature has."""

import uuid
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from backend.accounts import feedback, sessions
from backend.accounts.fields import clean_email, clean_name
from backend.clock import Moment
from backend.database.engine import AnyRow
from backend.database.models import EMAIL_LENGTH, NAME_LENGTH
from backend.errors import FieldError, problems
from backend.privacy import policy
from backend.security.password_rules import MAXIMUM, clean_password
from backend.security.tokens import LIFETIMES, Purpose
from backend.web.bodies import Body


def _text(maximum: int, **schema: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **schema, "maxLength": maximum})


def _without_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        field.pop("default", None)


Name = Annotated[str, AfterValidator(clean_name), _text(NAME_LENGTH, minLength=1)]
Email = Annotated[str, AfterValidator(clean_email), _text(EMAIL_LENGTH, format="email")]
Password = Annotated[str, AfterValidator(clean_password), _text(MAXIMUM, minLength=1)]
Text = Annotated[str, AfterValidator(feedback.clean_message), _text(feedback.MESSAGE_LENGTH, minLength=1)]
Token = Annotated[str, Field(min_length=1)]
# Other texts are not looked up, because PostgreSQL fails on NUL.
Version = Annotated[str, Field(pattern=f"^{policy.VERSION.pattern}$")]


class RegistrationRequest(Body):
    """The name and the email address of a new account."""

    name: Name
    email: Email


class PasswordResetRequest(Body):
    """The email address of the account."""

    email: Email


class ErasureRequest(PasswordResetRequest):
    """The email address of the account."""


class PasswordResetConfirmation(Body):
    """An emailed token and the password to set with it."""

    token: Token
    password: Password


class RegistrationConfirmation(PasswordResetConfirmation):
    """An emailed token, the password of the new account, and the policy version that the person accepted."""

    # Generators require a field with a default, or send it.
    model_config = ConfigDict(json_schema_extra=_without_defaults)

    accepted_policy: Version | None = None


class SignInRequest(Body):
    """An email address and its account's password."""

    email: Email
    password: Password


class PasswordChangeRequest(Body):
    """The current password and the new one."""

    current_password: Password
    new_password: Password


class AccountUpdate(Body):
    """The fields to change; an absent field stays as it is. A name of null is removed."""

    # Generated clients send the default.
    model_config = ConfigDict(json_schema_extra=_without_defaults)

    name: Name | None = None
    email_updates: bool = False
    accepted_policy: Version = ""


class EmailChangeRequest(Body):
    """The new email address, and the password again."""

    email: Email
    password: Password


class TokenRequest(Body):
    """An emailed token."""

    token: Token


class AccountClosureRequest(Body):
    """The password again, and whether to erase everything."""

    password: Password
    erase: bool = False


class ReceiptVerificationRequest(Body):
    """The receipt from the email that confirmed an erasure."""

    receipt: Token


class FeedbackRequest(Body):
    """A message to us."""

    message: Text


class LinkRequested(BaseModel):
    """The request was accepted; an email with a link follows."""

    link_valid_for_seconds: int

    @classmethod
    def to(cls, purpose: Purpose) -> "LinkRequested":
        """Return how long the link will work, whether or not there is an account."""
        return cls(link_valid_for_seconds=int(LIFETIMES[purpose].total_seconds()))


class PolicyStatus(BaseModel):
    """The version of the privacy policy that the person accepted, and the one in force."""

    accepted: str | None
    current: str | None


class AccountDetails(BaseModel):
    """Everything that the service knows about a person."""

    name: str | None
    email: str
    email_updates: bool
    created_at: Moment
    policy: PolicyStatus

    @classmethod
    def of(cls, row: AnyRow) -> "AccountDetails":
        """Return the account of a row."""
        return cls(
            name=row.name,
            email=row.email,
            email_updates=row.email_updates,
            created_at=row.created_at,
            policy=PolicyStatus(accepted=row.accepted_policy, current=row.current_policy),
        )


class SignedIn(BaseModel):
    """The account that signed in, and its new session."""

    account: AccountDetails
    session: sessions.NewSession

    @classmethod
    def of(cls, signed_in: sessions.SignedIn) -> "SignedIn":
        """Return the response to a sign-in."""
        return cls(account=AccountDetails.of(signed_in.account), session=signed_in.session)


class SessionList(BaseModel):
    """The valid sessions, newest first."""

    sessions: list[sessions.SessionEntry]


class RemovedRows(BaseModel):
    """How many rows of a store were removed."""

    store: str
    rows: int


class KeptRows(RemovedRows):
    """How many rows of a store were kept, and on which legal basis."""

    basis: str


class ErasureReceipt(BaseModel):
    """What was erased and what was kept; `account` is a random number. `requested_at` is null if nobody asked."""

    account: uuid.UUID
    requested_at: Moment | None
    erased_at: Moment
    removed: list[RemovedRows]
    kept: list[KeptRows]


class PolicyVersion(BaseModel):
    """A version of the privacy policy; `sha256` is the hash of its text in UTF-8."""

    version: str
    effective_on: date
    sha256: str
    url: str


class Problem(BaseModel):
    """A problem document (RFC 9457). It never repeats the request."""

    type: str = Field(description="URL of a page that explains the problem")
    title: str
    status: int
    detail: str
    code: Literal[*problems()] = Field(description="stable; decide by this one")  # type: ignore[valid-type]
    request_id: str = Field(description="the name of the request in the service's log, as in X-Request-Id")
    errors: list[FieldError] = Field(description="what is wrong with which field; empty if with none")


class Health(BaseModel):
    """The process is up."""

    status: Literal["up"] = "up"


class Readiness(BaseModel):
    """The service is ready."""

    status: Literal["ready"] = "ready"
