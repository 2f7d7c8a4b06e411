"""Erasing concurrently with other work: other workers, emails being sent, feedback, links to the same address."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from journeys import (
    CLOSED,
    ERASED,
    MakeService,
    MoveClock,
    ask_for_email_change,
    ask_for_erasure,
    at_once,
    before_the_ledger,
    cancel,
    close,
    closed_by,
    confirm_email_change,
    confirm_erasure,
    erase_due,
    fail_to_mail,
    finish_erasing,
    in_ledger,
    people,
    post,
    waits_for_a_lock,
)
from peers import MailServer, wait_for
from sqlalchemy import select
from support import OTHER_PASSWORD, Service

from backend.database.engine import transaction
from backend.database.models import Mail
from backend.database.service_tables import MailboxCount
from backend.privacy import erasure

ADA = "ada@example.org"
CLAIM = timedelta(seconds=61)


@pytest.mark.parametrize("reply", ["250 OK", "451 4.7.1 try again later", "550 5.1.1 no such mailbox"])
def test_erasing_while_an_email_is_being_sent_leaves_no_trace_of_it(
    hasty: Service, mail_server: MailServer, reply: str
) -> None:
    close(hasty, hasty.register().headers, erase=True)
    erased: list[int] = []
    recipients: list[str] = []

    async def handle_data(_server: SMTP, _session: Session, envelope: Envelope) -> str:
        erased.append(await asyncio.get_running_loop().run_in_executor(None, erase_due, hasty))
        recipients.append(str(envelope.content))
        return reply if len(recipients) == 1 else "250 OK"

    mail_server.handle_DATA = handle_data  # type: ignore[method-assign]
    hasty.deliver()
    assert erased == [1, 0]
    assert [subject in mail for subject, mail in zip((CLOSED, ERASED), recipients, strict=True)] == [True, True]
    assert hasty.rows("mails") == []
    assert hasty.rows("accounts") == []


def test_feedback_that_arrives_while_its_account_is_erased_is_refused_or_erased_with_it(hasty: Service) -> None:
    for number in range(3):
        person = hasty.register(email=f"ada{number}@example.org")

        def end(headers: dict[str, str] = person.headers) -> int:
            assert close(hasty, headers, erase=True).status_code == 200
            finish_erasing(hasty)
            return 0

        def say(headers: dict[str, str] = person.headers) -> int:
            return hasty.http.post("/v1/feedback", json={"message": "More tiles."}, headers=headers).status_code

        statuses = at_once(end, *[say] * 5)
        assert set(statuses) <= {0, 201, 401}
        finish_erasing(hasty)
        assert hasty.rows("feedback") == []
        assert hasty.rows("accounts") == []
        hasty.deliver()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_erasing_locks_the_count_of_a_mailbox_before_its_emails_as_the_worker_does(make_service: MakeService) -> None:
    service = make_service(rate_limits="", erasure_grace_days=0)
    close(service, service.register(email=ADA).headers, erase=True)
    post(service, "password-resets", email=ADA)
    service.deliver()
    post(service, "password-resets", email=ADA)
    with ThreadPoolExecutor(1) as thread, service.app.app_context():
        with transaction() as session:
            assert session.scalars(select(MailboxCount.count).with_for_update()).all()
            erasing = thread.submit(erase_due, service)
            wait_for(waits_for_a_lock)
            assert len(session.scalars(select(Mail.id).with_for_update(nowait=True)).all()) == 1
        assert erasing.result() == 1
    assert [service.rows(table) for table in ("accounts", "mailbox_counts")] == [[], []]


def test_several_concurrent_workers_erase_each_account_once(hasty: Service) -> None:
    everyone = people(hasty, 8)
    assert sum(at_once(*[lambda: erase_due(hasty)] * 4)) + finish_erasing(hasty) == 8
    assert sorted(message["To"] for message in hasty.deliver()) == sorted(person.email for person in everyone)
    assert len(in_ledger(hasty)) == len(set(in_ledger(hasty))) == 8
    assert [row["act"] for row in hasty.rows("audit")].count("erased") == 8


def test_a_worker_whose_claim_expired_and_its_successor_make_one_receipt(
    hasty: Service, move_clock: MoveClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(hasty, 2)
    after: list[int] = []

    def stall() -> None:
        move_clock(CLAIM)
        after.extend(at_once(lambda: erase_due(hasty)))

    before_the_ledger(monkeypatch, stall)
    assert erase_due(hasty) == 0
    assert after == [2]
    assert len(hasty.deliver()) == 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_workers_that_erase_two_accounts_of_one_address_leave_no_email_to_it(
    hasty: Service, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_by(hasty, hasty.register().headers, ADA, erase=True)
    second = hasty.register(password=OTHER_PASSWORD)
    fail_to_mail(hasty, mail_server, "password-resets", email=ADA)
    closed_by(hasty, second.headers, ADA, erase=True, password=OTHER_PASSWORD)
    monkeypatch.setattr(erasure, "BATCH", 1)
    other = threading.Thread(target=erase_due, args=(hasty,))

    def meet() -> None:
        """Let the other worker run as far as it can before this one has committed."""
        monkeypatch.undo()
        monkeypatch.setattr(erasure, "BATCH", 1)
        other.start()
        wait_for(lambda: not other.is_alive() or hasty.rows("pg_locks WHERE NOT granted"))

    monkeypatch.setattr(erasure, "leave_remains", meet)
    assert erase_due(hasty) == 1
    other.join()
    assert hasty.rows("accounts") == []
    assert [row["kind"] for row in hasty.rows("mails")] == ["erased", "erased"]


def test_all_links_to_one_address_and_two_workers_at_once_leave_one_open_account_at_most(
    hasty: Service, caplog: pytest.LogCaptureFixture
) -> None:
    bob = hasty.register(name="Bob", email="bob@example.org")
    caplog.set_level(logging.ERROR)
    for number in range(2):
        address = f"ada{number}@example.org"
        first = hasty.register(email=address)
        closed_by(hasty, first.headers, address)
        erasing = ask_for_erasure(hasty, address)
        registering = hasty.ask_to_register(email=address)
        changing = ask_for_email_change(hasty, bob.headers, address)
        second = hasty.register(email=address, password=OTHER_PASSWORD)
        opening = closed_by(hasty, second.headers, address, erase=True, password=OTHER_PASSWORD)
        statuses = at_once(
            lambda token=erasing: confirm_erasure(hasty, token).status_code,
            lambda token=opening: cancel(hasty, token).status_code,
            lambda token=registering: hasty.confirm(token).status_code,
            lambda token=changing: confirm_email_change(hasty, token).status_code,
            lambda: finish_erasing(hasty),
            lambda: finish_erasing(hasty),
        )
        assert set(statuses[:4]) <= {200, 201, 204, 400, 409}
        finish_erasing(hasty)
        assert [row["email"] for row in hasty.rows("accounts") if row["closed_at"] is None].count(address) <= 1
        assert [row for row in hasty.rows("accounts") if row["closed_at"]] == []
        hasty.deliver()
    assert caplog.text == ""
