"""Register, authenticate, change settings: what a person does with an account day by day."""

import unicodedata
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from email_validator import EmailNotValidError, validate_email
from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.orm import aliased

from backend import audit, clock, mail, sessions, tokens
from backend.config import settings
from backend.db import AnyRow, changed, db, insert_unless_taken, lock, reading, transaction
from backend.errors import (
    EmailInUse,
    FieldError,
    InvalidRequest,
    InvalidToken,
    Overloaded,
    Unauthenticated,
    WeakPassword,
    WrongCredentials,
    WrongPassword,
)
from backend.hashing import hasher
from backend.models import EMAIL_LENGTH, NAME_LENGTH, Account, Policy, PreviousAddress
from backend.sessions import Viewer, account_columns
from backend.strength import weaknesses
from backend.throttle import throttle
from backend.tokens import Purpose

# Letters and symbols by their category that show nothing: Hangul fillers, blank Braille.
BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# They reorder what follows them on the screen, so that a name could pass for other text (UAX 9 section 2).
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


# What an account that is not closed has in these columns.
OPEN: dict[str, Any] = {"closed_at": None, "erasure_requested_at": None, "erase_after": None}


def clean_name(name: str) -> str:
    """Return a name as it is stored: trimmed and in NFC.

    Raises:
        ValueError: nothing of it can be seen, it is too long, or has characters that control how text is shown.
    """
    # Composing takes the square of the length, and puts at most four characters into one.
    name = unicodedata.normalize("NFC", name.strip()[: 4 * NAME_LENGTH + 1])
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in BIDI_CONTROLS for c in name):
        msg = "write a name without line breaks and other control characters"
        raise ValueError(msg)
    if len(name) > NAME_LENGTH or not any(map(_is_visible, name)):
        msg = f"write a name of 1 to {NAME_LENGTH} characters"
        raise ValueError(msg)
    return name


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS" and character not in BLANK


def clean_email(email: str) -> str:
    """Return an address as it is stored, its domain in lower case and Unicode.

    The part before the @ is ASCII, so that two addresses which differ never compare as equal.

    Raises:
        ValueError: it is no address that mail can be sent to.
    """
    try:
        found = validate_email(
            email[: 2 * EMAIL_LENGTH],
            check_deliverability=False,
            test_environment=True,
            allow_smtputf8=False,
            strict=True,
        )
    except EmailNotValidError:
        msg = "write an email address, such as ada@example.org"
        raise ValueError(msg) from None
    if len(found.normalized) > EMAIL_LENGTH:
        msg = f"write an email address of at most {EMAIL_LENGTH} characters"
        raise ValueError(msg)
    return found.normalized


def new_password_hash(password: str, *, name: str | None, email: str, pointer: str = "/password") -> str:
    """Return the hash of a password that is not easy to guess.

    Raises:
        WeakPassword: it is, for each of the reasons.
        Overloaded: the hasher's line is full.
    """
    reasons = weaknesses(password, minimum=settings().password_min_length, name=name, email=email)
    if reasons:
        raise WeakPassword(errors=[FieldError(pointer, reason) for reason in reasons])
    return hasher().hash(password)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, and the session that came of it."""

    account: AnyRow
    session: sessions.NewSession


def request_registration(*, name: str, email: str, client: str | None) -> None:
    """Have a link mailed with which the registration can be finished; nothing is known of anybody yet."""
    throttle().charge("registration", client=client, address=email.lower())
    with transaction():
        mail.enqueue("registration", name=name, email=email)


def confirm_registration(*, token: str, password: str, client: str | None) -> None:
    """Make the account that a mailed link stands for.

    Raises:
        InvalidToken: the link does not work, or worked before.
        EmailInUse: the address got an account by another link meanwhile.
        WeakPassword: the link stays good for another try.
    """
    new = _redeem_registration(token, password, client)
    with transaction():
        _create(new)


def confirm_registration_and_sign_in(*, token: str, password: str, client: str | None) -> SignedIn:
    """Make the account that a mailed link stands for, and its first session; raises what the above raises."""
    new = _redeem_registration(token, password, client)
    with transaction():
        account = _create(new)
        opened = sessions.begin(account, new["created_at"])
    if opened is None:
        raise InvalidToken
    return SignedIn(account, opened)


def _redeem_registration(token: str, password: str, client: str | None) -> dict[str, Any]:
    throttle().charge("token", client=client)
    content = tokens.redeem(Purpose.REGISTRATION, token)
    name, email = content["name"], str(content["email"])
    new = {"id": uuid.UUID(content["account"]), "name": name, "email": email}
    with reading():
        _refuse_taken(new)
    return new | {
        "password_hash": new_password_hash(password, name=name, email=email),
        "credentials_id": uuid.uuid4(),
        "email_updates": True,
        "created_at": clock.now(),
    }


def _create(new: dict[str, Any]) -> AnyRow:
    lock_address(new["email"])
    # An erased account left its id in the audit: the link that made it makes no second one.
    if audit.is_erased(new["id"]):
        raise InvalidToken
    # Of many that come together with one token, or for one address, the unique values let one in.
    account = db.session.execute(insert_unless_taken(Account).values(**new).returning(*account_columns())).one_or_none()
    if account is None:
        _refuse_taken(new)
        raise InvalidToken
    return account


def _refuse_taken(new: dict[str, Any]) -> None:
    """Say why no account can be made: the link was used, or the address has one by another link."""
    # In one statement: between two, the account could come to be and seem to be somebody else's.
    taken = select(Account.id).where((Account.id == new["id"]) | Account.is_open_with(new["email"]))
    found = db.session.scalars(taken).all()
    if new["id"] in found:
        raise InvalidToken
    if found:
        raise EmailInUse


def authenticate(*, email: str, password: str, client: str | None) -> SignedIn:
    """Sign in: the same look-up and the same hash work whether or not the account exists.

    Raises:
        WrongCredentials: whatever the reason.
    """
    address = email.lower()
    throttle().charge("sign-in", client=client, address=address, service="all")
    throttle().check("sign-in-failures", address=address)
    with reading() as session:
        account = session.execute(select(*account_columns()).where(Account.is_open_with(email))).one_or_none()
    right = hasher().verify(account.password_hash if account else None, password)
    if account is None or not right:
        throttle().charge("sign-in-failures", address=address)
        raise WrongCredentials
    fresh = _renewed_hash(account, password)
    with transaction() as session:
        opened = sessions.begin(account, clock.now())
        mine = (Account.id == account.id) & (Account.credentials_id == account.credentials_id)
        if fresh:
            session.execute(update(Account).where(mine).values(password_hash=fresh))
    if opened is None:
        raise WrongCredentials
    throttle().clear("sign-in-failures", address=address)
    return SignedIn(account, opened)


def _renewed_hash(account: AnyRow, password: str) -> str | None:
    """Return a hash with the parameters of now where the account's has others; it waits while the line is full."""
    with suppress(Overloaded):
        return hasher().hash(password) if hasher().is_outdated(account.password_hash) else None
    return None


def ask_password_again(viewer: Viewer, password: str) -> AnyRow:
    """Return the viewer's account to somebody who knows its password.

    Raises:
        WrongPassword: it is another; or an old address took the account back, and whoever had stolen it knows this one.
    """
    account = viewer.account
    throttle().charge("password", account=str(account.id))
    if not hasher().verify(account.password_hash, password):
        raise WrongPassword
    if account.taken_back_at:
        raise WrongPassword("The account was taken back: choose a new password first, with the link that was mailed.")
    return account


def redeem_for(purpose: Purpose, token: str) -> tuple[AnyRow, dict[str, Any]]:
    """Return the account that a token is about, if its state is still the one that the token is bound to.

    Whoever acts on it makes the change conditional on that state, by `is_as(account)`.

    Raises:
        InvalidToken: the link does not work, or worked before.
    """
    content = tokens.redeem(purpose, token)
    with reading() as session:
        account = session.execute(
            select(*account_columns()).where(Account.id == uuid.UUID(content["account"]))
        ).one_or_none()
    if account is None or tokens.state(purpose, account) != content["state"]:
        raise InvalidToken
    return account, content


def lock_address(email: str) -> None:
    """Let nobody else take an address, or close accounts that have it, until the caller's transaction ends."""
    lock(f"address {email.lower()}")


def is_as(account: AnyRow) -> ColumnElement[bool]:
    """Return the condition that an account is still as it was read, and that its erasure has not begun."""
    return and_(
        Account.id == account.id,
        Account.email == account.email,
        Account.credentials_id == account.credentials_id,
        Account.closed_at.is_not(None) if account.closed_at else Account.closed_at.is_(None),
        Account.erasing_since.is_(None),
    )


def take_address(account: AnyRow, email: str, **values: Any) -> None:
    """In the caller's transaction: let an account as it was read be the open one with an address.

    Raises:
        InvalidToken: the account has changed since, by whatever.
        EmailInUse: another open account has the address.
    """
    lock_address(email)
    other = aliased(Account)
    taken = select(other.id).where(other.is_open_with(email), other.id != account.id).exists()
    if not changed(update(Account).where(is_as(account), ~taken).values(email=email, **values)):
        raise EmailInUse if db.session.scalar(select(taken).where(is_as(account))) else InvalidToken


def tell_previous_addresses(account_id: uuid.UUID) -> None:
    """In the caller's transaction: give each address that may take the account back a new link to do so.

    What has ended every older link ended theirs too. Without this, whoever stole an account by changing its address
    could keep it by changing the password next, or by closing it.
    """
    mine = (PreviousAddress.account_id == account_id) & PreviousAddress.may_take_back(clock.now())
    for previous in db.session.scalars(select(PreviousAddress.id).where(mine)).all():
        mail.enqueue("email_changed", account_id=account_id, about=previous)


def unsubscribe(*, token: str, client: str | None) -> None:
    """Stop mails about TILES to whoever a mail's link was sent to; again and again, it stays done.

    Raises:
        InvalidToken: it is not the link of one of our mails.
    """
    try:
        account_id = uuid.UUID(tokens.redeem(Purpose.UNSUBSCRIBE, token)["account"])
    except InvalidToken:
        # Only what was made up is limited: a mail provider unsubscribes all its people from a few machines.
        throttle().charge("token", client=client)
        raise
    with transaction():
        changed(update(Account).where(Account.id == account_id, Account.email_updates).values(email_updates=False))


def forget_previous_addresses() -> None:
    """Forget the addresses that can no longer take an account back."""
    with transaction() as session:
        session.execute(delete(PreviousAddress).where(~PreviousAddress.may_take_back(clock.now())))


def change(viewer: Viewer, **changes: str | bool | None) -> AnyRow:
    """Change the name (None removes it), the wish for mails, or the accepted policy; return the account.

    Raises:
        InvalidRequest: no policy with this version was published.
        Unauthenticated: the account was closed meanwhile.
    """
    accepted = changes.get("accepted_policy")
    with transaction() as session:
        if accepted and not session.scalar(select(Policy.version).where(Policy.version == accepted)):
            raise InvalidRequest(errors=[FieldError("/accepted_policy", "name a version that was published")])
        mine = (Account.id == viewer.account.id) & Account.closed_at.is_(None)
        if changes and not changed(update(Account).where(mine).values(**changes)):
            raise Unauthenticated
        account = session.execute(select(*account_columns()).where(mine)).one_or_none()
    if account is None:
        raise Unauthenticated
    return account
