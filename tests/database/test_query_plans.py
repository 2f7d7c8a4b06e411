"""SQLite has no statistics: a new index must not replace a better one in frequent queries."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from support import Person, Service, token_of

from backend import clock
from backend.database import engine as db
from backend.privacy import erasure, ledger

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


@contextmanager
def whole_tables_read(service: Service) -> Iterator[list[str]]:
    """Yield a list that is filled, at the end, with each full scan of a growing table."""
    executed: list[tuple[str, Any]] = []

    def record(_connection: object, _cursor: object, statement: str, values: object, *_: object) -> None:
        executed.append((statement, values))

    with service.app.app_context():
        event.listen(db.db.engine, "before_cursor_execute", record)
    yield (scans := [])
    with service.app.app_context(), db.db.engine.connect() as connection:
        for statement, values in [step for step in executed if step[0].startswith(("SELECT", "UPDATE", "DELETE"))]:
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            scans += [step.detail for step in steps if re.match("SCAN (accounts|mails|audit|sessions)$", step.detail)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_changing_an_address_and_exporting_read_no_whole_table(service: Service, ada: Person) -> None:
    with whole_tables_read(service) as scans:
        new = {"email": "countess@example.org", "password": ada.password}
        assert service.http.post("/v1/account/email-changes", json=new, headers=ada.headers).status_code == 202
        token = token_of(service.mail())
        assert service.http.post("/v1/email-changes/confirm", json={"token": token}).status_code == 204
        assert service.http.get("/v1/account/export", headers=ada.headers).status_code == 200
    assert scans == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("ada")
def test_a_start_does_not_read_all_accounts_for_the_ledger(service: Service) -> None:
    with whole_tables_read(service) as scans, service.app.app_context():
        with ledger.opened() as append:
            append({uuid.uuid4(): clock.now()})
        assert erasure.replay() == erasure.Replayed(1, 0)
    assert scans == []
