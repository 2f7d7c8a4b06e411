"""Lawful disclosures of an account's name and address to an authority."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert

from backend import clock
from backend.accounts import audit
from backend.database.engine import transaction
from backend.database.models import Disclosure
from backend.desk.naming import refuse_naming
from backend.desk.operations import MANAGER, Who, get_account, lock_account
from backend.errors import Impossible

# The policy lets a disclosure hold no more.
DISCLOSED = "name", "email"


@dataclass(frozen=True, slots=True)
class Disclosed:
    """The data for an authority, with the legal basis."""

    authority: str
    basis: str
    disclosed_at: clock.Moment
    data: dict[str, str | None]


def disclose(who: Who, *, authority: str, basis: str, fields: Sequence[str] = DISCLOSED) -> Disclosed:
    """Record the disclosure of an account's name, address or both to an authority, and return the data to hand over."""
    account, chosen = get_account(who), [name for name in DISCLOSED if name in fields]
    if not chosen:
        raise Impossible("choose what to disclose: the name, the email address, or both")
    for text in (authority, basis):
        refuse_naming(text, account)
    disclosed = Disclosed(authority, basis, clock.now(), {name: getattr(account, name) for name in chosen})
    row = {"authority": authority, "basis": basis, "disclosed_at": disclosed.disclosed_at}
    with transaction() as session:
        lock_account(account, who)
        session.execute(insert(Disclosure).values(id=uuid.uuid4(), account_id=account.id, **row))
        audit.record("disclosed", account.id, actor=MANAGER, authority=authority, basis=basis, fields=chosen)
    return disclosed
