"""Emailed links: how long they work, also between machines with other clocks and after the keys were rotated."""

import itertools
from datetime import timedelta

import pytest
from journeys import MakeService, MoveClock, everything_stored
from links import LINKS, token_in
from peers import token_of
from support import Person, Service, any_database, bearer

from backend.security import keys
from backend.security.tokens import Purpose

OLD_KEY, NEW_KEY = "o" * 40, "n" * 40
APART = timedelta(seconds=90)
HOURS = {
    Purpose.REGISTRATION: 24,
    Purpose.PASSWORD_RESET: 24,
    Purpose.EMAIL_CHANGE: 1,
    Purpose.EMAIL_CHANGE_UNDO: 72,
    Purpose.ERASURE: 24,
    Purpose.DESK: 1 / 6,
}
every_purpose = pytest.mark.parametrize("purpose", Purpose)

pytestmark = any_database


@pytest.fixture
def own(make_service: MakeService) -> Service:
    """The service with a key that the instance created."""
    return make_service(secret_keys="")


@pytest.mark.parametrize("purpose", HOURS)
def test_a_link_works_until_its_lifetime_ends(
    service: Service, ada: Person, move_clock: MoveClock, purpose: Purpose
) -> None:
    link = LINKS[purpose]
    token = token_in(link.request(service, ada))
    before = service.rows("accounts")
    move_clock(timedelta(hours=HOURS[purpose], seconds=2))
    assert link.use(service, token).status_code == 400
    assert service.rows("accounts") == before
    move_clock(timedelta(seconds=-12))
    assert link.use(service, token).status_code < 400
    assert (service.rows("accounts") == before) == (purpose is Purpose.DESK)


def test_the_lifetime_begins_when_the_email_is_made(service: Service, ada: Person, move_clock: MoveClock) -> None:
    service.http.post("/v1/password-resets", json={"email": ada.email})
    move_clock(timedelta(hours=30))
    assert service.reset(token_of(service.mail())).status_code == 204


@every_purpose
def test_a_link_is_refused_for_every_other_purpose(service: Service, ada: Person, purpose: Purpose) -> None:
    token = token_in(LINKS[purpose].request(service, ada))
    before = everything_stored(service)
    for other in LINKS.keys() - {purpose}:
        assert LINKS[other].use(service, token).status_code == 400, other
    assert everything_stored(service) == before


# Machines whose clocks differ


@pytest.mark.parametrize("ahead", [APART, -APART], ids=["ahead", "behind"])
def test_an_email_and_a_session_from_a_machine_90_seconds_apart_work(
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


# Adding and removing keys


@every_purpose
def test_a_token_signed_before_a_rotation_is_redeemed_after_it(own: Service, purpose: Purpose) -> None:
    link, ada = LINKS[purpose], own.register()
    token = token_in(link.request(own, ada))
    own.run(keys.rotate)
    assert link.use(own, token).status_code < 400


@every_purpose
def test_a_token_stops_working_when_its_key_is_removed(own: Service, purpose: Purpose) -> None:
    link, eve = LINKS[purpose], own.register(email="eve@example.org")
    token = token_in(link.request(own, own.register()))
    own.run(keys.rotate, own.run(keys.in_use))
    assert link.use(own, token).status_code == 400
    # A session token is not signed.
    assert own.account(eve.headers).status_code == 200


@pytest.mark.parametrize("purpose", [Purpose.REGISTRATION, Purpose.RECEIPT])
def test_a_running_process_accepts_tokens_signed_with_a_new_key(
    own: Service, make_service: MakeService, purpose: Purpose
) -> None:
    before, first, link = make_service(secret_keys=""), own.run(keys.in_use), LINKS[purpose]
    own.run(keys.rotate)
    token = token_in(link.request(own, own.register()))
    own.run(keys.rotate, first)
    assert link.use(before, token).status_code < 300


def test_a_manual_rotation_loses_no_link_while_processes_are_a_step_behind(make_service: MakeService) -> None:
    settings = (OLD_KEY, f"{OLD_KEY},{NEW_KEY}", f"{NEW_KEY},{OLD_KEY}", NEW_KEY)
    *steps, last = [make_service(secret_keys=setting) for setting in settings]
    token = steps[0].ask_to_register()
    emails = (f"ada{number}@example.org" for number in itertools.count())
    for behind, ahead in itertools.pairwise(steps):
        for service in (behind, ahead, behind, ahead):
            service.run(keys.begin)
            assert {service.http.get("/readyz").status_code for service in (behind, ahead)} == {200}
        for issuer, redeemer in ((behind, ahead), (ahead, behind)):
            assert redeemer.confirm(issuer.ask_to_register(email=next(emails))).status_code == 201
    last.run(keys.begin)
    assert len(last.rows("key_digests")) == 1
    assert last.confirm(token).status_code == 400
