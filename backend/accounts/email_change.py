"""Change the email: requested with the password, confirmed from the new mailbox, undone from an old one."""

import uuid

from sqlalchemy import delete, select, update

from backend.accounts import closing, credentials, previous_addresses
from backend.accounts.password_hashes import note_cost
from backend.accounts.sessions import Viewer
from backend.database import export
from backend.database.engine import transaction
from backend.database.models import Account, Mail, Session
from backend.errors import Unauthenticated
from backend.mail import queue
from backend.security import throttle
from backend.security.hashing import hasher, unusable_hash
from backend.security.tokens import Purpose


def request(viewer: Viewer, *, email: str, password: str, client: str | None) -> None:
    """Email a link to the new address. Whether it has an account is looked up only once the mailbox is proven."""
    throttle.charge("email-change", account=str(viewer.account.id), address=email)
    account = credentials.check_current_password(viewer, password, client)
    with transaction() as session:
        if not session.scalar(select(Account.id).where(credentials.is_unchanged(account)).with_for_update(read=True)):
            raise Unauthenticated
        # The link is made later: a password that was changed before then ends the request.
        queue.enqueue("email_change", email=email, account_id=account.id, about=account.credentials_id)


def confirm(*, token: str, client: str | None) -> None:
    """Replace the email; the old address is emailed an undo link. Every other link ends, sessions go on."""
    account, content = credentials.redeem_for(Purpose.EMAIL_CHANGE, token, client)
    new, credentials_id = content["email"], uuid.uuid4()
    with transaction() as session:
        credentials.take_address(account, new, credentials_id=credentials_id)
        current = (Session.account_id == account.id) & (Session.credentials_id == account.credentials_id)
        session.execute(update(Session).where(current).values(credentials_id=credentials_id))
        previous_addresses.remember(account, new)
        credentials.note_mailbox_proven(new, client)
        previous_addresses.notify(account.id)
        session.execute(delete(Mail).where(export.is_mail_to([account])))


def undo(*, token: str, client: str | None) -> None:
    """Put an old address back, open the account if it was closed, and email a reset link to the address.

    The thief knew the password, so it opens nothing any more. Younger addresses lose their claim, older ones keep it.
    """
    account, content = credentials.redeem_for(Purpose.EMAIL_CHANGE_UNDO, token, client)
    previous = previous_addresses.find(account, content["change"])
    password_hash = unusable_hash(hasher().cost)
    values = {"password_hash": password_hash, "credentials_id": uuid.uuid4(), **closing.OPEN}
    with transaction() as session:
        credentials.take_address(account, previous.email, **values)
        note_cost(password_hash)
        previous_addresses.give_back(account, previous.changed_at)
        session.execute(delete(Session).where(Session.account_id == account.id))
        credentials.note_mailbox_proven(previous.email, client)
        queue.enqueue("password_reset", email=previous.email)
        previous_addresses.notify(account.id)
        session.execute(delete(Mail).where(export.is_mail_to([account])))
        if account.closed_at:
            closing.notify_reopened(account.id)
