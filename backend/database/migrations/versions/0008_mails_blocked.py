"""What mails wait for something that the operator has to mend."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BLOCKED = sa.text("blocked_at IS NOT NULL")
CLAIMED = sa.text("claim IS NOT NULL")


def upgrade() -> None:
    """Add the column; no mail is blocked yet."""
    op.add_column("mails", sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("mails_blocked", "mails", ["blocked_at"], sqlite_where=BLOCKED, postgresql_where=BLOCKED)
    op.create_index("mails_claim", "mails", ["claim"], sqlite_where=CLAIMED, postgresql_where=CLAIMED)


def downgrade() -> None:
    """Drop the column."""
    op.drop_index("mails_claim", "mails")
    op.drop_index("mails_blocked", "mails")
    op.drop_column("mails", "blocked_at")
