"""Change the address: asked for with the password, confirmed from the new mailbox, taken back from an old one."""

import uuid
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update

from backend import clock
from backend.accounts.credentials import (
    OPEN,
    ask_password_again,
    is_as,
    note_cost,
    note_proof,
    redeem_for,
    take_address,
    tell_previous_addresses,
    tell_reopened,
)
from backend.accounts.sessions import Viewer
from backend.database import export
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.models import Account, Mail, PreviousAddress, Session
from backend.errors import InvalidToken, Unauthenticated
from backend.mail import queue
from backend.security.hashing import hasher, unusable_hash
from backend.security.throttle import throttle
from backend.security.tokens import Purpose


def request(viewer: Viewer, *, email: str, password: str, client: str | None) -> None:
    """Have a link mailed to the new address, with which it takes the place of the old one.

    Whether another account has the address is not looked up before somebody has proven the mailbox.

    Raises:
        WrongPassword: the password asked for again is another.
        Unauthenticated: the account was closed or got another password meanwhile.
    """
    throttle().charge("email-change", account=str(viewer.account.id), address=email)
    account = ask_password_again(viewer, password, client)
    with transaction() as session:
        if not session.scalar(select(Account.id).where(is_as(account)).with_for_update(read=True)):
            raise Unauthenticated
        # A password that is newer than this request ends it, though the link is made later.
        queue.enqueue("email_change", email=email, account_id=account.id, about=account.credentials_id)


def confirm(*, token: str, client: str | None) -> None:
    """Put the new address in the place of the old one, which gets a notice and a link to take the account back.

    Every other link of the account ends; sessions go on.

    Raises:
        InvalidToken: the link does not work, or worked before.
        EmailInUse: another account took the address meanwhile.
    """
    throttle().charge("token", client=client)
    account, content = redeem_for(Purpose.EMAIL_CHANGE, token)
    new, credentials_id = content["email"], uuid.uuid4()
    with transaction() as session:
        take_address(account, new, credentials_id=credentials_id)
        mine = (Session.account_id == account.id) & (Session.credentials_id == account.credentials_id)
        session.execute(update(Session).where(mine).values(credentials_id=credentials_id))
        _remember(account, new)
        note_proof(new, client)
        tell_previous_addresses(account.id)
        session.execute(delete(Mail).where(export.is_mail_to([account])))


def _remember(account: AnyRow, new: str) -> None:
    """Let the address that is left take the account back for a while.

    Where the new one may do that itself, this is its taking back, and nothing after it has a right.
    """
    mine = PreviousAddress.account_id == account.id
    returning = mine & PreviousAddress.may_take_back(clock.now()) & (func.lower(PreviousAddress.email) == new.lower())
    since = db.session.scalar(select(func.min(PreviousAddress.changed_at)).where(returning))
    if since:
        _give_back(account, since)
    elif account.email.lower() != new.lower():
        row = {"id": uuid.uuid4(), "account_id": account.id, "email": account.email, "changed_at": clock.now()}
        db.session.execute(insert(PreviousAddress).values(row))


def _give_back(account: AnyRow, since: datetime) -> None:
    """Tell the address that is left, without a link: the one before it is the older claim, and ends all later ones."""
    later = (PreviousAddress.account_id == account.id) & (PreviousAddress.changed_at >= since)
    db.session.execute(delete(PreviousAddress).where(later))
    queue.enqueue("email_taken_back", email=account.email, account_id=account.id)


def undo(*, token: str, client: str | None) -> None:
    """Put an old address back, end the password and every session, and mail a link for a new password to the address.

    The person who changed the address knew the old password, so no password opens the account until the link is used.
    A closed account opens again. Later addresses lose their right to take the account back; earlier ones keep it.

    Raises:
        InvalidToken: the link does not work, or worked before.
        EmailInUse: another account took the old address meanwhile.
    """
    throttle().charge("token", client=client)
    account, content = redeem_for(Purpose.EMAIL_CHANGE_UNDO, token)
    previous = _previous_address(account, content["change"])
    password_hash = unusable_hash(hasher().cost)
    values = {"password_hash": password_hash, "credentials_id": uuid.uuid4(), **OPEN}
    with transaction() as session:
        take_address(account, previous.email, **values)
        note_cost(password_hash)
        _give_back(account, previous.changed_at)
        session.execute(delete(Session).where(Session.account_id == account.id))
        note_proof(previous.email, client)
        queue.enqueue("password_reset", email=previous.email)
        tell_previous_addresses(account.id)
        session.execute(delete(Mail).where(export.is_mail_to([account])))
        if account.closed_at:
            tell_reopened(account.id)


def _previous_address(account: AnyRow, change: str) -> AnyRow:
    """Return the address that a change replaced, and when.

    Raises:
        InvalidToken: the address can no longer take the account back.
    """
    mine = (PreviousAddress.account_id == account.id) & (PreviousAddress.id == uuid.UUID(change))
    columns = (PreviousAddress.email, PreviousAddress.changed_at)
    with reading() as session:
        previous = session.execute(
            select(*columns).where(mine, PreviousAddress.may_take_back(clock.now()))
        ).one_or_none()
    if previous is None:
        raise InvalidToken
    return previous
