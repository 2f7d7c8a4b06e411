"""Indexes for a long backlog of emails, and for the list of feedback that is done."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_INDEXES: dict[str, tuple[str, list[str | sa.TextClause], str]] = {
    "mails_email": ("mails", [sa.text("lower(email)")], "account_id IS NULL"),
    "feedback_done": ("feedback", ["received_at", "id"], "done_at IS NOT NULL"),
}


def upgrade() -> None:
    """Make the indexes."""
    op.create_index("mails_untried", "mails", ["abandoned_at", "attempts", "created_at"])
    for name, (table, columns, condition) in _INDEXES.items():
        rows = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=rows, postgresql_where=rows)


def downgrade() -> None:
    """Drop the indexes."""
    for name, (table, _, _) in _INDEXES.items():
        op.drop_index(name, table)
    op.drop_index("mails_untried", "mails")
