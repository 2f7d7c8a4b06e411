"""Addresses that an account had: for 72 hours each may take the account back, with an emailed link."""

import uuid
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from backend import clock
from backend.database.engine import AnyRow, db, reading, transaction
from backend.database.models import PreviousAddress
from backend.errors import InvalidToken
from backend.mail import queue


def remember(account: AnyRow, new: str) -> None:
    """Let the old address undo the change, unless the new one is itself a previous address: then it is the undo."""
    returning = (
        (PreviousAddress.account_id == account.id)
        & PreviousAddress.may_take_back(clock.now())
        & (func.lower(PreviousAddress.email) == new.lower())
    )
    since = db.session.scalar(select(func.min(PreviousAddress.changed_at)).where(returning))
    if since:
        give_back(account, since)
    elif account.email.lower() != new.lower():
        row = {"id": uuid.uuid4(), "account_id": account.id, "email": account.email, "changed_at": clock.now()}
        db.session.execute(insert(PreviousAddress).values(row))


def give_back(account: AnyRow, since: datetime) -> None:
    """End the claims that are younger than the returning address, and notify the present one without a link."""
    younger = (PreviousAddress.account_id == account.id) & (PreviousAddress.changed_at >= since)
    db.session.execute(delete(PreviousAddress).where(younger))
    queue.enqueue("email_taken_back", email=account.email, account_id=account.id)


def find(account: AnyRow, change_id: str) -> AnyRow:
    """Return the address that an undo link gives back, or raise InvalidToken if its 72 hours are over."""
    of_link = (PreviousAddress.account_id == account.id) & (PreviousAddress.id == uuid.UUID(change_id))
    columns = (PreviousAddress.email, PreviousAddress.changed_at)
    with reading() as session:
        row = session.execute(select(*columns).where(of_link, PreviousAddress.may_take_back(clock.now()))).one_or_none()
    if row is None:
        raise InvalidToken
    return row


def notify(account_id: uuid.UUID) -> None:
    """In the caller's transaction: email a new undo link to each previous address, as the change killed the old link.

    Otherwise a thief who changed the email could keep the account by changing the password or closing it next.
    """
    of_account = (PreviousAddress.account_id == account_id) & PreviousAddress.may_take_back(clock.now())
    for previous_id in db.session.scalars(select(PreviousAddress.id).where(of_account)).all():
        queue.enqueue("email_changed", account_id=account_id, about=previous_id)


def forget_expired() -> None:
    """Delete the previous addresses whose undo link has expired."""
    with transaction() as session:
        session.execute(delete(PreviousAddress).where(~PreviousAddress.may_take_back(clock.now())))
