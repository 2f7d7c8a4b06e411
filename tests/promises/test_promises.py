"""The promises of the design, each kept in front of everybody: the test's name begins with the promise's number."""

import json
import logging
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import (
    OTHER_PASSWORD,
    PASSWORD,
    MailServer,
    Person,
    Service,
    any_database,
    assert_problem,
    bearer,
    html_of,
    shown,
    text_of,
    token_of,
)
from werkzeug.test import TestResponse

from backend import clock
from backend.database import engine, models, scrub
from backend.mail import queue
from backend.mail.refusals import ServerUnavailable
from backend.privacy import policy
from backend.security.hashing import Hasher

TWENTY = 20
A_HUNDRED = 100
STRANGER = "stranger.example"

Request = Callable[[Service, str], TestResponse]


def everything_stored(service: Service) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table."""
    return {name: service.rows(name) for name in engine.Base.metadata.tables}


EXAMPLES: dict[str, Any] = {
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "password": PASSWORD,
    "current_password": "not that one",
    "new_password": OTHER_PASSWORD,
    "token": "made-up",
    "email_updates": False,
    "accepted_policy": "2026-01",
    "message": "More tiles, please.",
    "erase": False,
    "receipt": "made-up",
}


def bodies(service: Service) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Find every operation that takes a body in the service's own description, each with a body that is in order."""
    document = service.http.get("/openapi.json").json
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                (content,) = operation["requestBody"]["content"].values()
                schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                yield method.upper(), path, {name: EXAMPLES[name] for name in schema["properties"]}


@any_database
def test_promise_1_only_a_name_and_an_email_are_asked_for(service: Service) -> None:
    taken = {path: set(body) for _method, path, body in bodies(service)}
    assert taken["/v1/registrations"] == {"name", "email"}


@any_database
def test_promise_1_a_member_that_the_contract_does_not_name_is_refused_everywhere(
    service: Service, ada: Person
) -> None:
    with service.app.app_context():
        policy.publish(version=EXAMPLES["accepted_policy"], effective_on=clock.now().date(), text="We store little.")
    # What ends the session comes last.
    asked = sorted(bodies(service), key=lambda operation: operation[1].endswith("/close"))
    assert len(asked) >= 6
    for method, path, body in asked:
        for value in ("marker-value", None, {"marker-inner": 1}, [], 0):
            response = service.http.open(path, method=method, json=body | {"marker/name": value}, headers=ada.headers)
            assert_problem(response, 422, "invalid-request")
            assert "marker" not in response.text + str(response.headers)
        response = service.http.open(path, method=method, json=body, headers=ada.headers)
        assert response.status_code != 422, (path, response.text)


def test_promise_2_there_is_no_account_until_the_mailed_link_is_used(service: Service) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada Lovelace", "email": "ada@example.org"})
    assert service.rows("accounts") == []
    token = token_of(service.mail())
    # The mail was counted.
    assert {table for table, rows in everything_stored(service).items() if rows} == {"totals"}
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    service.http.post("/v1/password-resets", json={"email": "ada@example.org"})
    assert service.deliver() == []
    assert service.confirm(token).status_code == 201


@any_database
def test_promise_2_nobody_can_squat_an_address(service: Service) -> None:
    for name in ("Eve", "Mallory"):
        service.ask_to_register(name=name)
    assert service.confirm(service.ask_to_register(name="Ada Lovelace")).json["account"]["name"] == "Ada Lovelace"


@any_database
def test_promise_2_no_byte_of_a_registration_is_left_once_its_mail_is_handed_over(
    service: Service, tmp_path: Path
) -> None:
    def found() -> set[bytes]:
        kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        return {marker for marker in (b"Lovelace-marker", b"ada.marker") if marker in kept}

    service.http.post("/v1/registrations", json={"name": "Ada Lovelace-marker", "email": "ada.marker@example.org"})
    assert len(found()) == 2
    service.mail()
    with service.app.app_context():
        assert scrub.scrub(models.Mail)
    assert found() == set()


@any_database
def test_promise_3_a_password_is_kept_as_argon2id_and_nowhere_else(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [service.confirm(service.ask_to_register())]
    headers = bearer(answers[0].json["session"]["token"])
    answers.append(service.sign_in())
    change = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
    answers.append(service.http.put("/v1/account/password", json=change, headers=headers))
    answers.append(service.sign_in(password=PASSWORD))
    answers.append(service.account(headers))
    assert [answer.status_code for answer in answers] == [201, 201, 204, 401, 200]
    service.deliver()
    (account,) = service.rows("accounts")
    assert account["password_hash"].startswith("$argon2id$v=19$")
    shown = [answer.text + str(answer.headers) for answer in answers]
    mailed = [text_of(message) + html_of(message) + str(message) for message in service.mail_server.messages]
    everything = "\n".join([*shown, *mailed, repr(everything_stored(service)), caplog.text])
    for secret in (PASSWORD, OTHER_PASSWORD):
        assert secret not in everything
    assert account["password_hash"] not in "\n".join([*shown, *mailed, caplog.text])


def observe(service: Service, request: Request, address: str, hash_work: Counter[str]) -> dict[str, object]:
    """Make a request and return all that it shows and does."""
    hash_work.clear()
    with service.statements() as statements:
        response = request(service, address)
    return {
        # A page names the address as it was typed, so the responses are compared without it.
        "response": shown(response, address),
        "statements": statements,
        "hash work": dict(hash_work),
    }


def register(service: Service, address: str) -> TestResponse:
    return service.http.post("/v1/registrations", json={"name": "Eve", "email": address})


def ask_for_reset(service: Service, address: str) -> TestResponse:
    return service.http.post("/v1/password-resets", json={"email": address})


def ask_for_reset_on_the_page(service: Service, address: str) -> TestResponse:
    return service.http.post("/password-reset", data={"email": address})


def sign_in_wrongly(service: Service, address: str) -> TestResponse:
    return service.sign_in(address, "not that one")


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("request_", [register, ask_for_reset, ask_for_reset_on_the_page, sign_in_wrongly])
def test_promise_4_an_address_tells_nothing(service: Service, request_: Request, hash_work: Counter[str]) -> None:
    request_(service, "warm@example.org")
    known = observe(service, request_, "ada@example.org", hash_work)
    unknown = observe(service, request_, "bob@example.org", hash_work)
    assert known == unknown
    assert known["statements"]


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("request_", [register, ask_for_reset, ask_for_reset_on_the_page])
def test_promise_4_whoever_only_has_an_address_reaches_no_look_up(service: Service, request_: Request) -> None:
    with service.statements() as statements:
        assert request_(service, "ada@example.org").status_code < 300
    assert [statement for statement in statements if "accounts" in statement] == []


@any_database
@pytest.mark.usefixtures("ada")
def test_promise_4_signing_in_wrongly_hashes_once_with_the_settings_parameters(
    service: Service, hash_work: Counter[str]
) -> None:
    for address in ("ada@example.org", "bob@example.org"):
        hash_work.clear()
        sign_in_wrongly(service, address)
        assert hash_work == {"verify $argon2id$v=19$m=8,t=1,p=1": 1}


@pytest.mark.usefixtures("ada")
@any_database
def test_promise_4_a_reached_limit_tells_nothing(make_service: Callable[..., Service]) -> None:
    limits = [f"{limit}/address+client=2/hour" for limit in ("sign-in", "registration", "password-reset")]
    limited = make_service(rate_limits=",".join(limits))
    for request in (register, ask_for_reset, sign_in_wrongly):
        known, unknown = (
            [shown(request(limited, address))[::2] for _ in range(3)]
            for address in ("ada@example.org", "bob@example.org")
        )
        assert known == unknown
        assert [status for status, *_ in known].index(429) == 2


def pages_behind(message: EmailMessage) -> set[str]:
    """Return the paths of a mail's links as a server sees them: without the fragment."""
    return {urlsplit(word).path or "/" for word in text_of(message).split() if "://" in word}


def test_promise_5_opening_a_mailed_link_a_hundred_times_changes_nothing(service: Service, ada: Person) -> None:
    links = [service.ask_to_register(email="bob@example.org")]
    service.http.post("/v1/registrations", json={"name": "Eve", "email": ada.email})
    service.http.post("/v1/password-resets", json={"email": ada.email})
    links.extend(token_of(message) for message in service.deliver())
    paths = set().union(*(pages_behind(message) for message in service.mail_server.messages))
    assert paths >= {"/registration", "/password-reset"}
    before = everything_stored(service)
    for path in paths:
        client = service.http
        for _ in range(A_HUNDRED):
            assert client.get(path, headers={"Accept": "text/html"}).status_code == 200
            assert client.head(path).status_code == 200
    assert everything_stored(service) == before
    assert service.confirm(links[0]).status_code == 201
    assert service.reset(links[1]).status_code == 204


@any_database
def test_promise_5_a_token_in_a_query_is_not_redeemed(service: Service, ada: Person) -> None:
    token = service.ask_for_reset(ada.email)
    before = everything_stored(service)
    for path in ("/password-reset", "/password-reset/confirm", "/v1/password-resets/confirm"):
        for method in ("GET", "HEAD", "OPTIONS"):
            service.http.open(path, method=method, query_string={"token": token, "password": OTHER_PASSWORD})
    assert everything_stored(service) == before
    assert service.reset(token).status_code == 204


def at_once(redeem: Callable[[int], TestResponse]) -> list[TestResponse]:
    """Call twenty times, all at the same moment."""
    barrier = threading.Barrier(TWENTY)

    def call(number: int) -> TestResponse:
        barrier.wait()
        return redeem(number)

    with ThreadPoolExecutor(TWENTY) as pool:
        return list(pool.map(call, range(TWENTY)))


def assert_one_succeeded(responses: list[TestResponse], status: int) -> int:
    """Check that all but one were refused as a token that is used; return which one was not."""
    (winner,) = (number for number, response in enumerate(responses) if response.status_code == status)
    for number, response in enumerate(responses):
        if number != winner:
            assert_problem(response, 400, "invalid-token")
    return winner


def one_of_twenty(number: int) -> str:
    return f"quiet lemon gravel piano {number}"


def test_promise_5_of_twenty_that_redeem_one_registration_one_succeeds(service: Service) -> None:
    token = service.ask_to_register()
    responses = at_once(lambda number: service.confirm(token, one_of_twenty(number)))
    winner = assert_one_succeeded(responses, 201)
    assert (len(service.rows("accounts")), len(service.rows("sessions"))) == (1, 1)
    assert service.account(bearer(responses[winner].json["session"]["token"])).status_code == 200
    signed_in = [service.sign_in(password=one_of_twenty(number)).status_code for number in range(TWENTY)]
    assert [number for number, status in enumerate(signed_in) if status == 201] == [winner]


def test_promise_5_of_twenty_that_redeem_one_reset_one_succeeds(service: Service, ada: Person) -> None:
    token = service.ask_for_reset(ada.email)
    responses = at_once(lambda number: service.reset(token, one_of_twenty(number)))
    winner = assert_one_succeeded(responses, 204)
    signed_in = [service.sign_in(password=one_of_twenty(number)).status_code for number in range(TWENTY)]
    assert [number for number, status in enumerate(signed_in) if status == 201] == [winner]
    assert len(service.deliver()) == 1


def test_promise_5_of_twenty_links_to_one_address_one_makes_the_account(service: Service) -> None:
    for _ in range(TWENTY):
        service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    tokens = [token_of(message) for message in service.deliver()]
    responses = at_once(lambda number: service.confirm(tokens[number]))
    assert sorted(response.status_code for response in responses) == [201] + [409] * (TWENTY - 1)
    assert len(service.rows("accounts")) == 1


def test_promise_6_a_new_password_ends_every_session_and_every_token(service: Service, ada: Person) -> None:
    sessions = [ada.headers, bearer(service.sign_in().json["session"]["token"])]
    links = [service.ask_for_reset(), service.ask_to_register(email=ada.email)]
    assert service.reset(service.ask_for_reset()).status_code == 204
    for headers in sessions:
        assert_problem(service.account(headers), 401, "unauthenticated")
    for link in links:
        assert_problem(service.reset(link, PASSWORD), 400, "invalid-token")


def after_the_check(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen once, between the check of a password and what follows from it."""
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
    ada: Person, make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
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
    responses = at_once(lambda number: service.sign_in() if number % 5 else service.reset(token))
    assert [response.status_code for response in responses[::5]].count(204) == 1
    opened = [response.json["session"]["token"] for response in responses if response.status_code == 201]
    for session in opened:
        assert_problem(service.account(bearer(session)), 401, "unauthenticated")


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Listen, and keep whoever connects waiting."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


def test_promise_7_no_request_connects_to_the_mail_server(
    service: Service, ada: Person, make_service: Callable[..., Service], silent_server: socket.socket
) -> None:
    token = service.ask_for_reset(ada.email)
    cut_off = make_service(mail_port=silent_server.getsockname()[1])
    for request in (register, ask_for_reset, ask_for_reset_on_the_page):
        assert request(cut_off, ada.email).status_code < 300
    assert cut_off.reset(token).status_code == 204
    with pytest.raises(BlockingIOError):
        silent_server.accept()
    assert len(service.rows("mails")) == 4


@any_database
def test_promise_7_what_was_accepted_during_an_outage_is_delivered_after_it(
    make_service: Callable[..., Service],
) -> None:
    server = MailServer()
    service = Service(make_service(mail_port=server.port).app, server)
    assert register(service, "ada@example.org").status_code == 202
    with pytest.raises(ServerUnavailable):
        service.deliver()
    with service.app.app_context():
        assert queue.status().waiting == 1
    with server:
        assert service.confirm(token_of(service.mail())).status_code == 201
    assert service.rows("mails") == []


@any_database
def test_promise_7_a_mail_that_is_refused_for_good_is_visibly_abandoned(service: Service) -> None:
    service.mail_server.refuse = "550 5.1.1 No such mailbox"
    assert register(service, "ada@example.org").status_code == 202
    assert service.deliver() == []
    with service.app.app_context():
        assert queue.status().abandoned == 1


def test_promise_7_the_queue_holds_no_token_and_no_text(service: Service, ada: Person) -> None:
    register(service, "bob@example.org")
    ask_for_reset(service, ada.email)
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


MARKED = {
    "User-Agent": "marker-agent/1.0",
    "X-Forwarded-For": "203.0.113.77",
    "Referer": "https://marker-referer.test/",
}


def walk(service: Service) -> list[str]:
    """Go everywhere a person, a broken app and an attacker go; return the secrets that were met on the way."""
    http = service.http
    person = {"name": "Marker-Name", "email": "marker-email@example.org"}
    password, second, third = "marker-password quiet lemon", "marker-second wooden boats", "marker-third violin snow"

    def send(method: str, path: str, body: object = None, **headers: str) -> TestResponse:
        given = {} if body is None else {"json": body}
        return http.open(path, method=method, headers=MARKED | headers, **given)

    send("POST", "/v1/registrations", person)
    registration = token_of(service.mail())
    send("POST", "/v1/registrations/confirm", {"token": registration[:-3], "password": password})
    send("POST", "/v1/registrations/confirm", {"token": registration, "password": "marker"})
    signed_in = send("POST", "/v1/registrations/confirm", {"token": registration, "password": password})
    session = signed_in.json["session"]
    mine = bearer(session["token"])
    send("POST", "/v1/registrations/confirm", {"token": registration, "password": password})
    send("POST", "/v1/registrations", person)
    send("POST", "/v1/sessions", {"email": person["email"], "password": password})
    send("POST", "/v1/sessions", {"email": person["email"], "password": "marker-wrong"})
    send("POST", "/v1/sessions", {"email": "marker-nobody@example.org", "password": "marker-wrong"})
    send("POST", "/v1/sessions", {"email": "marker-no-address", "password": "marker-wrong", "marker-member": "marker"})
    for path in ("/v1/account", "/v1/sessions", "/marker-path", "/problems/marker-code?marker=query", "/v1/marker"):
        send("GET", path, **mine)
        send("GET", path, Authorization="Bearer tiles_marker-made-up", Accept="text/html")
    send("MARKER", "/v1/account", **mine)
    http.post("/v1/sessions", data=b'{"marker": ', headers=MARKED, content_type="application/json")
    http.post("/v1/sessions", data=b"marker=1", headers=MARKED)
    http.post("/password-reset", data={"email": "marker-no-address"}, headers=MARKED)
    http.post("/password-reset/confirm", data={"token": "marker-token", "password": password}, headers=MARKED)
    change = {"current_password": "marker-wrong", "new_password": second}
    send("PUT", "/v1/account/password", change, **mine)
    send("PUT", "/v1/account/password", change | {"current_password": password}, **mine)
    send("POST", "/v1/password-resets", {"email": person["email"]})
    service.mail_server.refuse = "451 <marker-email@example.org> is asked to wait"
    service.deliver()
    service.mail_server.refuse = None
    with service.app.app_context():
        queue.retry()
    reset = next(token_of(message) for message in service.deliver() if "Reset" in str(message["Subject"]))
    send("POST", "/v1/password-resets/confirm", {"token": reset, "password": third})
    send("POST", "/v1/password-resets/confirm", {"token": reset, "password": third})
    service.mail_server.refuse = "550 <marker-email@example.org> is unknown"
    service.deliver()
    again = send("POST", "/v1/sessions", {"email": person["email"], "password": third}).json["session"]
    send("DELETE", f"/v1/sessions/{again['id']}", **bearer(again["token"]))
    return [registration, reset, session["token"], session["id"], again["token"], again["id"]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what the service and its libraries log, at the finest level; not what the tests' mail server does."""
    caplog.set_level(logging.DEBUG)

    def lines() -> list[str]:
        own = (record for record in caplog.records if record.name not in {"mail.log", "asyncio"})
        return [json.dumps([record.name, record.getMessage(), record.exc_text]) for record in own]

    return lines


def test_promise_11_logs_name_nobody(
    logged: Callable[[], list[str]], service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = walk(service)
    lines = logged()
    assert sum("backend" in line for line in lines) > 20
    forbidden = ["marker", "127.0.0.1", "203.0.113.77", "argon2id", *secrets]
    assert [line for line in lines if any(word.lower() in line.lower() for word in forbidden)] == []
    assert capfd.readouterr() == ("", "")


@any_database
def test_promise_11_our_own_mistake_is_logged_without_what_was_sent(
    logged: Callable[[], list[str]], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: str, **about: object) -> None:
        raise RuntimeError(f"{kind} {about}")

    monkeypatch.setattr(queue, "accept", fail)
    response = service.http.post("/v1/registrations", json={"name": "Marker", "email": "marker@example.org"})
    assert_problem(response, 500, "internal-error")
    assert any("RuntimeError" in line for line in logged())
    assert "marker" not in (response.text + "".join(logged())).lower()


ELSEWHERE = {
    "Host": STRANGER,
    "X-Forwarded-Host": STRANGER,
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Prefix": f"/{STRANGER}",
    "X-Original-URL": f"/{STRANGER}",
    "Forwarded": f"host={STRANGER};proto=http",
    "Origin": f"https://{STRANGER}",
    "Referer": f"https://{STRANGER}/",
}


@pytest.mark.parametrize("trusted_proxies", [0, 1])
@any_database
def test_promise_12_a_mailed_link_ignores_where_the_request_went(
    make_service: Callable[..., Service], trusted_proxies: int
) -> None:
    service = make_service(trusted_proxies=trusted_proxies)
    service.register()
    for path, body in (
        ("/v1/registrations", {"name": "Bob", "email": "bob@example.org"}),
        ("/v1/registrations", {"name": "Ada", "email": "ada@example.org"}),
        ("/v1/password-resets", {"email": "ada@example.org"}),
    ):
        assert service.http.post(path, json=body, headers=ELSEWHERE).status_code == 202
        message = service.mail()
        assert "https://accounts.tiles.test/" in text_of(message)
        assert STRANGER not in text_of(message) + html_of(message) + str(message)


@any_database
def test_promise_12_a_problem_and_a_redirection_ignore_where_the_request_went(service: Service) -> None:
    assert_problem(service.http.get("/v1/account", headers=ELSEWHERE), 401, "unauthenticated")
    assert_problem(service.http.post("/v1/sessions", json={}, headers=ELSEWHERE), 422, "invalid-request")
    assert_problem(service.http.get("/nowhere", headers=ELSEWHERE), 404, "not-found")


@any_database
def test_promise_12_no_page_shows_where_the_request_went(service: Service) -> None:
    rules = [
        rule.rule for rule in service.app.url_map.iter_rules() if "GET" in (rule.methods or ()) and not rule.arguments
    ]
    assert "/privacy" in rules
    paths = {*rules, *(rule.rstrip("/") or "/" for rule in rules), *(f"{rule}/" for rule in rules), "//privacy"}
    for path in sorted(paths):
        for accept in ("text/html", "application/json"):
            response = service.http.get(path, headers=ELSEWHERE | {"Accept": accept})
            assert STRANGER not in response.text + str(response.headers), path
