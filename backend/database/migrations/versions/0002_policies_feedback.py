"""Policy versions, and feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "policies",
        sa.Column("version", sa.String(40), primary_key=True),
        sa.Column("effective_on", sa.Date(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("published_at", moment, nullable=False),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), sa.ForeignKey("accounts.id", ondelete="CASCADE")),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("received_at", moment, nullable=False),
        sa.Column("key_sha256", sa.LargeBinary(32), unique=True),
    )
    op.create_index("ix_feedback_account_id", "feedback", ["account_id"])


def downgrade() -> None:
    """Drop the tables with all that they hold."""
    op.drop_table("feedback")
    op.drop_table("policies")
