"""Accounts, their sessions, and the mail queue."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.String(200)),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("credentials_id", sa.Uuid(), nullable=False),
        sa.Column("email_updates", sa.Boolean(), nullable=False),
        sa.Column("accepted_policy", sa.String(40)),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("closed_at", moment),
    )
    op.create_index(
        "accounts_open_email",
        "accounts",
        [sa.text("lower(email)")],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("credentials_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("last_used_on", sa.Date(), nullable=False),
    )
    op.create_index("ix_sessions_account_id", "sessions", ["account_id"])
    op.create_table(
        "mails",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("email", sa.String(254)),
        sa.Column("name", sa.String(200)),
        sa.Column("account_id", sa.Uuid(), sa.ForeignKey("accounts.id", ondelete="CASCADE")),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("claim", sa.Uuid()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failure", sa.String(40)),
        sa.Column("abandoned_at", moment),
    )
    op.create_index("ix_mails_account_id", "mails", ["account_id"])
    op.create_index("mails_due", "mails", ["abandoned_at", "due_at"])


def downgrade() -> None:
    """Drop the tables with all that they hold."""
    op.drop_table("mails")
    op.drop_table("sessions")
    op.drop_table("accounts")
