"""The index of emails' addresses without PostgreSQL's samples of them, which would outlive the emails."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index anew, which drops its samples."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("mails_email", "mails")
        rows = sa.text("account_id IS NULL")
        op.create_index("mails_email", "mails", [sa.text("lower(email)")], postgresql_where=rows)
        op.execute("ALTER INDEX mails_email ALTER COLUMN 1 SET STATISTICS 0")


def downgrade() -> None:
    """Sample again."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX mails_email ALTER COLUMN 1 SET STATISTICS -1")
