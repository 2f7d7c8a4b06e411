"""Digests of the keys that sign for this database."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; the next start notes the keys that it has."""
    op.create_table(
        "key_digests",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("first_seen", sa.Date(), nullable=False),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("key_digests")
