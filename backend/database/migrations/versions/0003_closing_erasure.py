"""Changing the address, closing and erasing; holds, disclosures, the audit; announcements."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
NEW_COLUMNS = (
    ("taken_back_at", MOMENT),
    ("erasure_requested_at", MOMENT),
    ("erase_after", MOMENT),
    ("erasing_since", MOMENT),
)
# PostgreSQL samples what columns hold into its statistics, where it would outlive the row. No query of ours needs them.
UNSAMPLED_COLUMNS = {
    "accounts": {"name": "VARCHAR(200)", "email": "VARCHAR(254)", "password_hash": "VARCHAR(255)"},
    "previous_addresses": {"email": "VARCHAR(254)"},
    "feedback": {"message": "TEXT"},
    "mails": {"name": "VARCHAR(200)", "email": "VARCHAR(254)"},
    "holds": {"basis": "VARCHAR(500)"},
}
UNSAMPLED_INDEXES = ("accounts_open_email", "accounts_closed_email")


def upgrade() -> None:
    """Add the columns and make the tables."""
    for name, kind in NEW_COLUMNS:
        op.add_column("accounts", sa.Column(name, kind))
    op.add_column("mails", sa.Column("about", sa.Uuid()))
    _make_partial_index("accounts_closed_email", [sa.text("lower(email)")], "closed_at IS NOT NULL")
    _make_partial_index("accounts_erase_after", ["erase_after"], "erase_after IS NOT NULL")
    op.create_table(
        "previous_addresses",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
    )
    op.create_index("ix_previous_addresses_account_id", "previous_addresses", ["account_id"])
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("basis", sa.String(500), nullable=False),
        sa.Column("placed_at", MOMENT, nullable=False),
        sa.Column("until", MOMENT, nullable=False),
    )
    op.create_index("ix_holds_account_id", "holds", ["account_id"])
    op.create_table(
        "announcements",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("policy_version", sa.String(40)),
        sa.Column("subject", sa.String(500)),
        sa.Column("text", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("parts_made", sa.Integer(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.Column("finished_at", MOMENT),
    )
    op.create_table(
        "disclosures",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("authority", sa.String(500), nullable=False),
        sa.Column("basis", sa.String(500), nullable=False),
        sa.Column("disclosed_at", MOMENT, nullable=False),
    )
    op.create_index("ix_disclosures_account_id", "disclosures", ["account_id"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("act", sa.String(40), nullable=False),
        sa.Column("actor", sa.String(20), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_index("ix_audit_account_id", "audit", ["account_id"])
    if op.get_bind().dialect.name == "postgresql":
        _sample_nothing_personal()


def _make_partial_index(name: str, columns: list[str | sa.TextClause], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "accounts", columns, sqlite_where=where, postgresql_where=where)


def _sample_nothing_personal() -> None:
    for table, columns in UNSAMPLED_COLUMNS.items():
        for column, kind in columns.items():
            # To the type that it has: nothing is written anew, and what was sampled so far is forgotten.
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}")
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")
    for index in UNSAMPLED_INDEXES:
        op.execute(f"ALTER INDEX {index} ALTER COLUMN 1 SET STATISTICS 0")


def downgrade() -> None:
    """Drop the tables and the columns with all that they hold."""
    for table in ("audit", "disclosures", "announcements", "holds", "previous_addresses"):
        op.drop_table(table)
    op.drop_index("accounts_erase_after", "accounts")
    op.drop_index("accounts_closed_email", "accounts")
    op.drop_column("mails", "about")
    for name, _ in reversed(NEW_COLUMNS):
        op.drop_column("accounts", name)
