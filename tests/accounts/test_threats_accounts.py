"""Attacks on the question who has an account, and on accounts before they are theirs whose address they have.

Each test is named after its attack; `docs/threats.md` says who wants what, and what stops them.
"""

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from journeys import (
    CHANGED,
    MakeService,
    MoveClock,
    ask_for_email_change,
    change_email,
    close,
    confirm_email_change,
    request_email_change,
    signed_in,
    the_mail,
    undo,
)
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem, text_of, token_of
from werkzeug.test import TestResponse

from backend.mail import queue
from backend.security import throttle

ADA, UNKNOWN, CLOSED = "ada@example.org", "bob@example.org", "eve@example.org"
THIEF = "thief@example.org"

Ask = Callable[..., TestResponse]


def post(service: Service, path: str, client: str = "192.0.2.1", **body: str) -> TestResponse:
    return service.http.post(f"/v1/{path}", json=body, environ_overrides={"REMOTE_ADDR": client})


def send(service: Service, path: str, client: str = "192.0.2.1", **fields: str) -> TestResponse:
    return service.http.post(path, data=fields, environ_overrides={"REMOTE_ADDR": client})


ASKS: dict[str, Ask] = {
    "register": lambda service, email, **of: post(service, "registrations", name="Eve", email=email, **of),
    "reset": lambda service, email, **of: post(service, "password-resets", email=email, **of),
    "reset page": lambda service, email, **of: send(service, "/password-reset", email=email, **of),
    "erasure": lambda service, email, **of: post(service, "erasure-requests", email=email, **of),
    "erasure page": lambda service, email, **of: send(service, "/erasure", email=email, **of),
    "sign in": lambda service, email, **of: post(service, "sessions", email=email, password=OTHER_PASSWORD, **of),
}
each_ask = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Argon2 is asked to do, and with which parameters."""
    seen: list[str] = []
    verify, hash_ = PasswordHasher.verify, PasswordHasher.hash

    def noting_verify(self: PasswordHasher, encoded: str, password: str) -> bool:
        seen.append("verify " + "$".join(encoded.split("$")[:4]))
        return verify(self, encoded, password)

    def noting_hash(self: PasswordHasher, password: str) -> str:
        seen.append("hash")
        return hash_(self, password)

    monkeypatch.setattr(PasswordHasher, "verify", noting_verify)
    monkeypatch.setattr(PasswordHasher, "hash", noting_hash)
    return seen


def work(service: Service, ask: Ask, email: str, hashes: list[str]) -> tuple[object, ...]:
    """Ask, and return all that it shows and all that it costs."""
    hashes.clear()
    with service.statements() as statements:
        response = ask(service, email)
    headers = [(name, value) for name, value in response.headers if name != "Date"]
    return response.status_code, headers, response.data, statements, list(hashes)


@pytest.fixture
def closed(service: Service) -> str:
    """The address of an account that is closed."""
    eve = service.register(name="Eve", email=CLOSED, password=OTHER_PASSWORD)
    assert close(service, eve.headers, password=OTHER_PASSWORD).status_code == 200
    service.deliver()
    return CLOSED


# Who has an account


@each_ask
@pytest.mark.usefixtures("ada")
def test_a_timing_attack_meets_the_same_work_with_an_account_without_and_with_a_closed_one(
    service: Service, closed: str, ask: Ask, hashes: list[str]
) -> None:
    ask(service, "warm@example.org")
    known, unknown, gone = (work(service, ask, email, hashes) for email in (ADA, UNKNOWN, closed))
    assert known == unknown == gone


@pytest.fixture
def no_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time that limits read stand still."""
    monkeypatch.setattr(throttle, "time", SimpleNamespace(time=lambda: 1_000_000_000.0))


@each_ask
@pytest.mark.usefixtures("ada", "no_window_ends")
@any_database
def test_a_throttle_reveals_no_account_by_what_it_counts_and_answers(make_service: MakeService, ask: Ask) -> None:
    service = make_service(rate_limits="")

    def answers(email: str, net: str) -> list[tuple[int, str]]:
        found = (ask(service, email, client=f"{net}.{number % 9}") for number in range(100))
        # A page shows again what was written into it.
        return [(answer.status_code, answer.text.replace(email, "")) for answer in found]

    known, unknown = answers(ADA, "192.0.2"), answers(UNKNOWN, "198.51.100")
    assert known == unknown
    assert known[-1][0] == 429


@pytest.mark.usefixtures("ada", "no_window_ends")
@any_database
def test_a_throttle_that_locked_an_address_reveals_no_account_by_the_work_behind_it(
    make_service: MakeService, hashes: list[str]
) -> None:
    service = make_service(rate_limits="sign-in/address+client=100/hour")
    wrong: Ask = lambda s, e: s.sign_in(e, OTHER_PASSWORD)  # noqa: E731 - one line of it
    wrong(service, "warm@example.org")
    known, unknown = (work(service, wrong, email, hashes) for email in (ADA, UNKNOWN))
    assert known == unknown
    assert len([statement for statement in known[3] if "wrong_passwords" in statement]) == 2
    found = []
    for email in (ADA, UNKNOWN):
        assert [service.sign_in(email, OTHER_PASSWORD).status_code for _ in range(19)] == [401] * 19
        # Also who knows the password learns nothing here, and costs no hash.
        found.append(work(service, lambda s, e: s.sign_in(e, PASSWORD), email, hashes))
    status, *_, statements, hashed = found[0]
    assert (status, ["accounts" in statement for statement in statements], hashed) == (429, [False, False], [])
    assert found[0] == found[1]


def test_user_enumeration_by_email_in_use_needs_the_mailbox(service: Service, ada: Person, hashes: list[str]) -> None:
    eve = service.register(name="Eve", email=CLOSED)
    service.deliver()
    ask: Ask = lambda service, email: request_email_change(service, eve.headers, email)  # noqa: E731 - one line of it
    known, unknown = (work(service, ask, email, hashes) for email in (ada.email, UNKNOWN))
    assert known == unknown
    assert known[0] == 202
    link = token_of(the_mail(service.deliver(), ada.email, "Confirm your new TILES address"))
    assert_problem(confirm_email_change(service, link), 409, "email-in-use")


def test_user_enumeration_by_the_order_of_mails_meets_a_shuffled_queue(service: Service) -> None:
    asked = [f"person{number}@example.org" for number in range(queue.BATCH)]
    for _ in range(3):
        for email in asked:
            assert post(service, "registrations", name="Ada", email=email).status_code == 202
        if [message["To"] for message in service.deliver()] != asked:
            return
    raise AssertionError("three times the mails left in the order in which they were asked for")


# An account that is made, or prepared, before its owner comes (Sudhodanan and Paverd, USENIX Security 2022)


def stolen_in_advance(service: Service, ada: str = ADA) -> Person:
    """Let a thief give an account of his own the address of somebody else, who confirms that by mistake."""
    thief = service.register(name="Thief", email=THIEF)
    change_email(service, thief.headers, ada)
    return thief


def test_pre_hijacking_by_an_account_that_was_made_first_finds_none_made(service: Service) -> None:
    for password in (PASSWORD, "the thief knows this one"):
        assert post(service, "registrations", name="Thief", email=ADA).status_code == 202
        assert_problem(service.sign_in(ADA, password), 401, "wrong-credentials")
    assert service.rows("accounts") == []
    service.deliver()
    ada = service.register()
    assert service.account(ada.headers).json["name"] == "Ada Lovelace"
    assert_problem(service.sign_in(ADA, "the thief knows this one"), 401, "wrong-credentials")


def test_pre_hijacking_by_an_unexpired_session_ends_with_the_owners_first_password(service: Service) -> None:
    thief = stolen_in_advance(service)
    sessions = [thief.headers, signed_in(service, ADA)]
    assert service.reset(service.ask_for_reset(ADA)).status_code == 204
    for headers in sessions:
        assert_problem(service.account(headers), 401, "unauthenticated")


def test_pre_hijacking_by_a_trojan_identifier_ends_after_72_hours(service: Service, move_clock: MoveClock) -> None:
    stolen_in_advance(service)
    assert service.reset(service.ask_for_reset(ADA)).status_code == 204
    link = token_of(the_mail(service.deliver(), THIEF, CHANGED))
    move_clock(timedelta(hours=72))
    assert_problem(undo(service, link), 400, "invalid-token")
    for email in (THIEF, ADA):
        post(service, "password-resets", email=email)
        post(service, "erasure-requests", email=email)
    assert {message["To"] for message in service.deliver()} == {ADA}


def test_pre_hijacking_by_an_unexpired_email_change_ends_with_the_owners_first_password(service: Service) -> None:
    thief = stolen_in_advance(service)
    link = ask_for_email_change(service, thief.headers, "thief.too@example.org")
    reset = service.ask_for_reset(ADA)
    # Also when its mail is still to be made.
    assert request_email_change(service, thief.headers, "thief.three@example.org").status_code == 202
    assert service.reset(reset).status_code == 204
    assert_problem(confirm_email_change(service, link), 400, "invalid-token")
    assert "thief.three@example.org" not in {message["To"] for message in service.deliver()}
    assert service.account(signed_in(service, ADA, OTHER_PASSWORD)).status_code == 200


@any_database
def test_pre_hijacking_by_an_identity_provider_finds_no_door_for_one(service: Service) -> None:
    document = service.http.get("/openapi.json").json
    assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http"}
    paths = " ".join(rule.rule for rule in service.app.url_map.iter_rules())
    for word in ("oauth", "oidc", "saml", "callback", "sso", "authorize", "jwks"):
        assert word not in paths


# An address that looks like another's


LOOKS_ALIKE = {
    "dotless i": "m\u0131ke@example.org",
    "dotted I": "m\u0130ke@example.org",
    "Kelvin sign": "mi\u212ae@example.org",
    "full width": "\uff4dike@example.org",
    "Cyrillic": "mik\u0435@example.org",
    "domain with a dotless i": "mike@s\u0131te.example.org",
    "domain with a Cyrillic letter": "mike@sit\u0435.example.org",
    "domain with a long s": "mike@\u017fite.example.net",
}


@any_database
@pytest.mark.parametrize("other", LOOKS_ALIKE.values(), ids=LOOKS_ALIKE.keys())
def test_a_unicode_homograph_of_an_address_is_mailed_no_link_to_its_account(service: Service, other: str) -> None:
    for email in ("mike@example.org", "mike@site.example.org"):
        service.register(name="Mike", email=email)
    for ask in ASKS.values():
        assert ask(service, other).status_code in {200, 202, 401, 422}
    # At most it may register: an account of its own, with nothing of Mike's.
    for message in service.deliver():
        assert message["To"] not in {"mike@example.org", "mike@site.example.org"}
        assert "/registration#" in text_of(message)
