"""Lockout: bound the wrong passwords that are tried for an address, counted in the database for all processes.

At most 100 may be tried between two right ones (NIST SP 800-63B-4, section 3.2.2). A client, and the networks around
it, may try fewer, so that a client locks out only itself; the last ten are for a client that used an emailed link.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import cast

from sqlalchemy import Date, Integer, Table, UpdateBase, bindparam, case, delete, or_, select, update
from sqlalchemy.exc import DBAPIError

from backend import clock
from backend.config import settings
from backend.database.engine import changed, db, insert_into, locked, transaction
from backend.database.outbox import write
from backend.database.service_tables import FORGET_WRONG_PASSWORDS, WrongPassword
from backend.database.steps import in_steps
from backend.errors import Overloaded, TooManyRequests
from backend.security import keys
from backend.security.clients import networks

# By the multiple of a client's allowance that `networks` gives.
MOST_OF_CLIENT = {1: 20, 2: 40, 4: 60}
MOST_OF_ALL, RESERVED = 90, 10
TRUST = timedelta(hours=1)
# Waiting does not unlock an address; a reset does.
RETRY_AFTER_SECONDS = 3600
LOCKED = "Too many wrong passwords were tried for this address. Reset the password, then sign in from the same place."
_ALL = b""
TABLE = cast(Table, WrongPassword.__table__)
_KEY = (WrongPassword.address, WrongPassword.client)
_GIVE_BACK = (
    update(TABLE)
    .where(TABLE.c.address == bindparam("address_"), TABLE.c.client == bindparam("client_"))
    .values(count=TABLE.c.count - 1)
)
_CLEAR = delete(TABLE).where(
    locked((WrongPassword.address == bindparam("address_")) & WrongPassword.trusted_until.is_(None), *_KEY)
)


def _names(address: str) -> Callable[..., bytes]:
    """Return a function that makes digests of an address alone, or of the address and a client.

    Without the key nobody can find an address or a client by trying.
    """
    return partial(keys.digests("wrong passwords")[0], address.lower())


def _trusted(names: Callable[..., bytes], client: str | None) -> bytes:
    return names(client or "", "trusted")


def _counting() -> UpdateBase:
    """Return a statement that adds one to a count, unless the count has reached its limit."""
    trusted = select(WrongPassword.count).where(
        WrongPassword.address == bindparam("address"),
        WrongPassword.client == bindparam("trusted"),
        WrongPassword.trusted_until > bindparam("now"),
    )
    most = bindparam("most", type_=Integer()) + case((trusted.exists(), RESERVED), else_=0)
    row = insert_into(TABLE).values(
        address=bindparam("address"), client=bindparam("client"), count=1, last_on=bindparam("today", type_=Date())
    )
    counted = {"count": WrongPassword.count + 1, "last_on": row.excluded.last_on}
    return row.on_conflict_do_update(index_elements=_KEY, set_=counted, where=WrongPassword.count < most)


@contextmanager
def guess(address: str, client: str | None) -> Iterator[None]:
    """Count a wrong password before the password is checked, so that parallel requests do not exceed the limit.

    Raises:
        TooManyRequests: the limit is reached. Nothing is counted.
    """
    if not settings().is_limited:
        yield
        return
    names, now = _names(address), clock.now()
    rows = [(names(network), MOST_OF_CLIENT[times], _ALL) for network, times in networks(client or "")]
    # In the order of `locked`.
    rows = sorted([*rows, (_ALL, MOST_OF_ALL, _trusted(names, client))])
    with transaction():
        counting = _counting()
        for row, most, trusted in rows:
            values = {"address": names(), "client": row, "most": most, "trusted": trusted}
            if not changed(counting, **values, now=now, today=now.date()):
                raise TooManyRequests(LOCKED, retry_after=RETRY_AFTER_SECONDS)
    try:
        yield
    except (Overloaded, DBAPIError):
        # The password was not checked.
        with suppress(DBAPIError):
            _give_back(names(), [row for row, *_ in rows])
        raise


def _give_back(address: bytes, clients: Iterable[bytes]) -> None:
    with transaction():
        for client in clients:
            changed(_GIVE_BACK, address_=address, client_=client)


def clear(address: str) -> None:
    """Forget the wrong passwords of an address after the right one."""
    if settings().is_limited:
        write(_CLEAR, address_=_names(address)())


def trust(address: str, client: str | None) -> None:
    """In the caller's transaction: forget an address's wrong passwords, and trust a client that read its mailbox."""
    names, now = _names(address), clock.now()
    forget([address])
    row = insert_into(WrongPassword).values(
        address=names(), client=_trusted(names, client), count=0, last_on=now.date(), trusted_until=now + TRUST
    )
    # Another request may have inserted the row meanwhile.
    db.session.execute(row.on_conflict_do_update(index_elements=_KEY, set_={"trusted_until": now + TRUST}))


def forget(addresses: Collection[str]) -> None:
    """In the caller's transaction: forget the wrong passwords of some addresses, also under older keys."""
    named = [digest(address.lower()) for digest in keys.digests("wrong passwords") for address in addresses]
    db.session.execute(delete(WrongPassword).where(locked(WrongPassword.address.in_(named), *_KEY)))


def tidy() -> Iterator[int]:
    """Forget old counts and ended trust, the same for every address, with or without an account."""
    now = clock.now()
    old = [
        (WrongPassword.count <= most) & (WrongPassword.last_on < now.date() - age)
        for most, age in FORGET_WRONG_PASSWORDS.items()
    ]
    yield from in_steps(delete(WrongPassword), or_(WrongPassword.trusted_until <= now, *old))
