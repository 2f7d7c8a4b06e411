"""Registration: name and email travel in the emailed link; the account is created when the link is used."""

import uuid
from typing import Any

from sqlalchemy import select

from backend import clock
from backend.accounts import audit, credentials, profile, sessions
from backend.accounts.password_hashes import new_hash, note_cost
from backend.accounts.sessions import SignedIn, account_columns
from backend.database.engine import AnyRow, db, insert_unless_taken, reading, transaction
from backend.database.models import Account
from backend.errors import EmailInUse, InvalidToken
from backend.mail import queue
from backend.security import throttle, tokens
from backend.security.tokens import Purpose


def request(*, name: str, email: str, client: str | None) -> None:
    """Email a link that finishes the registration; until then nothing is stored about the person."""
    throttle.charge("registration", client=client, address=email)
    queue.accept("registration", name=name, email=email)


def request_again(*, token: str, email: str, client: str | None) -> None:
    """Email another link in place of an expired one, whose token holds the name."""
    throttle.charge("token", client=client)
    content, _ = tokens.read(Purpose.REGISTRATION, token)
    request(name=content["name"], email=email, client=client)


def confirm(*, token: str, password: str, accepted_policy: str | None = None, client: str | None) -> None:
    """Create the account of an emailed link, with the accepted policy version."""
    values = _redeem(token, password, client) | {"accepted_policy": accepted_policy}
    with transaction():
        _create(values, client)


def confirm_and_sign_in(
    *, token: str, password: str, accepted_policy: str | None = None, client: str | None
) -> SignedIn:
    """Create the account of an emailed link, with the accepted policy version, and its first session."""
    values = _redeem(token, password, client) | {"accepted_policy": accepted_policy}
    with transaction():
        account = _create(values, client)
        session = sessions.begin(account, account.created_at)
        assert session  # nobody changes the account before this transaction ends
    return SignedIn(account, session)


def _redeem(token: str, password: str, client: str | None) -> dict[str, Any]:
    """Return the columns of the account to be created."""
    throttle.charge("token", client=client)
    content = tokens.redeem(Purpose.REGISTRATION, token)
    account_id, name, email = uuid.UUID(content["account"]), content["name"], content["email"]
    with reading():
        refuse_taken(account_id, email)
    return {
        "id": account_id,
        "name": name,
        "email": email,
        "password_hash": new_hash(password, name=name, email=email),
        "credentials_id": uuid.uuid4(),
        "email_updates": True,
        "created_at": clock.now(),
    }


def _create(values: dict[str, Any], client: str | None) -> AnyRow:
    profile.refuse_unpublished(values.get("accepted_policy"))
    credentials.lock_address(values["email"])
    # The audit trail keeps the id of an erased account, so its registration link creates no second one.
    if audit.is_erased(values["id"]):
        raise InvalidToken
    # The unique id and address let one of many simultaneous requests in.
    insertion = insert_unless_taken(Account).values(**values).returning(*account_columns())
    account = db.session.execute(insertion).one_or_none()
    if account is None:
        refuse_taken(values["id"], values["email"])
        raise InvalidToken
    note_cost(values["password_hash"])
    credentials.note_mailbox_proven(values["email"], client)
    return account


def refuse_taken(account_id: uuid.UUID, email: str) -> None:
    """Raise InvalidToken if the link was used, EmailInUse if the address has another account."""
    # In one statement: between two, this link's own account could be created and look like another's.
    ids = db.session.scalars(select(Account.id).where((Account.id == account_id) | Account.is_open_with(email))).all()
    if account_id in ids:
        raise InvalidToken
    if ids:
        raise EmailInUse
