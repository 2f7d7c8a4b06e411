"""Wrong passwords and mails a day, counted under digests that name nobody."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; counting begins now."""
    op.create_table(
        "wrong_passwords",
        sa.Column("address", sa.LargeBinary(32), primary_key=True),
        sa.Column("client", sa.LargeBinary(32), primary_key=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_on", sa.Date(), nullable=False),
        sa.Column("trusted_until", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_table(
        "mailbox_counts",
        sa.Column("mailbox", sa.LargeBinary(32), primary_key=True),
        sa.Column("kinds", sa.String(20), primary_key=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
    )
    op.add_column("mails", sa.Column("counted_on", sa.Date(), nullable=True))


def downgrade() -> None:
    """Drop the tables."""
    op.drop_column("mails", "counted_on")
    op.drop_table("mailbox_counts")
    op.drop_table("wrong_passwords")
