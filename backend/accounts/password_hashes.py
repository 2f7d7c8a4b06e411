"""The hashes of passwords, and the table of their costs, which lets signing in do the same work for everybody."""

from sqlalchemy import delete, literal, select, text

from backend.config import settings
from backend.database.engine import db, insert_unless_taken, is_sqlite, reading, transaction
from backend.database.models import Account
from backend.database.service_tables import PasswordCost
from backend.errors import FieldError, WeakPassword
from backend.security.hashing import HASH_PREFIX, cost_of, hasher
from backend.security.password_rules import normalize, weaknesses


def new_hash(password: str, *, name: str | None, email: str, pointer: str = "/password") -> str:
    """Return the hash of a new password."""
    minimum = settings().password_min_length
    reasons = weaknesses(password, minimum=minimum, name=name, email=email)
    if len(normalize(password)) < minimum:
        # The other reasons may not apply to a longer password.
        reasons = reasons[:1]
    if reasons:
        raise WeakPassword(errors=[FieldError(pointer, reason) for reason in reasons])
    return hasher().hash(password)


def note_cost(password_hash: str) -> None:
    """In the transaction that stores a hash: store its cost, so that signing in does the same work for everybody."""
    db.session.execute(insert_unless_taken(PasswordCost).values(cost=cost_of(password_hash)))


def forget_costs() -> None:
    """Forget the costs that no hash has any more."""
    prefix = literal(HASH_PREFIX) + PasswordCost.cost + "$"
    in_use = select(Account.id).where(Account.password_hash.startswith(prefix)).exists()
    unused = (PasswordCost.cost != hasher().cost) & ~in_use
    with reading() as session:
        if not session.scalar(select(PasswordCost.cost).where(unused)):
            return
    with transaction() as session:
        if not is_sqlite():
            # Wait for transactions that store such a hash and have not committed.
            session.execute(text("LOCK TABLE password_costs IN EXCLUSIVE MODE"))
        session.execute(delete(PasswordCost).where(unused))
