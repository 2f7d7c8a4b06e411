"""The headers of every response: no frame, no cache, no cookie, no other site; and no open redirect."""

from itertools import product

import pytest
from support import NOBODY, Person, Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend.accounts import registration
from backend.web.api import operations

EVIL = "evil.example"
MY_PASSWORD = "copper violin under snow"
Answers = dict[str, TestResponse]

HEADERS = {
    "Cache-Control": "no-store",
    "Expires": None,
    "Set-Cookie": None,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Origin-Agent-Cluster": "?1",
    "Permissions-Policy": (
        "accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), "
        "idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), screen-wake-lock=(), "
        "serial=(), usb=(), xr-spatial-tracking=()"
    ),
    "Referrer-Policy": "no-referrer",
    "Server": "TILES",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Permitted-Cross-Domain-Policies": "none",
}
PAGE_POLICY = (
    "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
)
DATA_POLICY = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'; sandbox"


@pytest.fixture(scope="module")
def answers(shared_service: Service, sender: Person) -> Answers:
    """A response of every route, with and without a session, and one of each kind of failure."""
    http = shared_service.http
    fill = {"<path:filename>": "style.css", "<code>": "not-found", "<token>": "made-up", "<uuid:id>": NOBODY}
    responses: Answers = {}
    for rule in shared_service.app.url_map.iter_rules():
        path = rule.rule
        for name, value in fill.items():
            path = path.replace(name, value)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            responses[f"{method} {path}"] = http.open(path, method=method)
            if method == "GET":
                responses[f"{method} {path} signed in"] = http.get(path, headers=sender.headers)
    for accept in ("text/html", "application/json"):
        for line in ("GET /nowhere", "GET /nowhere/", "GET /static/nothing.css", "PUT /privacy", "OPTIONS /v1/account"):
            method, path = line.split()
            responses[f"{line} {accept}"] = http.open(path, method=method, headers={"Accept": accept})
    for answer in responses.values():
        answer.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "request", lambda **_: 1 / 0)
        responses["our own mistake"] = http.post("/v1/registrations", json={"name": "Eve", "email": "eve@example.org"})
    assert {answer.status_code for answer in responses.values()} >= {200, 303, 400, 401, 404, 405, 415, 422, 500}
    return responses


def test_every_response_has_the_security_headers(answers: Answers) -> None:
    for name, answer in answers.items():
        assert {header: answer.headers.get(header) for header in HEADERS} == HEADERS, name
        policy = PAGE_POLICY if answer.mimetype == "text/html" else DATA_POLICY
        assert answer.headers["Content-Security-Policy"] == policy, name


def test_cookie_tossing_finds_no_cookie_read(shared_service: Service, sender: Person) -> None:
    tossed = {"Cookie": "session=evil; __Host-session=evil; token=evil; locale=evil; csrf=evil"}
    for path in ("/", "/privacy", "/password-reset", "/v1/account", "/v1/sessions"):
        plain = shared_service.http.get(path, headers=sender.headers)
        assert shared_service.http.get(path, headers=sender.headers | tossed).data == plain.data
    assert_problem(shared_service.http.get("/v1/account", headers=tossed), 401, "unauthenticated")


def test_no_other_site_may_read_an_answer(answers: Answers, shared_service: Service) -> None:
    headers = {"Origin": f"https://{EVIL}", "Access-Control-Request-Method": "DELETE"}
    for path in operations.document["paths"]:
        response = shared_service.http.options(path.replace("{id}", NOBODY), headers=headers)
        answers = answers | {f"OPTIONS {path}": response}
        assert response.status_code == 405
    for answer in answers.values():
        assert [name for name in answer.headers.keys() if name.startswith("Access-Control-")] == []  # noqa: SIM118
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@any_database
def test_cross_site_request_forgery_of_a_form_asks_for_nothing(service: Service, ada: Person) -> None:
    fields = {"email": ada.email, "token": service.ask_for_reset(ada.email), "password": MY_PASSWORD}
    before = service.everything()
    paths = [rule.rule for rule in service.app.url_map.iter_rules()
             if "POST" in (rule.methods or ()) and not rule.arguments and not rule.rule.startswith("/v1/")]  # fmt: skip
    assert len(paths) >= 8
    for path, site in product(paths, ("cross-site", "same-site")):
        answer = service.http.post(path, data=fields, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 422
    assert service.everything() == before


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
            # The test client would take a path that begins with two slashes for a host.
            raw = {"PATH_INFO": path, "QUERY_STRING": query}
            with shared_service.http.get("/", headers=headers, environ_overrides=raw) as answer:
                leads.add(answer.headers.get("Location"))
    assert leads == {None, "/password-reset", "/erasure", "/registration", "/desk/sign-in"}
