"""The release before last noted in `taken_back_at` that an account was taken back: nothing reads it any more."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# As in 0007: a server of that release may have written it since.
UNUSABLE = """
UPDATE accounts
SET password_hash =
  substr(password_hash, 1, length(password_hash) - 43) || 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
WHERE taken_back_at IS NOT NULL
"""
SESSIONS = "DELETE FROM sessions WHERE account_id IN (SELECT id FROM accounts WHERE taken_back_at IS NOT NULL)"


def upgrade() -> None:
    """End the password and the sessions of those accounts, and drop the column."""
    op.execute(UNUSABLE)
    op.execute(SESSIONS)
    op.drop_column("accounts", "taken_back_at")


def downgrade() -> None:
    """Add the column, empty."""
    op.add_column("accounts", sa.Column("taken_back_at", sa.DateTime(timezone=True)))
