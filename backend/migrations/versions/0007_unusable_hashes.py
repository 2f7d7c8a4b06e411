"""After an old address took an account back, no password opens it until a new one is chosen."""

import secrets
from base64 import b64encode

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

# `$argon2id$v=19$COST$SALT$DIGEST`: the last two, in Base64 without padding.
SALT_BYTES, HASH_BYTES = 16, 32


def upgrade() -> None:
    """Give the accounts that were taken back a hash that no password matches, and end their sessions."""
    accounts = sa.table("accounts", sa.column("id"), sa.column("password_hash"), sa.column("taken_back_at"))
    sessions = sa.table("sessions", sa.column("account_id"))
    taken_back = accounts.c.taken_back_at.is_not(None)
    database = op.get_bind()
    database.execute(sessions.delete().where(sessions.c.account_id.in_(sa.select(accounts.c.id).where(taken_back))))
    for account in database.execute(sa.select(accounts.c.id, accounts.c.password_hash).where(taken_back)).all():
        # With the parameters that it had, so that sign-in costs what it did.
        parameters = account.password_hash.rsplit("$", 2)[0]
        salt, digest = (b64encode(secrets.token_bytes(n)).rstrip(b"=").decode() for n in (SALT_BYTES, HASH_BYTES))
        unusable = accounts.update().where(accounts.c.id == account.id)
        database.execute(unusable.values(password_hash=f"{parameters}${salt}${digest}"))


def downgrade() -> None:
    """Leave everything as it is: the passwords from before are not known."""
