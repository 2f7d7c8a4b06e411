"""Attacks on sessions, and through somebody else's browser: stolen, fixed, forged, framed, cached, led astray.

Each test is named after its attack; `docs/threats.md` says who wants what, and what stops them.
"""

from collections.abc import Callable
from typing import Any

import pytest
from journeys import ask_for_erasure, change_password, close, confirm_erasure, signed_in, undo, undo_link
from support import NOBODY, PASSWORD, Person, Service, any_database, assert_problem, bearer
from werkzeug.test import TestResponse

from backend.accounts import registration
from backend.database import engine
from backend.database.models import Account, Session
from backend.desk import operations as desk
from backend.web.api import operations

ADA, NEW = "ada@example.org", "countess@example.org"
EVIL = "evil.example"
MY_PASSWORD = "copper violin under snow"


def data_manager_closes(service: Service, ada: Person) -> None:
    with service.app.app_context():
        desk.close(ada.email)


# What ends every session of an account.
ENDS: dict[str, Callable[[Service, Person], object]] = {
    "reset": lambda service, ada: service.reset(service.ask_for_reset(ada.email)),
    "closing": lambda service, ada: close(service, ada.headers),
    "erasure by mail": lambda service, ada: confirm_erasure(service, ask_for_erasure(service, ada.email)),
    "address taken back": lambda service, ada: undo(service, undo_link(service, ada.headers, ada.email, NEW)),
    "closing by the data manager": data_manager_closes,
    "signing out everywhere": lambda service, ada: service.http.delete("/v1/sessions", headers=ada.headers),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_stolen_session_does_not_survive(
    service: Service, ada: Person, end: Callable[[Service, Person], object]
) -> None:
    stolen = [ada.headers, *(signed_in(service, ada.email) for _ in range(2))]
    bob = service.register(name="Bob", email="bob@example.org")
    end(service, ada)
    for headers in stolen:
        assert_problem(service.account(headers), 401, "unauthenticated")
    assert service.account(bob.headers).status_code == 200


def test_a_stolen_session_does_not_survive_a_new_password_that_was_chosen_in_the_app(
    service: Service, ada: Person
) -> None:
    stolen = [signed_in(service, ada.email) for _ in range(2)]
    change_password(service, ada.headers, MY_PASSWORD)
    for headers in stolen:
        assert_problem(service.account(headers), 401, "unauthenticated")
    assert service.account(ada.headers).status_code == 200


def test_session_fixation_finds_nothing_that_could_be_fixed(service: Service, ada: Person) -> None:
    mine = "tiles_" + "A" * 43
    headers = bearer(mine) | {"Cookie": f"session={mine}; tiles={mine}; token={mine}"}
    body = {"email": ada.email, "password": PASSWORD}
    first, second = (
        service.http.post(f"/v1/sessions?token={mine}", json=body, headers=headers).json["session"] for _ in range(2)
    )
    assert len({first["token"], second["token"], mine, ada.session["token"]}) == 4
    assert_problem(service.account(bearer(mine)), 401, "unauthenticated")


# Mass assignment (GitHub 2012, CVE-2012-2055)

COLUMNS = {column.name for table in (Account, Session) for column in table.__table__.columns}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/registrations"): {"name": "Eve", "email": "eve@example.org"},
    ("PATCH", "/v1/account"): {"name": "Ada L."},
    ("POST", "/v1/sessions"): {"email": ADA, "password": PASSWORD},
    ("PUT", "/v1/account/password"): {"current_password": PASSWORD, "new_password": MY_PASSWORD},
    ("POST", "/v1/account/email-changes"): {"email": NEW, "password": PASSWORD},
    ("POST", "/v1/account/close"): {"password": PASSWORD},
    ("POST", "/v1/feedback"): {"message": "More tiles."},
}


@any_database
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_mass_assignment_sets_no_column_that_the_contract_does_not_name(
    service: Service, ada: Person, method: str, path: str
) -> None:
    body = BODIES[method, path]
    allowed = body.keys() | {"name", "email_updates", "accepted_policy"} if path == "/v1/account" else body.keys()
    before = {name: service.rows(name) for name in engine.Base.metadata.tables}
    for column in sorted(COLUMNS - allowed):
        for value in (NOBODY, True, None, "2026-01-01T00:00:00Z"):
            sent = body | {column: value}
            answer = service.http.open(path, method=method, json=sent, query_string={column: 1}, headers=ada.headers)
            assert_problem(answer, 422, "invalid-request")
    assert {name: service.rows(name) for name in engine.Base.metadata.tables} == before


# Through a browser: what every answer says to it


@pytest.fixture(scope="module")
def answers(shared_service: Service, sender: Person) -> dict[str, TestResponse]:
    """An answer of every address, with and without a session, and one of each kind of failure."""
    fill = {"<path:filename>": "style.css", "<code>": "not-found", "<token>": "made-up", "<uuid:id>": NOBODY}
    found: dict[str, TestResponse] = {}
    for rule in shared_service.app.url_map.iter_rules():
        path = rule.rule
        for name, value in fill.items():
            path = path.replace(name, value)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            found[f"{method} {path}"] = shared_service.http.open(path, method=method)
            if method == "GET":
                found[f"{method} {path} signed in"] = shared_service.http.get(path, headers=sender.headers)
    for accept in ("text/html", "application/json"):
        for method, path in (
            ("GET", "/nowhere"),
            ("GET", "/nowhere/"),
            ("PUT", "/privacy"),
            ("OPTIONS", "/v1/account"),
        ):
            found[f"{method} {path} {accept}"] = shared_service.http.open(
                path, method=method, headers={"Accept": accept}
            )
    for answer in found.values():
        answer.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "request_registration", lambda **_: 1 / 0)
        body = {"name": "Eve", "email": "eve@example.org"}
        found["our own mistake"] = shared_service.http.post("/v1/registrations", json=body)
    assert {answer.status_code for answer in found.values()} >= {200, 303, 400, 401, 404, 405, 415, 422, 500}
    return found


def headers_of(answers: dict[str, TestResponse], name: str) -> dict[str | None, list[str]]:
    """Return the values that a header has, each with the answers that have it."""
    found: dict[str | None, list[str]] = {}
    for address, answer in answers.items():
        found.setdefault(answer.headers.get(name), []).append(address)
    return found


def test_clickjacking_is_told_on_every_answer_that_nothing_may_frame_it(answers: dict[str, TestResponse]) -> None:
    assert headers_of(answers, "X-Frame-Options").keys() == {"DENY"}
    assert all("frame-ancestors 'none'" in (policy or "") for policy in headers_of(answers, "Content-Security-Policy"))


def test_no_cache_on_the_way_keeps_an_answer(answers: dict[str, TestResponse]) -> None:
    assert headers_of(answers, "Cache-Control").keys() == {"no-store"}
    assert headers_of(answers, "Expires").keys() == {None}


def test_a_referer_leaks_no_address_of_ours(answers: dict[str, TestResponse]) -> None:
    assert headers_of(answers, "Referrer-Policy").keys() == {"no-referrer"}


def test_an_answer_is_never_taken_for_another_kind_of_file(answers: dict[str, TestResponse]) -> None:
    assert headers_of(answers, "X-Content-Type-Options").keys() == {"nosniff"}


def test_cookie_tossing_finds_no_cookie_set_or_read(
    answers: dict[str, TestResponse], shared_service: Service, sender: Person
) -> None:
    assert headers_of(answers, "Set-Cookie").keys() == {None}
    tossed = {"Cookie": "session=evil; __Host-session=evil; token=evil; locale=evil; csrf=evil"}
    for path in ("/", "/privacy", "/password-reset", "/v1/account", "/v1/sessions"):
        plain = shared_service.http.get(path, headers=sender.headers)
        assert shared_service.http.get(path, headers=sender.headers | tossed).data == plain.data
    assert_problem(shared_service.http.get("/v1/account", headers=tossed), 401, "unauthenticated")


def test_no_other_site_may_read_an_answer(answers: dict[str, TestResponse], shared_service: Service) -> None:
    asked = {"Origin": f"https://{EVIL}", "Access-Control-Request-Method": "DELETE"}
    for path in operations.document["paths"]:
        found = shared_service.http.options(path.replace("{id}", NOBODY), headers=asked)
        answers = answers | {f"OPTIONS {path}": found}
        assert found.status_code == 405
    for answer in answers.values():
        assert [name for name in answer.headers.keys() if name.startswith("Access-Control-")] == []  # noqa: SIM118
    assert headers_of(answers, "Cross-Origin-Resource-Policy").keys() == {"same-origin"}


def stored(service: Service) -> dict[str, list[dict[str, Any]]]:
    return {name: service.rows(name) for name in engine.Base.metadata.tables}


def form_paths(service: Service) -> list[str]:
    rules = service.app.url_map.iter_rules()
    return [rule.rule for rule in rules if "POST" in (rule.methods or ()) and not rule.rule.startswith("/v1/")]


@any_database
def test_cross_site_request_forgery_of_a_form_asks_for_nothing(service: Service, ada: Person) -> None:
    fields = {"email": ada.email, "token": service.ask_for_reset(ada.email), "password": MY_PASSWORD}
    before = stored(service)
    paths = [path for path in form_paths(service) if not path.startswith("/unsubscribe/")]
    assert len(paths) >= 8
    for path in paths:
        answer = service.http.post(path, data=fields, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 422
    assert stored(service) == before


@any_database
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"]
)
def test_cross_site_request_forgery_of_json_needs_a_media_type_that_browsers_ask_about(
    service: Service, ada: Person, content_type: str
) -> None:
    before = stored(service)
    for method, path in BODIES:
        answer = service.http.open(
            path, method=method, data=f'{{"email": "{ada.email}", "name": "Eve"}}', headers=ada.headers,
            content_type=content_type,
        )  # fmt: skip
        assert_problem(answer, 415, "unsupported-media-type")
    assert stored(service) == before


def test_an_open_redirect_is_nowhere(shared_service: Service) -> None:
    rules = [rule.rule for rule in shared_service.app.url_map.iter_rules() if not rule.arguments]
    tricks = (
        "{}",
        "/{}",
        "{}/",
        f"//{EVIL}{{}}",
        f"/\\{EVIL}{{}}",
        f"/%2f{EVIL}{{}}",
        f"/{EVIL}/..{{}}",
        f"{{}};//{EVIL}",
    )
    query = f"next=https://{EVIL}&url=//{EVIL}&return_to=https://{EVIL}"
    leads = set()
    for path in (trick.format(rule) for trick in tricks for rule in rules):
        for headers in ({}, {"Host": EVIL}, {"X-Forwarded-Host": EVIL, "X-Forwarded-Prefix": f"//{EVIL}"}):
            # What a test client is given would be taken for a host where it begins with two slashes.
            raw = {"PATH_INFO": path, "QUERY_STRING": query}
            with shared_service.http.get("/", headers=headers, environ_overrides=raw) as answer:
                leads.add(answer.headers.get("Location"))
    assert leads == {None, "/password-reset", "/erasure"}
