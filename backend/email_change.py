"""Change the address: asked for with the password, confirmed from the new mailbox, taken back from the old one."""

import uuid

from sqlalchemy import delete, select

from backend import clock, mail
from backend.accounts import redeem_for, take_address, tell_previous_address
from backend.db import transaction
from backend.errors import WrongPassword
from backend.hashing import hasher
from backend.models import UNDO, Account, Session
from backend.sessions import Viewer
from backend.throttle import throttle
from backend.tokens import Purpose


def request(viewer: Viewer, *, email: str, password: str) -> None:
    """Have a link mailed to the new address, with which it takes the place of the old one.

    Whether another account has the address is not looked up before somebody has proven the mailbox.

    Raises:
        WrongPassword: the password asked for again is another.
    """
    account = viewer.account
    throttle().charge("email-change", account=str(account.id), address=email.lower())
    throttle().charge("password", account=str(account.id))
    if not hasher().verify(account.password_hash, password):
        raise WrongPassword
    with transaction():
        # A password that is newer than this request ends it, though the link is made later.
        mail.enqueue("email_change", email=email, account_id=account.id, about=account.credentials_id)


def confirm(*, token: str, client: str | None) -> None:
    """Put the new address in the place of the old one, which gets a notice and a link to take the account back.

    Every other link of the account ends; sessions go on.

    Raises:
        InvalidToken: the link does not work, or worked before.
        EmailInUse: another account took the address meanwhile.
    """
    throttle().charge("token", client=client)
    account, content = redeem_for(Purpose.EMAIL_CHANGE, token)
    now = clock.now()
    with transaction() as session:
        recent = Account.email_changed_at > now - UNDO
        earlier = session.scalar(select(Account.previous_email).where(Account.id == account.id, recent))
        # Of several changes in a row the first address keeps its right: the second may be a thief's own.
        remembered = {} if earlier else {"previous_email": account.email, "email_changed_at": now}
        take_address(account, content["email"], **remembered)
        if earlier:
            mail.enqueue("email_changed", email=account.email, account_id=account.id)
        tell_previous_address(account.id)


def undo(*, token: str, client: str | None) -> None:
    """Put the old address back, end every session, and have a link for a new password mailed to it.

    Raises:
        InvalidToken: the link does not work, or worked before.
        EmailInUse: another account took the old address meanwhile.
    """
    throttle().charge("token", client=client)
    account, content = redeem_for(Purpose.EMAIL_CHANGE_UNDO, token)
    old = content["email"]
    with transaction() as session:
        previous = session.scalar(select(Account.previous_email).where(Account.id == account.id))
        forgotten = {"previous_email": None, "email_changed_at": None} if previous in {None, old} else {}
        take_address(account, old, credentials_id=uuid.uuid4(), **forgotten)
        session.execute(delete(Session).where(Session.account_id == account.id))
        mail.enqueue("password_reset", email=old)
        tell_previous_address(account.id)
