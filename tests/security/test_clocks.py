"""Two machines whose clocks differ: what one makes is good on the other."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from journeys import MakeService
from support import Service, any_database, assert_problem, bearer, token_of
from test_keys import JOURNEYS

from backend.security.tokens import LIFETIMES, Purpose

MoveClock = Callable[[timedelta], None]
APART = timedelta(seconds=90)


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """The service without a grace period: who asks for erasure is due at once."""
    return make_service(erasure_grace_days=0)


@any_database
@pytest.mark.parametrize("ahead", [APART, -APART], ids=["ahead", "behind"])
@pytest.mark.parametrize("purpose", Purpose)
def test_a_link_of_a_machine_90_seconds_apart_is_good(
    service: Service, move_clock: MoveClock, purpose: Purpose, ahead: timedelta
) -> None:
    move_clock(ahead)
    use = JOURNEYS[purpose](service)
    move_clock(-ahead)
    assert use(service).status_code in {200, 201, 204}


@any_database
@pytest.mark.parametrize("purpose", LIFETIMES)
def test_a_link_from_further_in_the_future_than_clocks_differ_is_refused(
    service: Service, move_clock: MoveClock, purpose: Purpose
) -> None:
    move_clock(timedelta(minutes=5, seconds=2))
    use = JOURNEYS[purpose](service)
    move_clock(timedelta(minutes=-5, seconds=-2))
    assert_problem(use(service), 400, "invalid-token")


@pytest.mark.parametrize("ahead", [APART, -APART], ids=["ahead", "behind"])
def test_a_mail_and_a_session_of_a_machine_90_seconds_apart_are_good(
    service: Service, move_clock: MoveClock, ahead: timedelta
) -> None:
    move_clock(ahead)
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    move_clock(-ahead)
    token = token_of(service.mail())
    move_clock(ahead)
    session = service.confirm(token).json["session"]
    move_clock(-ahead)
    assert service.account(bearer(session["token"])).status_code == 200
    assert service.sign_in().status_code == 201
