"""Many rows are deleted or changed in small transactions, so that no request waits long for SQLite's write lock."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, insert
from support import Service

from backend.database import engine as db
from backend.database import steps
from backend.database.models import AuditEntry, Mail
from backend.database.service_tables import MailboxCount, WrongPassword
from backend.mail import queue
from backend.serving import worker

MANY, BATCH = 7, 2
OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def changes(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each UPDATE and DELETE changed, with small steps."""
    monkeypatch.setattr(steps, "BATCH", BATCH)
    numbers: list[int] = []

    def note(_connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("UPDATE", "DELETE")):
            numbers.append(cursor.rowcount)  # type: ignore[attr-defined]

    with service.app.app_context():
        event.listen(db.db.engine, "after_cursor_execute", note)
        yield numbers
        event.remove(db.db.engine, "after_cursor_execute", note)


def mails(**columns: object) -> list[dict[str, object]]:
    at = {"created_at": OLD, "due_at": OLD, "attempts": 1}
    return [
        {"id": uuid.uuid4(), "kind": "password_reset", "email": "a@example.org", **at, **columns} for _ in range(MANY)
    ]


def add(service: Service, table: type[db.Base], rows: list[dict[str, object]]) -> None:
    with service.app.app_context(), db.transaction() as session:
        session.execute(insert(table), rows)


def test_tidying_deletes_many_rows_of_each_table_in_small_steps(service: Service, changes: list[int]) -> None:
    entry = {"act": "closed", "actor": "service", "at": OLD, "details": {}}
    add(service, AuditEntry, [{"id": uuid.uuid4(), **entry} for _ in range(MANY)])
    digests = [bytes([number]) * 32 for number in range(MANY)]
    wrong = {"client": b"", "count": 1, "last_on": OLD.date()}
    add(service, WrongPassword, [{"address": digest, **wrong} for digest in digests])
    add(service, MailboxCount, [{"mailbox": digest, "kinds": "x", "day": OLD.date(), "count": 1} for digest in digests])
    add(service, Mail, mails(abandoned_at=OLD))
    assert service.run(lambda: len(list(worker.tidy()))) >= 4 * (MANY // BATCH)
    assert max(changes) == BATCH
    assert [service.rows(name) for name in ("audit", "wrong_passwords", "mailbox_counts", "mails")] == [[], [], [], []]


def test_late_receipts_are_deleted_and_counted_as_given_up(service: Service) -> None:
    add(service, Mail, mails(kind="erased"))
    service.run(lambda: list(queue.tidy()))
    assert service.rows("mails") == []
    assert [(row["event"], row["value"]) for row in service.rows("totals")] == [("mails_given_up", MANY)]


@pytest.mark.parametrize("attempts", [0, 1])
def test_late_emails_are_given_up_in_small_steps_and_all_are_counted(
    service: Service, changes: list[int], attempts: int
) -> None:
    add(service, Mail, mails(attempts=attempts))
    service.run(lambda: list(queue.tidy()))
    assert max(changes) == BATCH
    assert service.run(queue.status) == queue.Status(0, 0, MANY, 0)
    assert [(row["event"], row["value"]) for row in service.rows("totals")] == [("mails_given_up", MANY)]


def test_many_emails_are_retried_in_small_steps(service: Service, changes: list[int]) -> None:
    add(service, Mail, mails(blocked_at=OLD))
    add(service, Mail, mails(abandoned_at=OLD))
    assert service.run(queue.retry) == 2 * MANY
    assert max(changes) == BATCH
    assert service.run(queue.status).waiting == 2 * MANY


def test_many_emails_stop_waiting_for_the_operator_in_small_steps(service: Service, changes: list[int]) -> None:
    add(service, Mail, mails(blocked_at=OLD))
    service.run(queue.unblock)
    assert max(changes) == BATCH
    assert service.run(queue.blocked) == {}
