"""Change the address: asked for with the password, confirmed from the new mailbox, taken back from an old one."""

import uuid

from sqlalchemy import delete, func, insert, select, update

from backend import audit, clock, mail, privacy
from backend.credentials import (
    OPEN,
    ask_password_again,
    is_as,
    note_proof,
    redeem_for,
    take_address,
    tell_previous_addresses,
)
from backend.db import AnyRow, db, reading, transaction
from backend.errors import InvalidToken, Unauthenticated
from backend.models import Account, Mail, PreviousAddress, Session
from backend.sessions import Viewer
from backend.throttle import throttle
from backend.tokens import Purpose


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
    new, credentials_id = content["email"], uuid.uuid4()
    with transaction() as session:
        take_address(account, new, credentials_id=credentials_id)
        mine = (Session.account_id == account.id) & (Session.credentials_id == account.credentials_id)
        session.execute(update(Session).where(mine).values(credentials_id=credentials_id))
        _remember(account, new)
        note_proof(new, client)
        tell_previous_addresses(account.id)
        session.execute(delete(Mail).where(privacy.is_mail_to([account])))


def _remember(account: AnyRow, new: str) -> None:
    """Let the address that is left take the account back for a while.

    Where the new one may do that itself, this is its taking back, and nothing after it has a right.
    """
    mine = PreviousAddress.account_id == account.id
    returning = mine & PreviousAddress.may_take_back(clock.now()) & (func.lower(PreviousAddress.email) == new.lower())
    since = db.session.scalar(select(func.min(PreviousAddress.changed_at)).where(returning))
    if since:
        db.session.execute(delete(PreviousAddress).where(mine, PreviousAddress.changed_at >= since))
    elif account.email.lower() != new.lower():
        row = {"id": uuid.uuid4(), "account_id": account.id, "email": account.email, "changed_at": clock.now()}
        db.session.execute(insert(PreviousAddress).values(row))


def undo(*, token: str, client: str | None) -> None:
    """Put an old address back, end every session, and have a link for a new password mailed to it.

    Until that is used, the old password, which whoever changed the address knows, neither changes the address or the
    password nor closes the account.

    Whoever closed the account meanwhile did so in vain. Addresses that came later lose their right to take it back,
    those before keep it.

    Raises:
        InvalidToken: the link does not work, or worked before.
        EmailInUse: another account took the old address meanwhile.
    """
    throttle().charge("token", client=client)
    account, content = redeem_for(Purpose.EMAIL_CHANGE_UNDO, token)
    mine = PreviousAddress.account_id == account.id
    with reading() as session:
        previous = session.execute(
            select(PreviousAddress.email, PreviousAddress.changed_at).where(
                mine, PreviousAddress.id == uuid.UUID(content["change"]), PreviousAddress.may_take_back(clock.now())
            )
        ).one_or_none()
    if previous is None:
        raise InvalidToken
    with transaction() as session:
        take_address(account, previous.email, credentials_id=uuid.uuid4(), taken_back_at=clock.now(), **OPEN)
        session.execute(delete(PreviousAddress).where(mine, PreviousAddress.changed_at >= previous.changed_at))
        session.execute(delete(Session).where(Session.account_id == account.id))
        note_proof(previous.email, client)
        mail.enqueue("password_reset", email=previous.email)
        tell_previous_addresses(account.id)
        session.execute(delete(Mail).where(privacy.is_mail_to([account])))
        if account.closed_at:
            audit.note("reopened", account.id, actor="person")
