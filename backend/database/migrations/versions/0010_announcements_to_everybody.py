"""Which announcements go to everybody, also to those who want no emails about TILES."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no announcement goes to everybody yet, nor one that the release before makes."""
    op.add_column("announcements", sa.Column("to_everybody", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("announcements", "to_everybody")
