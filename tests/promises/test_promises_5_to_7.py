"""Promises 5 to 7: a link acts once and reading never, a new password ends everything older, no request sends email."""

import re
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from email.message import EmailMessage
from functools import partial
from urllib.parse import urldefrag, urlsplit

import pytest
from journeys import (
    MakeService,
    at_once,
    change_password,
    everything_stored,
    post,
    request_email_change,
    signed_in,
    to_and_subject,
)
from links import CHOOSE_A_PASSWORD, LINKS, NEW, SINGLE_USE, Link, emailed, token_in
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem, bearer
from werkzeug.test import TestResponse

from backend.desk import feedback
from backend.security.hashing import Hasher
from backend.security.tokens import Purpose

TWENTY = 20
THIRD, THIRD_PASSWORD = "lovelace@example.org", "copper violin under snow"


# Reading never acts, and a link acts once


SCANNERS = [
    {"User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) SafeLinks", "Accept": "*/*"},
    {"User-Agent": "GoogleImageProxy", "Accept": "text/html", "Purpose": "prefetch", "Sec-Purpose": "prefetch"},
]


def reply(service: Service, person: Person) -> EmailMessage:
    """Email a reply to a person's feedback."""
    response = post(service, "feedback", person.headers, message="More tiles.")
    service.run(feedback.reply, uuid.UUID(response.json["id"]), message="Thank you.", after=0)
    return service.mail()


# Emails that have a link of the same purpose as another email
OTHER_EMAILS = {
    "registration of an account": Link(
        lambda s, ada: emailed(s, post(s, "registrations", email=ada.email, name="Eve")), Service.reset
    ),
    "reply to feedback": Link(reply, LINKS[Purpose.UNSUBSCRIBE].use),
}


def scan(service: Service, url: str) -> None:
    """Open a URL as scanners do, also rewritten so that the fragment reaches a server; one with a token 102 times."""
    base, fragment = urldefrag(url)
    path = urlsplit(base).path or "/"
    rewritten = [f"{path}?token={fragment}", f"{path}/{fragment}", f"{path}%23{fragment}"] if fragment else []
    http = service.http
    has_token = fragment or path.startswith("/unsubscribe/")
    for address in [path] * (17 if has_token else 1) + rewritten:
        for headers in SCANNERS:
            for method in ("HEAD", "GET", "GET"):
                assert http.open(address, method=method, headers=headers).status_code in {200, 303, 404}


@any_database
@pytest.mark.parametrize("link", [*LINKS.values(), *OTHER_EMAILS.values()], ids=[*map(str, LINKS), *OTHER_EMAILS])
def test_promise_5_a_mail_scanner_that_opens_a_link_a_hundred_times_changes_nothing(
    service: Service, ada: Person, link: Link
) -> None:
    message = link.request(service, ada)
    before = everything_stored(service)
    for url in set(re.findall(r"https?://[^\s\"'<>]+", f"{text_of(message)}\n{html_of(message)}")):
        scan(service, url)
    assert everything_stored(service) == before
    assert link.use(service, token_in(message)).status_code < 400


@any_database
def test_promise_5_a_token_in_a_query_is_not_redeemed(service: Service, ada: Person) -> None:
    token = service.ask_for_reset(ada.email)
    before = everything_stored(service)
    for path in ("/password-reset", "/password-reset/confirm", "/v1/password-resets/confirm"):
        for method in ("GET", "HEAD", "OPTIONS"):
            service.http.open(path, method=method, query_string={"token": token, "password": OTHER_PASSWORD})
    assert everything_stored(service) == before
    assert service.reset(token).status_code == 204


@pytest.mark.parametrize("purpose", SINGLE_USE)
def test_promise_5_of_twenty_concurrent_uses_of_a_link_one_succeeds(
    service: Service, ada: Person, purpose: Purpose
) -> None:
    link = LINKS[purpose]
    token = token_in(link.request(service, ada))
    passwords = [f"{PASSWORD} {number}" for number in range(TWENTY)]
    chosen = [(password,) for password in passwords] if purpose in CHOOSE_A_PASSWORD else [()] * TWENTY
    responses = at_once(*(partial(link.use, service, token, *password) for password in chosen))
    (winner,) = [number for number, response in enumerate(responses) if response.status_code < 400]
    for response in responses[:winner] + responses[winner + 1 :]:
        if purpose is Purpose.DESK:
            assert response.status_code == 400
        else:
            assert_problem(response, 400, "invalid-token")
    # No email is sent twice, and no change is recorded twice.
    to_and_subject(service.deliver())
    changes = [row["act"] for row in service.rows("audit")]
    assert len(set(changes)) == len(changes)
    if purpose in CHOOSE_A_PASSWORD:
        email = NEW if purpose is Purpose.REGISTRATION else ada.email
        statuses = [service.sign_in(email, password).status_code for password in passwords]
        assert [number for number, status in enumerate(statuses) if status == 201] == [winner]


def test_promise_5_of_twenty_links_to_one_address_one_makes_the_account(service: Service) -> None:
    for _ in range(TWENTY):
        service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    tokens = [token_of(message) for message in service.deliver()]
    responses = at_once(*(partial(service.confirm, token) for token in tokens))
    assert sorted(response.status_code for response in responses) == [201] + [409] * (TWENTY - 1)
    assert len(service.rows("accounts")) == 1


# A new password ends everything older


@pytest.mark.parametrize("by", ["reset", "change"])
def test_promise_6_a_new_password_ends_every_older_session_and_link(service: Service, ada: Person, by: str) -> None:
    older = [signed_in(service, ada.email), *([ada.headers] if by == "reset" else [])]
    purposes = (Purpose.PASSWORD_RESET, Purpose.EMAIL_CHANGE, Purpose.ERASURE)
    links = [(LINKS[purpose].use, token_in(LINKS[purpose].request(service, ada))) for purpose in purposes]
    links.append((Service.reset, service.ask_to_register(email=ada.email)))
    token = service.ask_for_reset()
    # The email of this change has not been made yet.
    assert request_email_change(service, ada.headers, THIRD).status_code == 202
    if by == "reset":
        # Setting the same password again counts as a new password.
        assert service.reset(token, PASSWORD).status_code == 204
    else:
        change_password(service, ada.headers, OTHER_PASSWORD)
    assert {message["To"] for message in service.deliver()} == {ada.email}
    for headers in older:
        assert_problem(service.account(headers), 401, "unauthenticated")
    for use, link in links:
        assert_problem(use(service, link), 400, "invalid-token")
    assert service.reset(service.ask_for_reset(), THIRD_PASSWORD).status_code == 204
    assert service.sign_in(password=THIRD_PASSWORD).status_code == 201


def after_the_check(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once, just after a password was checked."""
    verify = Hasher.verify
    acts = iter([act])

    def verify_then_act(self: Hasher, encoded: str | None, password: str, costs: Iterable[str] = ()) -> bool:
        right = verify(self, encoded, password, costs)
        with ThreadPoolExecutor(1) as elsewhere:
            for action in acts:
                elsewhere.submit(action).result()
        return right

    monkeypatch.setattr(Hasher, "verify", verify_then_act)


def test_promise_6_a_sign_in_checked_before_a_reset_opens_no_session_after_it(
    service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.ask_for_reset(ada.email)
    resets: list[TestResponse] = []
    after_the_check(monkeypatch, lambda: resets.append(service.reset(token)))
    response = service.sign_in()
    assert [response.status_code for response in resets] == [204], resets[0].text
    assert_problem(response, 401, "wrong-credentials")
    assert service.rows("sessions") == []


def test_promise_6_a_change_checked_before_a_reset_replaces_nothing_after_it(
    service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.ask_for_reset(ada.email)
    resets: list[TestResponse] = []
    after_the_check(monkeypatch, lambda: resets.append(service.reset(token)))
    change = {"current_password": PASSWORD, "new_password": "copper violin under snow"}
    response = service.http.put("/v1/account/password", json=change, headers=ada.headers)
    assert_problem(response, 401, "unauthenticated")
    assert [response.status_code for response in resets] == [204]
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201
    assert_problem(service.account(ada.headers), 401, "unauthenticated")


def test_promise_6_a_renewed_hash_never_brings_an_old_password_back(
    ada: Person, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = make_service(argon2_time_cost=2)
    token = raised.ask_for_reset(ada.email)
    after_the_check(monkeypatch, lambda: raised.reset(token))
    assert_problem(raised.sign_in(), 401, "wrong-credentials")
    assert_problem(raised.sign_in(), 401, "wrong-credentials")
    assert raised.sign_in(password=OTHER_PASSWORD).status_code == 201


def test_promise_6_sessions_that_open_while_the_password_is_reset_do_not_outlive_it(
    service: Service, ada: Person
) -> None:
    token = service.ask_for_reset(ada.email)
    responses = at_once(*([lambda: service.reset(token), *[service.sign_in] * 4] * 4))
    assert [response.status_code for response in responses[::5]].count(204) == 1
    opened = [response.json["session"]["token"] for response in responses if response.status_code == 201]
    for session in opened:
        assert_problem(service.account(bearer(session)), 401, "unauthenticated")


# No request waits for a mail server


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """A server that accepts connections and never replies."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


def test_promise_7_no_request_connects_to_the_mail_server(
    service: Service, ada: Person, make_service: MakeService, silent_server: socket.socket
) -> None:
    token = service.ask_for_reset(ada.email)
    cut_off = make_service(mail_port=silent_server.getsockname()[1])
    for path, body in {"registrations": {"name": "Eve"}, "password-resets": {}, "erasure-requests": {}}.items():
        assert post(cut_off, path, email=ada.email, **body).status_code == 202
    assert cut_off.reset(token).status_code == 204
    with pytest.raises(BlockingIOError):
        silent_server.accept()
    assert len(service.rows("mails")) == 4


def test_promise_7_the_queue_holds_no_token_and_no_text(service: Service, ada: Person) -> None:
    post(service, "registrations", name="Eve", email="bob@example.org")
    post(service, "password-resets", email=ada.email)
    waiting = service.rows("mails")
    tokens = [token_of(message) for message in service.deliver()]
    assert len(tokens) == 2
    assert [token for token in tokens if max(token.split("."), key=len) in repr(waiting)] == []
    known = {"registration", "password_reset", "Eve", "bob@example.org", ada.email}
    texts = {value for row in waiting for value in row.values() if isinstance(value, str)}
    assert {text for text in texts - known if not is_id_or_moment(text)} == set()


def is_id_or_moment(text: str) -> bool:
    for kind in (uuid.UUID, datetime.fromisoformat):
        with suppress(ValueError):
            return bool(kind(text))
    return False
