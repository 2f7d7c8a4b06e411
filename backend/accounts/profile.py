"""The account's settings: name, emails about TILES, the accepted version of the privacy policy."""

import uuid

from sqlalchemy import select, update

from backend.accounts.sessions import Viewer, account_columns
from backend.database.engine import AnyRow, changed, db, reading, transaction
from backend.database.export import AccountExport
from backend.database.export import export as export_account
from backend.database.models import Account, Policy
from backend.errors import FieldError, InvalidRequest, InvalidToken, Unauthenticated
from backend.security import throttle, tokens
from backend.security.tokens import Purpose


def unsubscribe(*, token: str, client: str | None) -> None:
    """Stop emails about TILES, with the link of one of them; doing it again changes nothing."""
    try:
        account_id = uuid.UUID(tokens.redeem(Purpose.UNSUBSCRIBE, token)["account"])
    except InvalidToken:
        throttle.charge("token", client=client)
        raise
    subscribed = (Account.id == account_id) & Account.email_updates
    with reading() as session:
        is_used = session.scalar(select(Account.id).where(subscribed)) is None
    if is_used:
        # The first use of a link is free: a mail provider unsubscribes many people from a few machines.
        throttle.charge("token", client=client)
        return
    with transaction():
        changed(update(Account).where(subscribed).values(email_updates=False))


def export(viewer: Viewer) -> AccountExport:
    """Return everything that is stored about the viewer's account."""
    throttle.charge("export", account=str(viewer.account.id))
    return export_account(viewer.account.id)


def refuse_unpublished(version: object) -> None:
    """In the caller's transaction: refuse a policy version that was not published, or that was withdrawn."""
    if version and not db.session.scalar(select(Policy.version).where(Policy.is_published(version))):
        raise InvalidRequest(errors=[FieldError("/accepted_policy", "name a version that was published")])


def change(viewer: Viewer, **changes: str | bool | None) -> AnyRow:
    """Change the name (None removes it), `email_updates` or `accepted_policy`; return the account."""
    is_viewer = (Account.id == viewer.account.id) & Account.closed_at.is_(None)
    with transaction() as session:
        refuse_unpublished(changes.get("accepted_policy"))
        if changes:
            changed(update(Account).where(is_viewer).values(**changes))
        account = session.execute(select(*account_columns()).where(is_viewer)).one_or_none()
    if account is None:
        raise Unauthenticated
    return account
