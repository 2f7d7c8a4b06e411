"""Hundreds of accounts that are due at once are erased batch by batch, despite a kill, while others are served."""

import json
import os
import pty
import subprocess
import threading
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from apps import KEY, dispose
from forking import TILES
from peers import MailServer, wait_for
from server_process import ServerProcess, environment
from sqlalchemy import insert, text
from support import PASSWORD, Service, any_database

from backend.database import engine, models

pytestmark = pytest.mark.long

MANY = 210


def make_due(service: Service, number: int) -> None:
    """Insert this many accounts whose grace period is over."""
    now = datetime.now(UTC)
    ids = [uuid.uuid4() for _ in range(number)]
    accounts = [
        {"id": id_, "name": f"Person {id_}", "email": f"{id_}@example.net", "password_hash": "none",
         "credentials_id": uuid.uuid4(), "email_updates": True, "created_at": now, "closed_at": now,
         "erasure_requested_at": now - timedelta(days=14), "erase_after": now}
        for id_ in ids
    ]  # fmt: skip
    feedback = [{"id": uuid.uuid4(), "account_id": id_, "message": "More tiles.", "received_at": now} for id_ in ids]
    with service.app.app_context(), engine.transaction() as session:
        session.execute(insert(models.Account.__table__), accounts)
        session.execute(insert(models.Feedback.__table__), feedback)


def remaining(service: Service) -> int:
    """Return how many of them are left."""
    with service.app.app_context(), engine.reading() as session:
        return int(session.scalar(text("SELECT count(*) FROM accounts WHERE email LIKE '%@example.net'")) or 0)


def erased(service: Service) -> list[str]:
    """Return which accounts the audit says were erased."""
    return sorted(str(row["account_id"]) for row in service.rows("audit") if row["act"] == "erased")


def in_ledger(folder: Path) -> set[str]:
    """Return the accounts in the ledger."""
    lines = (folder / "erasures.jsonl").read_text("utf-8").splitlines()
    return {json.loads(line)["account"] for line in lines if line}


class Visitor(threading.Thread):
    """Registers and signs in again and again, and counts the responses by their status."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.gone, self.statuses = url, threading.Event(), Counter[int]()

    def run(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=30) as http:
            while not self.gone.wait(0.1):
                person = {"name": "Eve", "email": f"{uuid.uuid4().hex}@example.com"}
                self.statuses[http.post("/v1/registrations", json=person).status_code] += 1
                credentials = {"email": "ada@example.org", "password": PASSWORD}
                self.statuses[http.post("/v1/sessions", json=credentials).status_code] += 1


@pytest.mark.usefixtures("ada")
def test_hundreds_are_erased_and_emailed_once_each_while_others_are_served(
    service: Service, database_url: str, tmp_path: Path, mail_server: MailServer
) -> None:
    make_due(service, MANY)
    sent = len(mail_server.messages)
    settings = {"mail_server": mail_server.host, "mail_port": mail_server.port, "rate_limits": "off"}
    visitors = []
    with ServerProcess(tmp_path, database_url=database_url, secret_keys=KEY, **settings) as server:
        visitors = [Visitor(server.url) for _ in range(2)]
        for visitor in visitors:
            visitor.start()
        try:
            wait_for(lambda: not remaining(service), seconds=60)
            # A server that starts quickly may be done before the first visitor has a response.
            wait_for(lambda: all(len(visitor.statuses) > 1 for visitor in visitors))
        finally:
            for visitor in visitors:
                visitor.gone.set()
                visitor.join()

        def receipts() -> list[str]:
            return [str(message["To"]) for message in mail_server.messages[sent:] if "net" in str(message["To"])]

        wait_for(lambda: len(receipts()) >= MANY, seconds=60)
        assert set(Counter(receipts()).values()) == {1}
        assert len(in_ledger(server.instance_path)) == MANY
    assert sum((visitor.statuses for visitor in visitors), Counter[int]()).keys() == {201, 202}
    assert len(erased(service)) == len(set(erased(service))) == MANY
    assert service.rows("feedback") == []
    assert [row["email"] for row in service.rows("accounts")] == ["ada@example.org"]


def erase_due(service: Service, database_url: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the data manager's command without waiting for it."""
    dispose(service.app)
    return subprocess.Popen(
        [TILES, "data", "erase", "--due", "--yes", "--json"],
        env=environment(folder, database_url=database_url, secret_keys=KEY),
        text=True,
        **options,
    )


def test_a_killed_command_can_be_run_again_and_nobody_is_emailed_twice(
    service: Service, database_url: str, tmp_path: Path, mail_server: MailServer
) -> None:
    make_due(service, MANY)
    ledger = tmp_path / "erasures.jsonl"
    killed = erase_due(service, database_url, tmp_path, stdout=subprocess.DEVNULL)
    wait_for(lambda: ledger.exists() and ledger.stat().st_size)
    killed.kill()
    killed.wait()
    assert 0 < remaining(service) <= MANY
    # The killed process keeps its claim for a minute.
    with service.app.app_context(), engine.transaction() as session:
        session.execute(text("UPDATE accounts SET erasing_since = :before WHERE erasing_since IS NOT NULL"),
                        {"before": datetime.now(UTC) - timedelta(minutes=2)})  # fmt: skip
    unerased = remaining(service)
    again = erase_due(service, database_url, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = again.communicate(timeout=60)
    assert json.loads(stdout) == {"erased": unerased}
    assert stderr == ""
    assert remaining(service) == 0
    assert len(erased(service)) == len(set(erased(service))) == MANY
    assert len(in_ledger(tmp_path)) == MANY
    before = len(mail_server.messages)
    while service.deliver():
        pass
    emails_by_recipient = Counter(str(message["To"]) for message in mail_server.messages[before:])
    assert len(emails_by_recipient) == MANY
    assert set(emails_by_recipient.values()) == {1}


@any_database
def test_progress_is_shown_on_a_terminal(service: Service, database_url: str, tmp_path: Path) -> None:
    make_due(service, 110)
    mine, its = pty.openpty()
    erasing = erase_due(service, database_url, tmp_path, stdout=subprocess.PIPE, stderr=its)
    stdout, _ = erasing.communicate(timeout=60)
    os.close(its)
    progress = os.read(mine, 10_000).decode()
    os.close(mine)
    assert json.loads(stdout) == {"erased": 110}
    assert "Erasing" in progress
    assert "100%" in progress
