"""Reset a forgotten password, or change a known one; both end everything older."""

import uuid

from sqlalchemy import delete, update

from backend.accounts import credentials, previous_addresses
from backend.accounts.password_hashes import new_hash, note_cost
from backend.accounts.sessions import Viewer
from backend.database.engine import AnyRow, changed, transaction
from backend.database.models import Account, Session
from backend.errors import InvalidToken, Unauthenticated
from backend.mail import mailboxes, queue
from backend.security import throttle
from backend.security.tokens import Purpose


def request_reset(*, email: str, client: str | None) -> None:
    """Email a reset link if the address has an account, which only the mail worker looks up."""
    throttle.charge("password-reset", client=client, address=email)
    queue.accept("password_reset", email=email)


def reset(*, token: str, password: str, client: str | None) -> None:
    """Replace the password of an emailed link's account; every session and every older link ends."""
    account, _ = credentials.redeem_for(Purpose.PASSWORD_RESET, token, client)
    password_hash = new_hash(password, name=account.name, email=account.email)
    with transaction() as session:
        if not _replace_password(account, password_hash):
            raise InvalidToken
        session.execute(delete(Session).where(Session.account_id == account.id))
        credentials.note_mailbox_proven(account.email, client)
    throttle.clear("sign-in", client=client, address=account.email)


def change(viewer: Viewer, *, current_password: str, new_password: str, client: str | None) -> None:
    """Replace the viewer's password; every other session and every emailed link ends."""
    account = credentials.check_current_password(viewer, current_password, client)
    password_hash = new_hash(new_password, name=account.name, email=account.email, pointer="/new_password")
    with transaction() as session:
        credentials_id = _replace_password(account, password_hash)
        if not credentials_id:
            raise Unauthenticated
        mailboxes.give_back(account.email)
        this_one = Session.id == viewer.session_id
        session.execute(update(Session).where(this_one).values(credentials_id=credentials_id))
        session.execute(delete(Session).where(Session.account_id == account.id, ~this_one))


def _replace_password(account: AnyRow, password_hash: str) -> uuid.UUID | None:
    """Store the hash and email a notice; return the new credentials_id, None if the account has changed."""
    credentials_id = uuid.uuid4()
    values = {"password_hash": password_hash, "credentials_id": credentials_id}
    if not changed(update(Account).where(credentials.is_unchanged(account)).values(**values)):
        return None
    note_cost(password_hash)
    queue.enqueue("password_changed", account_id=account.id)
    previous_addresses.notify(account.id)
    return credentials_id
