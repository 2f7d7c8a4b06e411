"""No password opens an account that was taken back; policy versions can be withdrawn."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The last 43 characters of `$argon2id$v=19$COST$SALT$DIGEST` are the digest. These are 32 bytes of zero, which no
# password is known to have; the cost stays, and with it the work of a sign-in.
UNUSABLE = """
UPDATE accounts
SET password_hash =
  substr(password_hash, 1, length(password_hash) - 43) || 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
WHERE taken_back_at IS NOT NULL
"""
SESSIONS = "DELETE FROM sessions WHERE account_id IN (SELECT id FROM accounts WHERE taken_back_at IS NOT NULL)"


def upgrade() -> None:
    """Add the column, and end the password and the sessions of accounts that were taken back."""
    op.add_column("policies", sa.Column("withdrawn_at", sa.DateTime(timezone=True)))
    op.execute(UNUSABLE)
    op.execute(SESSIONS)


def downgrade() -> None:
    """Drop the column; the passwords from before are not known."""
    op.drop_column("policies", "withdrawn_at")
