"""Announce to people in small batches, and see whom it reaches."""

import uuid
from email.message import EmailMessage

import pytest
from sqlalchemy import insert
from support import Person, Service

from backend import clock
from backend.database import engine as db
from backend.database.models import Account
from backend.mail.news import News
from backend.privacy import announcements
from backend.privacy.announcements import Progress
from backend.serving import worker

NEWS = "Hello,\n\nthere are new tiles.\n"
BATCH = 8


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "BATCH", BATCH)


def announce(service: Service, subject: str = "News", text: str = NEWS) -> Progress:
    return service.run(announcements.announce, News(subject, text))


def progress(service: Service, begun: Progress) -> Progress:
    return service.run(announcements.progress, begun.announcement)


def queue_some(service: Service) -> int:
    return service.run(announcements.queue_some)


def queue_all(service: Service) -> list[int]:
    """Queue every email, and return how many each batch had."""
    batches = []
    while batch := queue_some(service):
        batches.append(batch)
    return batches


def work_off(service: Service) -> list[EmailMessage]:
    """Let the worker queue and send until nothing is left to do; return the emails that arrived."""
    before = len(service.mail_server.messages)
    with service.app.app_context():
        while worker.deliver():
            pass
    return service.mail_server.messages[before:]


def recipients(messages: list[EmailMessage]) -> list[str]:
    return sorted(message["To"] for message in messages)


def add_recipients(service: Service, number: int) -> list[str]:
    """Insert accounts that want emails; return the addresses."""
    rows = [
        {"id": uuid.uuid4(), "name": None, "email": f"person{index:04}@example.org", "password_hash": "none",
         "credentials_id": uuid.uuid4(), "email_updates": True, "created_at": clock.now()}
        for index in range(number)
    ]  # fmt: skip
    with service.app.app_context(), db.transaction() as session:
        session.execute(insert(Account), rows)
    return [row["email"] for row in rows]


def queued(service: Service) -> list[uuid.UUID]:
    """Return the account of each queued email of an announcement."""
    return [uuid.UUID(str(row["account_id"])) for row in service.rows("mails") if row["kind"] == "announcement"]


def switch(service: Service, person: Person, *, email_updates: bool) -> None:
    response = service.http.patch("/v1/account", json={"email_updates": email_updates}, headers=person.headers)
    assert response.status_code == 200
