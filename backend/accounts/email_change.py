"""Change the email: requested with the password, confirmed from the new mailbox, undone from an old one."""

import uuid
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update

from backend import clock
from backend.accounts import credentials
from backend.accounts.sessions import Viewer
from backend.database import export
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.models import Account, Mail, PreviousAddress, Session
from backend.errors import InvalidToken, Unauthenticated
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
        _remember_previous(account, new)
        credentials.note_mailbox_proven(new, client)
        credentials.notify_previous_addresses(account.id)
        session.execute(delete(Mail).where(export.is_mail_to([account])))


def _remember_previous(account: AnyRow, new: str) -> None:
    """Let the old address undo the change, unless the new one is itself a previous address: then it is the undo."""
    returning = (
        (PreviousAddress.account_id == account.id)
        & PreviousAddress.may_take_back(clock.now())
        & (func.lower(PreviousAddress.email) == new.lower())
    )
    since = db.session.scalar(select(func.min(PreviousAddress.changed_at)).where(returning))
    if since:
        _give_back(account, since)
    elif account.email.lower() != new.lower():
        row = {"id": uuid.uuid4(), "account_id": account.id, "email": account.email, "changed_at": clock.now()}
        db.session.execute(insert(PreviousAddress).values(row))


def _give_back(account: AnyRow, since: datetime) -> None:
    """End the claims that are younger than the returning address, and notify the present one without a link."""
    younger = (PreviousAddress.account_id == account.id) & (PreviousAddress.changed_at >= since)
    db.session.execute(delete(PreviousAddress).where(younger))
    queue.enqueue("email_taken_back", email=account.email, account_id=account.id)


def undo(*, token: str, client: str | None) -> None:
    """Put an old address back, open the account if it was closed, and email a reset link to the address.

    The thief knew the password, so it opens nothing any more. Younger addresses lose their claim, older ones keep it.
    """
    account, content = credentials.redeem_for(Purpose.EMAIL_CHANGE_UNDO, token, client)
    previous = previous_address(account, content["change"])
    password_hash = unusable_hash(hasher().cost)
    values = {"password_hash": password_hash, "credentials_id": uuid.uuid4(), **credentials.OPEN}
    with transaction() as session:
        credentials.take_address(account, previous.email, **values)
        credentials.note_cost(password_hash)
        _give_back(account, previous.changed_at)
        session.execute(delete(Session).where(Session.account_id == account.id))
        credentials.note_mailbox_proven(previous.email, client)
        queue.enqueue("password_reset", email=previous.email)
        credentials.notify_previous_addresses(account.id)
        session.execute(delete(Mail).where(export.is_mail_to([account])))
        if account.closed_at:
            credentials.notify_reopened(account.id)


def previous_address(account: AnyRow, change_id: str) -> AnyRow:
    """Return the address that an undo link gives back, or raise InvalidToken if its 72 hours are over."""
    of_link = (PreviousAddress.account_id == account.id) & (PreviousAddress.id == uuid.UUID(change_id))
    columns = (PreviousAddress.email, PreviousAddress.changed_at)
    with reading() as session:
        row = session.execute(select(*columns).where(of_link, PreviousAddress.may_take_back(clock.now()))).one_or_none()
    if row is None:
        raise InvalidToken
    return row
