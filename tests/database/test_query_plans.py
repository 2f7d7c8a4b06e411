"""SQLite has no statistics: a new index must not make it leave a better one for queries that are asked often."""

import pytest
from support import Service

from backend.database import engine as db

PLANS = {
    "SELECT id FROM audit WHERE account_id = 'a' AND act = 'erased' LIMIT 1": "audit_account (account_id=? AND act=?)",
    "SELECT id FROM audit WHERE account_id = 'a' ORDER BY at DESC LIMIT 9": "audit_account (account_id=?)",
    "SELECT id FROM audit WHERE act = 'held' AND (at, id) < ('a', 'b') ORDER BY at DESC, id DESC LIMIT 51":
        "audit_act (act=? AND (at,id)<(?,?))",
    "SELECT id FROM audit WHERE (at, id) < ('a', 'b') ORDER BY at DESC, id DESC LIMIT 51": "audit_at ((at,id)<(?,?))",
    "SELECT id FROM accounts WHERE email_updates = 1 AND closed_at IS NULL AND id BETWEEN 'a' AND 'b'":
        "sqlite_autoindex_accounts_1 (id>? AND id<?)",
    "SELECT id FROM accounts WHERE lower(email) = lower('a') AND closed_at IS NULL": "accounts_open_email (<expr>=?)",
    "SELECT id FROM accounts WHERE lower(email) >= 'a' AND lower(email) < 'b' AND closed_at IS NULL LIMIT 50":
        "accounts_open_email (<expr>>? AND <expr><?)",
    "SELECT count(*) FROM accounts WHERE email_updates = 1 AND closed_at IS NULL": "accounts_told",
    "SELECT created_at FROM mails WHERE abandoned_at IS NULL AND attempts = 0 "
    "ORDER BY abandoned_at, attempts, created_at LIMIT 1": "mails_untried (abandoned_at=? AND attempts=?)",
    "SELECT id FROM mails WHERE abandoned_at IS NULL AND (due_at <= 'a' OR attempts = 0 AND claim IS NULL) "
    "ORDER BY due_at LIMIT 20": "mails_due (abandoned_at=?)",
    "DELETE FROM mails WHERE account_id IS NULL AND kind != 'erased' AND lower(email) IN ('a')":
        "mails_email (<expr>=?)",
    "SELECT id FROM feedback WHERE done_at IS NOT NULL AND (received_at, id) < ('a', 'b') "
    "ORDER BY received_at DESC, id DESC LIMIT 51": "feedback_done ((received_at,id)<(?,?))",
}  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("query", "index"), PLANS.items())
def test_a_query_uses_its_index_without_statistics(service: Service, query: str, index: str) -> None:
    with service.app.app_context(), db.reading() as session:
        (step,) = [row.detail for row in session.execute(db.text(f"EXPLAIN QUERY PLAN {query}"))][:1]
    assert step.endswith(f"INDEX {index}")
