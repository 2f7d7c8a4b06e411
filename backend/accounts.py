"""Register, authenticate, change settings: what a person does with an account day by day."""

import re
import unicodedata
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES
from sqlalchemy import bindparam, select, update

from backend import audit, clock, lockout, mail, sessions, tokens
from backend.credentials import lock_address, new_password_hash, note_cost, note_proof
from backend.db import AnyRow, changed, db, insert_unless_taken, reading, transaction
from backend.errors import (
    EmailInUse,
    FieldError,
    InvalidRequest,
    InvalidToken,
    Overloaded,
    Unauthenticated,
    WrongCredentials,
)
from backend.hashing import cost_of, hasher
from backend.models import EMAIL_LENGTH, NAME_LENGTH, Account, PasswordCost, Policy
from backend.sessions import TODAY, Viewer, account_columns
from backend.throttle import throttle
from backend.tokens import Purpose
from backend.unicode import normalized

# What most addresses are. The library takes twenty times as long over one, and finds it the same.
PLAIN = re.compile(
    r"(?P<local>(?=[^@]{1,64}@)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@(?P<domain>(?:(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"(?!..--)(?:[A-Za-z0-9][A-Za-z0-9-]{0,61})?[A-Za-z])"
)
# What stands between the labels of a domain (UTS 46 section 2.3), and how long each may be (RFC 1035 section 2.3.4).
DOTS = re.compile("[.\u3002\uff0e\uff61]")
LABEL_LENGTH = 63
# Names that are no domain of anybody; the library takes `test` where it is told that it is tested.
RESERVED = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES if name != "test")
# Letters and symbols by their category that show nothing: Hangul fillers, blank Braille.
BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# They reorder what follows them on the screen, so that a name could pass for other text (UAX 9 section 2).
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_name(name: str) -> str:
    """Return a name as it is stored: trimmed and in NFC.

    Raises:
        ValueError: nothing of it can be seen, it is too long, or has characters that control how text is shown.
    """
    composed = normalized("NFC", name.strip(), NAME_LENGTH) or ""
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in BIDI_CONTROLS for c in composed):
        msg = "write a name without line breaks and other control characters"
        raise ValueError(msg)
    if not any(map(_is_visible, composed)):
        msg = f"write a name of 1 to {NAME_LENGTH} characters"
        raise ValueError(msg)
    return composed


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS" and character not in BLANK


def clean_email(email: str) -> str:
    """Return an address as it is stored, its domain in lower case and Unicode.

    The part before the @ is ASCII, so that two addresses which differ never compare as equal.

    Raises:
        ValueError: it is no address that mail can be sent to.
    """
    if len(email) <= EMAIL_LENGTH and (plain := PLAIN.fullmatch(email)):
        local, domain = plain["local"], plain["domain"].lower()
        if local.lower() not in CASE_INSENSITIVE_MAILBOX_NAMES and not domain.endswith(RESERVED):
            return f"{local}@{domain}"
    return parsed_email(email)


def parsed_email(email: str) -> str:
    """Return an address as the library finds it to be written; raises what `clean_email` raises."""
    msg = "write an email address, such as ada@example.org"
    local, _, domain = email.rpartition("@")
    # The library's time grows with the square of the longest label, and it refuses one of this length in the end.
    labels = DOTS.split(normalized("NFC", domain, EMAIL_LENGTH) or "")
    if not 1 <= len(local) <= EMAIL_LENGTH or not local.isascii() or max(map(len, labels)) > LABEL_LENGTH:
        raise ValueError(msg)
    try:
        parsed = validate_email(
            email, check_deliverability=False, test_environment=True, allow_smtputf8=False, strict=True
        )
    except EmailNotValidError:
        raise ValueError(msg) from None
    if len(parsed.normalized) > EMAIL_LENGTH:
        msg = f"write an email address of at most {EMAIL_LENGTH} characters"
        raise ValueError(msg)
    return parsed.normalized


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, and the session that came of it."""

    account: AnyRow
    session: sessions.NewSession


def request_registration(*, name: str, email: str, client: str | None) -> None:
    """Have a link mailed with which the registration can be finished; nothing is known of anybody yet."""
    throttle().charge("registration", client=client, address=email)
    mail.accept("registration", name=name, email=email)


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
        note_proof(new["email"], client)


def confirm_registration_and_sign_in(*, token: str, password: str, client: str | None) -> SignedIn:
    """Make the account that a mailed link stands for, and its first session; raises what the above raises."""
    new = _redeem_registration(token, password, client)
    with transaction():
        account = _create(new)
        opened = sessions.begin(account, new["created_at"])
        note_proof(new["email"], client)
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
    note_cost(new["password_hash"])
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
        TooManyRequests: too many were wrong.
    """
    throttle().charge("sign-in", client=client, address=email, service="all")
    hasher().refuse_if_full()
    with lockout.guess(email, client):
        account, costs = _account_with(email)
        right = hasher().verify(account.password_hash if account else None, password, costs)
    if account is None or not right:
        raise WrongCredentials
    with transaction():
        opened = sessions.begin(account, clock.now())
    if opened is None:
        raise WrongCredentials
    lockout.clear(email)
    _renew_hash(account, password)
    return SignedIn(account, opened)


# What costs there are is asked first, so that an address of nobody has as many rows as any other.
_BY_EMAIL = select(PasswordCost.cost, *account_columns(TODAY)).outerjoin_from(
    PasswordCost, Account, Account.is_open_with(bindparam("email", type_=Account.email.type))
)


def _account_with(email: str) -> tuple[AnyRow | None, list[str]]:
    """Return the open account with an address, if there is one, and the costs that hashes have, whosever they are."""
    with reading() as session:
        rows = session.execute(_BY_EMAIL, {"email": email, "today": clock.now().date()}).all()
    account = rows[0] if rows and rows[0].id else None
    return account, [row.cost for row in rows]


def _renew_hash(account: AnyRow, password: str) -> None:
    """Store a hash with the parameters of now where the account's has others; it waits while the line is full."""
    if cost_of(account.password_hash) == hasher().cost:
        return
    with suppress(Overloaded):
        fresh = hasher().hash(password)
        mine = (Account.id == account.id) & (Account.credentials_id == account.credentials_id)
        with transaction() as session:
            session.execute(update(Account).where(mine).values(password_hash=fresh))
            note_cost(fresh)


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


def change(viewer: Viewer, **changes: str | bool | None) -> AnyRow:
    """Change the name (None removes it), the wish for mails, or the accepted policy; return the account.

    Raises:
        InvalidRequest: no policy with this version was published.
        Unauthenticated: the account was closed meanwhile.
    """
    accepted = changes.get("accepted_policy")
    with transaction() as session:
        published = select(Policy.version).where(Policy.version == accepted, Policy.withdrawn_at.is_(None))
        if accepted and not session.scalar(published):
            raise InvalidRequest(errors=[FieldError("/accepted_policy", "name a version that was published")])
        mine = (Account.id == viewer.account.id) & Account.closed_at.is_(None)
        if changes and not changed(update(Account).where(mine).values(**changes)):
            raise Unauthenticated
        account = session.execute(select(*account_columns()).where(mine)).one_or_none()
    if account is None:
        raise Unauthenticated
    return account
