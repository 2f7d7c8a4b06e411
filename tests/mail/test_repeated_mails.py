"""A registration's email that goes out twice: the queued second copy is erased with the account."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from journeys import account_id, change_email, close, erase_due
from lifecycle_run import PostOffice
from mailing import MoveClock, retry
from pairwise import on_one_database_each
from peers import MailServer, token_of
from sqlalchemy import insert
from support import Service, bearer

from backend import clock
from backend.database.engine import transaction
from backend.database.models import Mail
from backend.desk import operations
from backend.mail import queue
from backend.privacy import erasure

OLD, NEW, NAME = "eve@example.net", "evelyn@example.org", "Eve Nemoquill"


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A server that accepts the first email, and loses its own reply."""
    with PostOffice() as server:
        server.way = {OLD: "twice"}
        yield server


@on_one_database_each(
    "meanwhile", [(), ("moves",), ("retries",), ("moves", "retries")], ["nothing", "moves", "retries", "both"]
)
def test_the_second_copy_of_a_registration_is_erased_with_the_account(
    service: Service, move_clock: MoveClock, meanwhile: tuple[str, ...]
) -> None:
    assert service.http.post("/v1/registrations", json={"name": NAME, "email": OLD}).status_code == 202
    (message,) = service.deliver()
    headers = bearer(service.confirm(token_of(message)).json["session"]["token"])
    assert [row["name"] for row in service.rows("mails")] == [NAME]
    account = account_id(service, OLD)
    if "moves" in meanwhile:
        change_email(service, headers, NEW)
    move_clock(timedelta(seconds=1))
    assert close(service, headers).status_code == 200
    move_clock(timedelta(seconds=1))
    if "retries" in meanwhile:
        retry(service)
    service.run(operations.erase, str(account), at_once=True)
    assert erase_due(service) == 1
    assert [(row["kind"], row["name"]) for row in service.rows("mails")] == [("erased", None)]


def test_a_retry_keeps_no_registration_that_is_older_than_the_closing(hasty: Service) -> None:
    ada = hasty.register(email=OLD)
    now = clock.now()
    row = {"id": uuid4(), "kind": "registration", "email": OLD, "name": NAME, "attempts": 1, "due_at": now}
    with hasty.app.app_context(), transaction() as session:
        session.execute(insert(Mail), {**row, "created_at": now - timedelta(hours=5)})
    close(hasty, ada.headers, erase=True)
    assert hasty.run(queue.retry) == 0
    hasty.run(erasure.erase_due)
    assert {row["kind"] for row in hasty.rows("mails")} == {"erased"}
