"""Lockout: how many wrong passwords are tried for an address, counted in the database for all processes together.

Nobody may try over 100 between two right ones (NIST SP 800-63B-4, section 3.2.2). A client, and the networks around it,
may try fewer, so that one of them locks out itself only; and the last are for a client that read the mailbox.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import cast

from sqlalchemy import Date, Integer, Table, UpdateBase, bindparam, case, delete, or_, select, update

from backend import clock
from backend.config import settings
from backend.database.engine import changed, db, insert_into, transaction
from backend.database.models import FORGET_WRONG_PASSWORDS, WrongPassword
from backend.database.outbox import write
from backend.errors import Overloaded, TooManyRequests
from backend.security import keys
from backend.security.clients import networks

# By how many times a client's allowance a network has: an IPv4 address or a /64, a /56, a /48.
MOST_OF_CLIENT = {1: 20, 2: 40, 4: 60}
MOST_OF_ALL, RESERVED = 90, 10
TRUST = timedelta(hours=1)
# Waiting opens nothing; who chose a new password meanwhile is let in.
RETRY_AFTER_SECONDS = 3600
LOCKED = "Too many wrong passwords were tried for this address. Reset the password, then sign in from the same place."
_ALL = b""
TABLE = cast(Table, WrongPassword.__table__)


class _Names:
    """What stands for an address and its clients in the database: nobody without the key can find them by trying."""

    def __init__(self, address: str) -> None:
        self._of = keys.digests("wrong passwords")
        self._address = address.lower()
        self.address = self._of(self._address)

    def client(self, network: str) -> bytes:
        return self._of(self._address, network)

    def trusted(self, client: str) -> bytes:
        return self._of(self._address, client, "trusted")


@cache
def _counting(_dialect: str) -> UpdateBase:
    """Return what counts one more, unless there are as many as may be."""
    trusted = select(WrongPassword.count).where(
        WrongPassword.address == bindparam("address"),
        WrongPassword.client == bindparam("trusted"),
        WrongPassword.trusted_until > bindparam("now"),
    )
    most = bindparam("most", type_=Integer()) + case((trusted.exists(), RESERVED), else_=0)
    row = insert_into(TABLE).values(
        address=bindparam("address"), client=bindparam("client"), count=1, last_on=bindparam("today", type_=Date())
    )
    return row.on_conflict_do_update(
        index_elements=[WrongPassword.address, WrongPassword.client],
        set_={"count": WrongPassword.count + 1, "last_on": row.excluded.last_on},
        where=WrongPassword.count < most,
    )


_GIVE_BACK = (
    update(TABLE)
    .where(TABLE.c.address == bindparam("address_"), TABLE.c.client == bindparam("client_"))
    .values(count=TABLE.c.count - 1)
)
_CLEAR = delete(TABLE).where(TABLE.c.address == bindparam("address_"), TABLE.c.trusted_until.is_(None))


@contextmanager
def guess(address: str, client: str | None) -> Iterator[None]:
    """Count a wrong password before one is checked, so that many at once are not more than may be.

    Raises:
        TooManyRequests: as many were tried as may be.
    """
    if not settings().is_limited:
        yield
        return
    names, now = _Names(address), clock.now()
    # The narrowest first, in one transaction: what is refused is not counted.
    rows = [(names.client(network), MOST_OF_CLIENT[times], _ALL) for network, times in networks(client or "")]
    rows.append((_ALL, MOST_OF_ALL, names.trusted(client or "")))
    with transaction():
        for row, most, trusted in rows:
            values = {"address": names.address, "client": row, "most": most, "trusted": trusted}
            if not changed(_counting(db.engine.dialect.name), **values, now=now, today=now.date()):
                raise TooManyRequests(LOCKED, retry_after=RETRY_AFTER_SECONDS)
    try:
        yield
    except Overloaded:
        # It was not checked.
        with transaction():
            for row, *_ in rows:
                changed(_GIVE_BACK, address_=names.address, client_=row)
        raise


def clear(address: str) -> None:
    """Forget the wrong passwords of an address: the right one was given."""
    if settings().is_limited:
        write(_CLEAR, address_=_Names(address).address)


def trust(address: str, client: str | None) -> None:
    """In the caller's transaction: forget an address's wrong passwords, and trust a client that read its mailbox."""
    names, now = _Names(address), clock.now()
    db.session.execute(delete(WrongPassword).where(WrongPassword.address == names.address))
    row = insert_into(WrongPassword).values(
        address=names.address,
        client=names.trusted(client or ""),
        count=0,
        last_on=now.date(),
        trusted_until=now + TRUST,
    )
    again = row.on_conflict_do_update(
        index_elements=[WrongPassword.address, WrongPassword.client], set_={"trusted_until": now + TRUST}
    )
    db.session.execute(again)


def forget(addresses: Iterable[str]) -> None:
    """In the caller's transaction: forget the wrong passwords of addresses that are erased."""
    known = [_Names(address).address for address in addresses]
    db.session.execute(delete(WrongPassword).where(WrongPassword.address.in_(known)))


def tidy() -> None:
    """Forget what is old, whether or not the address has an account, and in which clients the trust has ended."""
    now = clock.now()
    old = [
        (WrongPassword.count <= most) & (WrongPassword.last_on < now.date() - age)
        for most, age in FORGET_WRONG_PASSWORDS.items()
    ]
    with transaction() as session:
        session.execute(delete(WrongPassword).where(or_(WrongPassword.trusted_until <= now, *old)))
