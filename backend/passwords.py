"""Reset a forgotten password, change a known one; both end everything older."""

import uuid

from sqlalchemy import delete, select, update

from backend import mail, tokens
from backend.accounts import new_password_hash
from backend.db import AnyRow, changed, reading, transaction
from backend.errors import InvalidToken, Unauthenticated, WrongPassword
from backend.hashing import hasher
from backend.models import Account, Session
from backend.sessions import Viewer
from backend.throttle import throttle
from backend.tokens import Purpose


def request_reset(*, email: str, client: str | None) -> None:
    """Have a link mailed with which the password can be replaced, if the address has an account.

    Whether it has one is looked up when the mail is sent, not here.
    """
    throttle().charge("password-reset", client=client, address=email.lower())
    with transaction():
        mail.enqueue("password_reset", email=email)


def reset(*, token: str, password: str, client: str | None) -> None:
    """Replace the password that a mailed link stands for; every session and every older link ends.

    Raises:
        InvalidToken: the link does not work, or worked before.
        WeakPassword: the link stays good for another try.
    """
    throttle().charge("token", client=client)
    account = _bound_account(Purpose.PASSWORD_RESET, token)
    password_hash = new_password_hash(password, name=account.name, email=account.email)
    with transaction() as session:
        if not _replace_password(account, password_hash):
            raise InvalidToken
        session.execute(delete(Session).where(Session.account_id == account.id))
        mail.enqueue("password_changed", account_id=account.id)
    throttle().clear("sign-in-failures", address=account.email.lower())


def change(viewer: Viewer, *, current_password: str, new_password: str) -> None:
    """Replace the password of somebody who knows it; every other session and every mailed link ends.

    Raises:
        WrongPassword: the current one is another.
        WeakPassword: the new one is easy to guess.
    """
    account = viewer.account
    throttle().charge("password", account=str(account.id))
    if not hasher().verify(account.password_hash, current_password):
        raise WrongPassword
    password_hash = new_password_hash(new_password, name=account.name, email=account.email, pointer="/new_password")
    with transaction() as session:
        credentials_id = _replace_password(account, password_hash)
        if not credentials_id:
            raise Unauthenticated
        mine = Session.id == viewer.session_id
        session.execute(update(Session).where(mine).values(credentials_id=credentials_id))
        session.execute(delete(Session).where(Session.account_id == account.id, ~mine))
        mail.enqueue("password_changed", account_id=account.id)


def _bound_account(purpose: Purpose, token: str) -> AnyRow:
    """Return the account that a token is about, if its state is still the one that the token is bound to."""
    content = tokens.redeem(purpose, token)
    columns = (Account.id, Account.name, Account.email, Account.closed_at, Account.credentials_id)
    with reading() as session:
        account = session.execute(select(*columns).where(Account.id == uuid.UUID(content["account"]))).one_or_none()
    if account is None or tokens.state(purpose, account) != content["state"]:
        raise InvalidToken
    return account


def _replace_password(account: AnyRow, password_hash: str) -> uuid.UUID | None:
    """Replace the password of an account as it was read; None when it has changed since, by whatever."""
    credentials_id = uuid.uuid4()
    replaced = changed(
        update(Account)
        .where(
            Account.id == account.id,
            Account.email == account.email,
            Account.credentials_id == account.credentials_id,
            Account.closed_at.is_(None),
        )
        .values(password_hash=password_hash, credentials_id=credentials_id)
    )
    return credentials_id if replaced else None
