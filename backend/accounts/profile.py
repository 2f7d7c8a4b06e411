"""The account's settings: name, mails about TILES, the policy version that was accepted."""

import uuid

from sqlalchemy import select, update

from backend.accounts.sessions import Viewer, account_columns
from backend.database.engine import AnyRow, changed, transaction
from backend.database.models import Account, Policy
from backend.errors import FieldError, InvalidRequest, InvalidToken, Unauthenticated
from backend.security import tokens
from backend.security.throttle import throttle
from backend.security.tokens import Purpose


def unsubscribe(*, token: str, client: str | None) -> None:
    """Stop mails about TILES to whoever a mail's link was sent to; again and again, it stays done.

    Raises:
        InvalidToken: it is not the link of one of our mails.
    """
    try:
        account_id = uuid.UUID(tokens.redeem(Purpose.UNSUBSCRIBE, token)["account"])
    except InvalidToken:
        # Only what was made up is limited: a mail provider unsubscribes all its people from a few machines.
        throttle().charge("token", client=client)
        raise
    with transaction():
        changed(update(Account).where(Account.id == account_id, Account.email_updates).values(email_updates=False))


def change(viewer: Viewer, **changes: str | bool | None) -> AnyRow:
    """Change the name (None removes it), the wish for mails, or the accepted policy; return the account.

    Raises:
        InvalidRequest: no policy with this version was published.
        Unauthenticated: the account was closed meanwhile.
    """
    accepted = changes.get("accepted_policy")
    with transaction() as session:
        published = select(Policy.version).where(Policy.version == accepted, Policy.withdrawn_at.is_(None))
        if accepted and not session.scalar(published):
            raise InvalidRequest(errors=[FieldError("/accepted_policy", "name a version that was published")])
        mine = (Account.id == viewer.account.id) & Account.closed_at.is_(None)
        if changes and not changed(update(Account).where(mine).values(**changes)):
            raise Unauthenticated
        account = session.execute(select(*account_columns()).where(mine)).one_or_none()
    if account is None:
        raise Unauthenticated
    return account
