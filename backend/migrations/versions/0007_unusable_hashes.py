"""No password opens an account that was taken back; policy versions can be withdrawn."""

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
    """Add the column, and give accounts that were taken back a hash that no password matches; end their sessions."""
    op.add_column("policies", sa.Column("withdrawn_at", sa.DateTime(timezone=True)))
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
    """Drop the column; the passwords from before are not known."""
    op.drop_column("policies", "withdrawn_at")
