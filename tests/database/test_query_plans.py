"""Frequent queries find their rows by an index, on SQLite without statistics and on PostgreSQL in its order."""

import re
import uuid

import pytest
from peers import token_of
from query_plans import plans
from support import Person, Service

from backend import clock
from backend.database import engine as db
from backend.desk import operations
from backend.mail import queue
from backend.privacy import erasure, ledger
from backend.serving import worker

WHOLE_TABLE = re.compile(r"SCAN (accounts|mails|audit|sessions)$", re.MULTILINE)
# SQLite says nothing of a sort that its index makes unnecessary.
EVERY_EMAIL = re.compile(
    r"Seq Scan on mails|SCAN mails|Sort Key: .*mails.*_at|USE TEMP B-TREE FOR ORDER BY"
    # Only that it waits, which all do.
    r"|Index Cond: \(abandoned_at IS NULL\)$|\(abandoned_at=\?\)$",
    re.MULTILINE,
)
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
    "ORDER BY abandoned_at, due_at LIMIT 20": "mails_due (abandoned_at=?)",
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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_changing_an_address_and_exporting_read_no_whole_table(service: Service, ada: Person) -> None:
    with plans(service) as executed:
        new = {"email": "countess@example.org", "password": ada.password}
        assert service.http.post("/v1/account/email-changes", json=new, headers=ada.headers).status_code == 202
        token = token_of(service.mail())
        assert service.http.post("/v1/email-changes/confirm", json={"token": token}).status_code == 204
        assert service.http.get("/v1/account/export", headers=ada.headers).status_code == 200
    assert [plan for plan in executed if WHOLE_TABLE.search(plan)] == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("ada")
def test_a_start_does_not_read_all_accounts_for_the_ledger(service: Service) -> None:
    with plans(service) as executed, service.app.app_context():
        with ledger.opened() as append:
            append({uuid.uuid4(): clock.now()})
        assert erasure.replay() == erasure.Replayed(1, 0)
    assert [plan for plan in executed if WHOLE_TABLE.search(plan)] == []


def test_the_worker_neither_reads_nor_sorts_all_waiting_emails(service: Service) -> None:
    for number in range(3):
        service.http.post("/v1/password-resets", json={"email": f"person{number}@example.org"})
    with plans(service) as executed, service.app.app_context():
        assert queue.is_due()
        assert worker.deliver() == 3
        assert not queue.is_due()
        queue.blocked()
        queue.oldest_seconds()
        list(queue.tidy())
    of_queue = [plan for plan in executed if re.match("(SELECT .*FROM|UPDATE|DELETE FROM) mails", plan, re.DOTALL)]
    assert len(of_queue) > 10
    assert [plan for plan in of_queue if EVERY_EMAIL.search(plan)] == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_erasing_finds_the_emails_to_many_addresses_by_their_index(service: Service) -> None:
    people = [service.register(name=f"Person {number}", email=f"person{number}@example.org") for number in range(20)]
    for person in people:
        service.run(operations.erase, person.email, at_once=True)
    with plans(service) as executed, service.app.app_context():
        assert erasure.erase_due() == len(people)
    (deleting,) = [plan for plan in executed if plan.startswith("DELETE FROM mails")]
    assert "mails_email (<expr>=?)" in deleting
