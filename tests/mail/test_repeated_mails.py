"""A registration's mail that goes out twice: its second copy waits while the account lives, and goes with it."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from journeys import MoveClock, account_id, change_email, close, erase_due
from lifecycle_steps import PostOffice
from support import MailServer, Service, bearer, token_of

from backend.desk import operations
from backend.mail import queue

OLD, NEW, NAME = "eve@example.net", "evelyn@example.org", "Eve Nemoquill"


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """It takes the first mail, and loses its own answer."""
    with PostOffice() as server:
        server.way = {OLD: "twice"}
        yield server


def nothing(_service: Service, _headers: dict[str, str]) -> None:
    """Leave it as it is."""


def move(service: Service, headers: dict[str, str]) -> None:
    change_email(service, headers, NEW)


def retry(service: Service, _headers: dict[str, str]) -> None:
    with service.app.app_context():
        queue.retry()


@pytest.mark.parametrize("before", [nothing, move])
@pytest.mark.parametrize("after", [nothing, retry])
def test_the_second_copy_of_a_registration_is_erased_with_the_account(
    service: Service,
    move_clock: MoveClock,
    before: Callable[[Service, dict[str, str]], None],
    after: Callable[[Service, dict[str, str]], None],
) -> None:
    assert service.http.post("/v1/registrations", json={"name": NAME, "email": OLD}).status_code == 202
    (message,) = service.deliver()
    headers = bearer(service.confirm(token_of(message)).json["session"]["token"])
    assert [row["name"] for row in service.rows("mails")] == [NAME]
    account = account_id(service, OLD)
    before(service, headers)
    move_clock(timedelta(seconds=1))
    assert close(service, headers).status_code == 200
    move_clock(timedelta(seconds=1))
    after(service, headers)
    with service.app.app_context():
        operations.erase(str(account), at_once=True)
    assert erase_due(service) == 1
    assert [(row["kind"], row["name"]) for row in service.rows("mails")] == [("erased", None)]
