"""Signing in: the same look-up and the same hash work, whether or not the account exists."""

from contextlib import suppress

from sqlalchemy import bindparam, select, update

from backend import clock
from backend.accounts import sessions
from backend.accounts.credentials import note_cost
from backend.accounts.sessions import TODAY, SignedIn, account_columns
from backend.database.engine import AnyRow, reading, transaction
from backend.database.models import Account, PasswordCost
from backend.errors import Overloaded, WrongCredentials
from backend.security import lockout
from backend.security.hashing import cost_of, hasher
from backend.security.throttle import throttle


def authenticate(*, email: str, password: str, client: str | None) -> SignedIn:
    """Sign in: the same look-up and the same hash work whether or not the account exists.

    Raises:
        WrongCredentials: whatever the reason.
        TooManyRequests: too many were wrong.
    """
    throttle().charge("sign-in", client=client, address=email, service="all")
    hasher().refuse_if_full()
    with lockout.guess(email, client):
        account, costs = _account_with(email)
        right = hasher().verify(account.password_hash if account else None, password, costs)
    if account is None or not right:
        raise WrongCredentials
    with transaction():
        opened = sessions.begin(account, clock.now())
    if opened is None:
        raise WrongCredentials
    lockout.clear(email)
    _renew_hash(account, password)
    return SignedIn(account, opened)


# What costs there are is asked first, so that an address of nobody has as many rows as any other.
_BY_EMAIL = select(PasswordCost.cost, *account_columns(TODAY)).outerjoin_from(
    PasswordCost, Account, Account.is_open_with(bindparam("email", type_=Account.email.type))
)


def _account_with(email: str) -> tuple[AnyRow | None, list[str]]:
    """Return the open account with an address, if there is one, and the costs that hashes have, whosever they are."""
    with reading() as session:
        rows = session.execute(_BY_EMAIL, {"email": email, "today": clock.now().date()}).all()
    account = rows[0] if rows and rows[0].id else None
    return account, [row.cost for row in rows]


def _renew_hash(account: AnyRow, password: str) -> None:
    """Store a hash with the parameters of now where the account's has others; it waits while the line is full."""
    if cost_of(account.password_hash) == hasher().cost:
        return
    with suppress(Overloaded):
        fresh = hasher().hash(password)
        mine = (Account.id == account.id) & (Account.credentials_id == account.credentials_id)
        with transaction() as session:
            session.execute(update(Account).where(mine).values(password_hash=fresh))
            note_cost(fresh)
