"""The data manager's desk: managers, their sessions, requests, replies, and who acted in the audit."""

import sqlalchemy as sa
from alembic import op

from backend.database.engine import UTCDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_BEGINS = {"accounts_email_begins": "email", "accounts_name_begins": "name"}


def upgrade() -> None:
    """Make the tables, the columns, and the indexes of the desk's lists and searches."""
    _managers()
    _requests()
    _replies()
    op.add_column("feedback", sa.Column("done_at", UTCDateTime(), nullable=True))
    op.add_column("announcements", sa.Column("stopped_at", UTCDateTime(), nullable=True))
    op.create_index("feedback_received", "feedback", ["received_at", "id"])
    with op.batch_alter_table("audit") as batch:
        batch.add_column(sa.Column("manager_id", sa.Uuid(), nullable=True))
        batch.alter_column("account_id", existing_type=sa.Uuid(), nullable=True)
    op.create_index("audit_at", "audit", ["at", "id"])
    op.create_index("audit_act", "audit", ["act", "at", "id"])
    op.create_index("audit_account", "audit", ["account_id", "act"])
    op.drop_index("ix_audit_account_id", "audit")
    op.create_index("accounts_told", "accounts", [sa.column("id").is_not(None), "closed_at", "email_updates"])
    op.create_index("accounts_name", "accounts", [sa.text("lower(name)")])
    _list("accounts_asked", "accounts", "erase_after", "erasure_requested_at IS NOT NULL")
    _list("feedback_open", "feedback", "received_at", "done_at IS NULL")
    if op.get_bind().dialect.name == "postgresql":
        for index, column in _BEGINS.items():
            op.create_index(index, "accounts", [sa.text(f"lower({column}) text_pattern_ops")])
        _sample_nothing_personal()


def _managers() -> None:
    op.create_table(
        "managers",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("sign_in_id", sa.Uuid(), nullable=False),
        sa.Column("invited_at", UTCDateTime(), nullable=False),
        sa.Column("removed_at", UTCDateTime(), nullable=True),
    )
    present = sa.text("removed_at IS NULL")
    op.create_index(
        "managers_email", "managers", [sa.text("lower(email)")], unique=True,
        sqlite_where=present, postgresql_where=present,
    )  # fmt: skip
    op.create_table(
        "desk_sessions",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("manager_id", sa.Uuid(), sa.ForeignKey("managers.id", ondelete="CASCADE"), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("signed_in_at", UTCDateTime(), nullable=False),
        sa.Column("last_used_at", UTCDateTime(), nullable=False),
    )
    op.create_index("ix_desk_sessions_manager_id", "desk_sessions", ["manager_id"])


def _requests() -> None:
    op.create_table(
        "data_requests",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("way", sa.String(20), nullable=False),
        sa.Column("identity", sa.String(500), nullable=False),
        sa.Column("received_on", sa.Date(), nullable=False),
        sa.Column("due_on", sa.Date(), nullable=False),
        sa.Column("extension", sa.String(500), nullable=True),
        sa.Column("done_on", sa.Date(), nullable=True),
        sa.Column("outcome", sa.String(500), nullable=True),
        sa.Column("recorded_at", UTCDateTime(), nullable=False),
    )
    op.create_index("ix_data_requests_account_id", "data_requests", ["account_id"])
    _list("data_requests_open", "data_requests", "due_on", "done_on IS NULL")
    _list("data_requests_done", "data_requests", "done_on", "done_on IS NOT NULL")


def _list(name: str, table: str, column: str, condition: str) -> None:
    """Make the index of a list that is read page by page."""
    where = sa.text(condition)
    op.create_index(name, table, [column, "id"], sqlite_where=where, postgresql_where=where)


def _replies() -> None:
    op.create_table(
        "replies",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("feedback_id", sa.Uuid(), sa.ForeignKey("feedback.id", ondelete="CASCADE"), nullable=False),
        sa.Column("account_id", sa.Uuid(), sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("written_at", UTCDateTime(), nullable=False),
    )
    op.create_index("ix_replies_feedback_id", "replies", ["feedback_id"])
    op.create_index("ix_replies_account_id", "replies", ["account_id"])


def _sample_nothing_personal() -> None:
    """Keep what people wrote out of PostgreSQL's statistics, where it would outlive the row."""
    for table, column in (("managers", "name"), ("managers", "email"), ("replies", "message")):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")
    for index in ("managers_email", "accounts_name", *_BEGINS):
        op.execute(f"ALTER INDEX {index} ALTER COLUMN 1 SET STATISTICS 0")


def downgrade() -> None:
    """Drop everything that the desk stored, and the entries of the audit that are about no account."""
    if op.get_bind().dialect.name == "postgresql":
        for index in _BEGINS:
            op.drop_index(index, "accounts")
    op.drop_index("accounts_name", "accounts")
    op.drop_index("accounts_asked", "accounts")
    op.drop_index("feedback_open", "feedback")
    op.drop_index("accounts_told", "accounts")
    op.drop_index("audit_act", "audit")
    op.drop_index("audit_account", "audit")
    op.create_index("ix_audit_account_id", "audit", ["account_id"])
    op.drop_index("audit_at", "audit")
    op.execute(sa.text("DELETE FROM audit WHERE account_id IS NULL"))
    with op.batch_alter_table("audit") as batch:
        batch.alter_column("account_id", existing_type=sa.Uuid(), nullable=False)
        batch.drop_column("manager_id")
    op.drop_index("feedback_received", "feedback")
    op.drop_column("announcements", "stopped_at")
    op.drop_column("feedback", "done_at")
    for table in ("replies", "data_requests", "desk_sessions", "managers"):
        op.drop_table(table)
