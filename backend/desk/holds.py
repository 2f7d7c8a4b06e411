"""Legal holds: each delays the erasure of an account, and ends by itself."""

import uuid
from datetime import datetime

from sqlalchemy import delete, insert

from backend import clock
from backend.accounts import audit
from backend.database.engine import AnyRow, changed, transaction
from backend.database.models import Hold
from backend.desk.naming import refuse_naming
from backend.desk.operations import MANAGER, Who, get_account, lock_account
from backend.errors import Impossible
from backend.mail import queue


def place(who: Who, *, basis: str, until: datetime) -> uuid.UUID:
    """Place a legal hold, which delays the erasure of an account. If one waits, the person gets an email."""
    account, now = get_account(who), clock.now()
    if until <= now:
        raise Impossible("name a day in the future: a hold ends by itself")
    refuse_naming(basis, account)
    hold_id = uuid.uuid4()
    with transaction() as session:
        lock_account(account, who)
        session.execute(insert(Hold).values(id=hold_id, account_id=account.id, basis=basis, placed_at=now, until=until))
        audit.record("held", account.id, actor=MANAGER, until=f"{until:%Y-%m-%d}", basis=basis)
        _notify_if_waiting(account)
    return hold_id


def release(who: Who) -> int:
    """Lift every legal hold on an account, and return how many. If its erasure waits, the person gets an email."""
    account = get_account(who)
    with transaction():
        lock_account(account, who)
        lifted = changed(delete(Hold).where(Hold.account_id == account.id, Hold.until > clock.now()))
        if not lifted:
            raise Impossible("there is no legal hold on this account")
        audit.record("released", account.id, actor=MANAGER, holds=lifted)
        _notify_if_waiting(account)
    return lifted


def is_late_but_for_a_hold(who: str) -> bool:
    """Return whether an account would be erased at once if its legal holds were lifted."""
    account = get_account(who)
    return account.held_until is not None and account.erase_after is not None and account.erase_after <= clock.now()


def forget_ended() -> None:
    """Delete the legal holds that have ended."""
    with transaction() as session:
        session.execute(delete(Hold).where(Hold.until <= clock.now()))


def _notify_if_waiting(account: AnyRow) -> None:
    if account.erase_after:
        queue.enqueue("account_closed", account_id=account.id)
