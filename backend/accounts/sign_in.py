"""Signing in: the same look-up and the same hash work, whether or not the account exists."""

from contextlib import suppress

from sqlalchemy import bindparam, select, update

from backend import clock
from backend.accounts import sessions
from backend.accounts.password_hashes import note_cost
from backend.accounts.sessions import TODAY, SignedIn, account_columns
from backend.database.engine import AnyRow, reading, transaction
from backend.database.models import Account
from backend.database.service_tables import PasswordCost
from backend.errors import Overloaded, WrongCredentials
from backend.security import lockout, throttle
from backend.security.hashing import cost_of, hasher

# One row for each cost in use, with or without an account: an unknown address gets as many rows as a known one.
_BY_EMAIL = select(PasswordCost.cost, *account_columns(TODAY)).outerjoin_from(
    PasswordCost, Account, Account.is_open_with(bindparam("email", type_=Account.email.type))
)


def authenticate(*, email: str, password: str, client: str | None) -> SignedIn:
    """Sign in.

    Raises:
        WrongCredentials: the password is wrong, or no open account has the address.
        TooManyRequests: too many wrong passwords were tried.
    """
    throttle.charge("sign-in", client=client, address=email, service="all")
    hasher().refuse_if_full()
    with lockout.guess(email, client):
        with reading() as session:
            rows = session.execute(_BY_EMAIL, {"email": email, "today": clock.now().date()}).all()
        account = rows[0] if rows and rows[0].id else None
        right = hasher().verify(account.password_hash if account else None, password, [row.cost for row in rows])
    if account is None or not right:
        raise WrongCredentials
    with transaction():
        opened = sessions.begin(account, clock.now())
    if opened is None:
        raise WrongCredentials
    lockout.clear(email)
    if cost_of(account.password_hash) != hasher().cost:
        _renew_hash(account, password)
    return SignedIn(account, opened)


def _renew_hash(account: AnyRow, password: str) -> None:
    """Store a hash with the present parameters; skip it while the hasher's backlog is full."""
    with suppress(Overloaded):
        fresh = hasher().hash(password)
        unchanged = (Account.id == account.id) & (Account.credentials_id == account.credentials_id)
        with transaction() as session:
            session.execute(update(Account).where(unchanged).values(password_hash=fresh))
            note_cost(fresh)
