"""The costs of the password hashes that are stored."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# `$argon2id$v=19$COST$SALT$DIGEST`, whose salt and digest have 22 and 43 characters.
IN_USE = """
INSERT INTO password_costs (cost)
SELECT DISTINCT substr(password_hash, 16, length(password_hash) - 15 - 67) FROM accounts
WHERE password_hash LIKE '$argon2id$v=19$%' AND length(password_hash) > 15 + 67
"""


def upgrade() -> None:
    """Make the table and fill it."""
    op.create_table("password_costs", sa.Column("cost", sa.String(60), primary_key=True))
    op.execute(IN_USE)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("password_costs")
