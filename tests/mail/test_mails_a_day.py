"""A mailbox gets at most five emails of a group a day, and no group blocks another."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from journeys import at_once, request_email_change, tidy, waits_for_a_lock
from mailing import Make, MoveClock, postgresql_only
from peers import MailServer, token_of, wait_for
from sqlalchemy import delete, insert, select
from support import OTHER_PASSWORD, PASSWORD, Service, any_database

from backend import clock
from backend.database import engine as db
from backend.database.service_tables import MailboxCount
from backend.desk import managers
from backend.mail import delivery, mailboxes, queue

ADA = "ada@example.org"
KINDS = "registration", "password-reset", "erasure-request"
OFTEN = ",".join(f"{kind}/{key}=1000/hour" for kind in KINDS for key in ("address+client", "client"))
PATHS = {"registrations": {"name": "Eve"}, "password-resets": {}, "erasure-requests": {}}


@pytest.fixture(autouse=True)
def noon(move_clock: MoveClock) -> None:
    """Move the clock to noon, so that no day ends during a test."""
    now = clock.now()
    move_clock(now.replace(hour=12) - now)


@pytest.fixture
def service(make_service: Make) -> Service:
    return make_service(rate_limits=OFTEN)


def request(service: Service, path: str, email: str, times: int = 1) -> None:
    for _ in range(times):
        assert service.http.post(f"/v1/{path}", json={"email": email, **PATHS[path]}).status_code == 202


def request_everything(service: Service, *emails: str) -> None:
    for path in PATHS:
        for email in emails:
            request(service, path, email, 4)


def test_a_mailbox_gets_15_emails_a_day_over_all_kinds_and_tags(service: Service, move_clock: MoveClock) -> None:
    service.register(email=ADA)
    move_clock(timedelta(days=1))
    request_everything(service, ADA, ADA.upper(), "ada+a@example.org", "ada+b+c@example.org")
    service.deliver()
    counted = Counter(
        message["To"].lower().replace("+", "@").partition("@")[0] for message in service.mail_server.messages
    )
    # A reset for a +tag without an account counts too, though no email is sent. One email was sent yesterday.
    assert counted["ada"] <= 16
    assert {row["count"] for row in service.rows("mailbox_counts")} <= {0, 5}
    assert service.rows("mails") == []
    (over,) = (row["value"] for row in service.rows("totals") if row["event"] == "mails_over_limit")
    assert over == 3 * 16 - 15


def test_changes_to_an_address_have_a_limit_of_their_own(service: Service) -> None:
    people = [service.register(email=email) for email in ("eve@example.org", "gus@example.org")]
    request(service, "registrations", ADA, 8)
    for person in people:
        for tag in ("", "+a", "+b"):
            assert request_email_change(service, person.headers, f"ada{tag}@example.org").status_code == 202
    subjects = Counter(message["Subject"] for message in service.deliver())
    assert list(subjects.values()) == [5, 5], subjects


def test_one_kind_of_email_blocks_no_other_and_counts_restart_the_next_day(
    service: Service, move_clock: MoveClock
) -> None:
    service.register(email=ADA)
    for path, subject in (("erasure-requests", "erase"), ("password-resets", "password"), ("registrations", "account")):
        request(service, path, ADA, 8)
        arrived = service.deliver()
        assert len(arrived) == 5
        assert all(subject in message["Subject"].lower() for message in arrived), arrived[0]["Subject"]
    move_clock(timedelta(days=1))
    request(service, "password-resets", ADA)
    assert len(service.deliver()) == 1


def test_links_in_the_mailbox_work_and_using_one_allows_one_more_email(service: Service, move_clock: MoveClock) -> None:
    service.register(email=ADA)
    request(service, "password-resets", ADA, 8)
    links = [token_of(message) for message in service.deliver()]
    assert len(links) == 5
    move_clock(timedelta(hours=11))
    for password in (OTHER_PASSWORD, PASSWORD, OTHER_PASSWORD, PASSWORD):
        assert service.reset(links[-1], password).status_code == 204
        service.deliver()
        assert service.reset(links[0], password).status_code == 400
        request(service, "password-resets", ADA, 8)
        links.append(token_of(service.mail()))


def test_a_notice_of_a_change_is_always_sent(service: Service) -> None:
    ada = service.register(email=ADA)
    request_everything(service, ADA, ADA)
    service.deliver()
    for current, new in pairwise([PASSWORD, OTHER_PASSWORD] * 4):
        body = {"current_password": current, "new_password": new}
        assert service.http.put("/v1/account/password", json=body, headers=ada.headers).status_code == 204
    assert len(service.deliver()) == 7


def refuse(service: Service, mail_server: MailServer, move_clock: MoveClock) -> None:
    mail_server.refuse = "451 later"
    assert service.deliver() == []
    mail_server.refuse = None
    move_clock(timedelta(minutes=30))


def release(service: Service, _mail_server: MailServer, _move_clock: MoveClock) -> None:
    with service.app.app_context():
        claim, claimed = queue.take()
        assert len(claimed) == 5
        queue.release(claim)


@pytest.mark.parametrize("take", [refuse, release])
def test_an_email_that_is_tried_or_claimed_again_is_counted_once(
    service: Service, mail_server: MailServer, move_clock: MoveClock, take: Callable[..., None]
) -> None:
    request(service, "registrations", ADA, 5)
    for _ in range(4):
        take(service, mail_server, move_clock)
    assert len(service.deliver()) == 5


@any_database
def test_a_flood_for_one_mailbox_delays_no_email_to_another(service: Service) -> None:
    with service.app.app_context():
        for number in range(100):
            queue.accept("password_reset", email=f"ada+{number}@example.org")
        queue.accept("registration", name="Bob", email="bob@example.org")
        delivery.deliver()
    assert [message["To"] for message in service.mail_server.messages] == ["bob@example.org"]


@any_database
def test_counts_name_nobody_and_end_with_the_day(service: Service, move_clock: MoveClock) -> None:
    for _ in range(2):
        request(service, "registrations", ADA)
        service.deliver()
        move_clock(timedelta(days=1))
    digests = {bytes(row["mailbox"]) for row in service.rows("mailbox_counts")}
    assert [len(digest) for digest in digests] == [32, 32]
    move_clock(timedelta(days=-1))
    tidy(service)
    assert len(service.rows("mailbox_counts")) == 1


@pytest.mark.parametrize(
    ("email", "mailbox"),
    [("Ada+a@Example.org", ADA), (ADA, ADA), ("ada+a+b@example.org", ADA), ("+a@example.org", "+a@example.org"),
     ("+a+b@example.org", "+a@example.org")],
)  # fmt: skip
def test_a_mailbox_is_an_address_without_its_tag(email: str, mailbox: str) -> None:
    assert mailboxes.mailbox(email) == mailbox


@postgresql_only
def test_erasing_and_counting_lock_mailboxes_in_the_same_order(service: Service) -> None:
    emails = [f"person{number}@example.org" for number in range(4)]
    for email in emails:
        request(service, "password-resets", email)
    service.deliver()
    # A plain DELETE would lock them in the order in which they are stored.
    rows = sorted(service.rows("mailbox_counts"), key=lambda row: bytes(row["mailbox"]), reverse=True)

    def forget() -> None:
        with service.app.app_context(), db.transaction():
            mailboxes.forget(emails)

    with service.app.app_context(), db.transaction() as session:
        session.execute(delete(MailboxCount))
        session.execute(insert(MailboxCount), rows)
    with ThreadPoolExecutor(1) as thread, service.app.app_context():
        with db.transaction() as session:
            *others, first = [
                select(1).where(MailboxCount.mailbox == row["mailbox"]).with_for_update(nowait=True) for row in rows
            ]
            session.execute(first)
            forgetting = thread.submit(forget)
            wait_for(waits_for_a_lock)
            for other in others:
                session.execute(other)
        forgetting.result()
    assert service.rows("mailbox_counts") == []


def test_strangers_keep_a_manager_out_for_less_than_an_hour(make_service: Make, move_clock: MoveClock) -> None:
    service = make_service(rate_limits="desk-sign-in/client=1000/hour,desk-sign-in/address+client=1000/hour")
    with service.app.app_context():
        managers.invite("mary@example.org", "Mary")

    def links(number: int) -> int:
        for _ in range(number):
            assert service.http.post("/desk/sign-in", data={"email": "mary@example.org"}).status_code == 200
        return len(service.deliver())

    assert links(mailboxes.MOST_AN_HOUR + 5) == mailboxes.MOST_AN_HOUR
    move_clock(timedelta(hours=1))
    assert links(1) == 1
    service.run(lambda: give_back("mary@example.org"))
    assert {row["count"] for row in service.rows("mailbox_counts")} == {mailboxes.MOST_AN_HOUR, 0}


def give_back(email: str) -> None:
    with db.transaction():
        mailboxes.give_back(email)


@postgresql_only
@pytest.mark.long
def test_emails_and_used_links_of_a_mailbox_never_deadlock(service: Service) -> None:
    for path in PATHS:
        request(service, path, ADA)
    service.deliver()

    def count() -> None:
        with service.app.app_context(), db.transaction():
            rows: list[Any] = [SimpleNamespace(id=uuid4(), email=ADA, kind=kind) for kind in mailboxes.GROUPS]
            mailboxes.count(rows)

    def give() -> None:
        with service.app.app_context():
            give_back(ADA)

    for _ in range(40):
        at_once(count, give, count, give)
