"""Reset a forgotten password, change a known one; both end everything older."""

import uuid

from sqlalchemy import delete, update

from backend.accounts.credentials import (
    ask_password_again,
    is_as,
    new_password_hash,
    note_cost,
    note_proof,
    redeem_for,
    tell_previous_addresses,
)
from backend.accounts.sessions import Viewer
from backend.database.engine import AnyRow, changed, transaction
from backend.database.models import Account, Session
from backend.errors import InvalidToken, Unauthenticated
from backend.mail import mailboxes, queue
from backend.security.throttle import throttle
from backend.security.tokens import Purpose


def request_reset(*, email: str, client: str | None) -> None:
    """Have a link mailed with which the password can be replaced, if the address has an account.

    Whether it has one is looked up when the mail is sent, not here.
    """
    throttle().charge("password-reset", client=client, address=email)
    queue.accept("password_reset", email=email)


def reset(*, token: str, password: str, client: str | None) -> None:
    """Replace the password that a mailed link stands for; every session and every older link ends.

    Raises:
        InvalidToken: the link does not work, or worked before.
        WeakPassword: the link stays good for another try.
    """
    throttle().charge("token", client=client)
    account, _ = redeem_for(Purpose.PASSWORD_RESET, token)
    password_hash = new_password_hash(password, name=account.name, email=account.email)
    with transaction() as session:
        if not _replace_password(account, password_hash):
            raise InvalidToken
        session.execute(delete(Session).where(Session.account_id == account.id))
        note_proof(account.email, client)
    throttle().clear("sign-in", client=client, address=account.email)


def change(viewer: Viewer, *, current_password: str, new_password: str, client: str | None) -> None:
    """Replace the password of somebody who knows it; every other session and every mailed link ends.

    Raises:
        WrongPassword: the current one is another.
        WeakPassword: the new one is easy to guess.
    """
    account = ask_password_again(viewer, current_password, client)
    password_hash = new_password_hash(new_password, name=account.name, email=account.email, pointer="/new_password")
    with transaction() as session:
        credentials_id = _replace_password(account, password_hash)
        if not credentials_id:
            raise Unauthenticated
        mailboxes.give_back(account.email)
        mine = Session.id == viewer.session_id
        session.execute(update(Session).where(mine).values(credentials_id=credentials_id))
        session.execute(delete(Session).where(Session.account_id == account.id, ~mine))


def _replace_password(account: AnyRow, password_hash: str) -> uuid.UUID | None:
    """Replace the password of an account as it was read, and tell; None when it has changed since, by whatever."""
    credentials_id = uuid.uuid4()
    values = {"password_hash": password_hash, "credentials_id": credentials_id}
    if not changed(update(Account).where(is_as(account)).values(**values)):
        return None
    note_cost(password_hash)
    queue.enqueue("password_changed", account_id=account.id)
    tell_previous_addresses(account.id)
    return credentials_id
