"""Registration: a name and an address travel in the mailed link; the account is created when the link is used."""

import uuid
from typing import Any

from sqlalchemy import select

from backend import clock
from backend.accounts import audit, sessions
from backend.accounts.credentials import lock_address, new_password_hash, note_cost, note_proof
from backend.accounts.sessions import SignedIn, account_columns
from backend.database.engine import AnyRow, db, insert_unless_taken, reading, transaction
from backend.database.models import Account
from backend.errors import EmailInUse, InvalidToken
from backend.mail import queue
from backend.security import tokens
from backend.security.throttle import throttle
from backend.security.tokens import Purpose


def request_registration(*, name: str, email: str, client: str | None) -> None:
    """Have a link mailed with which the registration can be finished; nothing is known of anybody yet."""
    throttle().charge("registration", client=client, address=email)
    queue.accept("registration", name=name, email=email)


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
