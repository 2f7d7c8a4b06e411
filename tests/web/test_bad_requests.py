"""Wrong paths, methods, headers and forms: a problem, or a page for a person, that repeats nothing."""

import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from support import NOBODY, WORD, Person, Send, Service, announced, assert_problem, chunked

from backend.web.api import operations

PATHS = operations.document["paths"]
FORM = "application/x-www-form-urlencoded"


# Paths and methods


@pytest.mark.parametrize(
    "id",
    ["1", WORD, "%00", "%ff", "%F0%9F%98%80", "null", "..", "%2e%2e%2f", NOBODY[:-1], f"{NOBODY}0",
     NOBODY.replace("-", ""), f"{{{NOBODY}}}", f"{NOBODY}%00", f"{NOBODY}/", "*", "a" * 4_000, f"urn:uuid:{NOBODY}"],
)  # fmt: skip
def test_an_id_that_is_none_leads_to_nothing(send: Send, id: str) -> None:  # noqa: A002 - the contract's word
    assert_problem(send("DELETE", f"/v1/sessions/{id}"), 404, "not-found")


def test_an_id_of_nobodys_session_leads_to_nothing(send: Send) -> None:
    assert_problem(send("DELETE", f"/v1/sessions/{NOBODY}", secrets=(NOBODY,)), 404, "not-found")


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", f"/v1/{WORD}", f"/{WORD}", f"/v1/account/{WORD}", "/V1/account", "/v1/Account", "/v1/account/",
     "/v2/account", "/v1/users", "/.env", "/admin", "/kilimanjaro%00", "/kilimanjaro%ff%fe", "/v1/../kilimanjaro",
     "/static/kilimanjaro", "/static/../config.py", "/static/%2e%2e/config.py", "/problems/kilimanjaro",
     "/.well-known/kilimanjaro", "/%7b%7b7*7%7d%7d", f"/{'k' * 8_000}", "/v1/account;kilimanjaro",
     f"/{WORD}?{WORD}={WORD}", "/v1/sessions/current/kilimanjaro"],
)  # fmt: skip
def test_an_unknown_path_leads_to_nothing(send: Send, path: str) -> None:
    assert_problem(send("GET", path), 404, "not-found")


@pytest.mark.parametrize("path", ["/problems", "/problems?kilimanjaro", "//v1/account", "/v1//account"])
def test_no_answer_leads_to_the_host_that_a_request_names(send: Send, path: str) -> None:
    response = send("GET", path, headers={"Host": f"{WORD}.example"})
    location = response.headers.get("Location", "/")
    assert re.match(r"/(?!/)|https://accounts\.tiles\.test/", location), location


@pytest.mark.parametrize("path", PATHS)
def test_another_method_is_told_which_are_allowed(send: Send, path: str) -> None:
    declared = {method.upper() for method in PATHS[path]}
    made_up = {"TRACE", "CONNECT", "PROPFIND", WORD.upper()}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", *made_up} - declared:
        response = send(method, path.replace("{id}", NOBODY), json={"name": WORD})
        assert_problem(response, 405, "method-not-allowed")
        assert set(response.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"} == declared


@pytest.mark.parametrize("path", PATHS)
def test_a_question_about_methods_is_answered_like_a_wrong_one(send: Send, path: str) -> None:
    response = send("OPTIONS", path.replace("{id}", NOBODY))
    assert_problem(response, 405, "method-not-allowed")
    assert {method.upper() for method in PATHS[path]} <= set(response.headers["Allow"].split(", "))


# Headers


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Host", "kilimanjaro.example"),
        ("Host", "kilimanjaro <>\xff"),
        ("X-Forwarded-For", "kilimanjaro"),
        ("X-Forwarded-Host", "kilimanjaro.example"),
        ("X-Forwarded-Proto", "kilimanjaro"),
        ("Forwarded", "for=kilimanjaro;host=kilimanjaro.example"),
        ("X-Original-URL", "/kilimanjaro"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Accept", "kilimanjaro/*;q=kilimanjaro"),
        ("Accept", "text/html"),
        ("Accept-Language", "kilimanjaro"),
        ("Cookie", "session=kilimanjaro; \xff=\xfe"),
        ("Range", "bytes=kilimanjaro"),
        ("If-None-Match", "kilimanjaro"),
        ("If-Modified-Since", "kilimanjaro"),
        ("Origin", "https://kilimanjaro.example"),
        ("Referer", "https://kilimanjaro.example/"),
        ("User-Agent", "kilimanjaro\xff"),
        ("Expect", "kilimanjaro"),
        ("Date", "kilimanjaro"),
    ],
)
def test_a_strange_header_changes_no_answer(send: Send, header: str, value: str) -> None:
    usual, strange = send("GET", "/v1/account"), send("GET", "/v1/account", headers={header: value})
    assert (strange.status_code, strange.text) == (200, usual.text)
    assert dict(strange.headers) == dict(usual.headers)


# Forms


FORMS: dict[str, dict[str, Any]] = {
    "nothing": {"data": b""},
    "invalid UTF-8": {"data": b"token=kilimanjaro%ff%fe&email=kilimanjaro%ff&password=%ff"},
    "a lone surrogate": {"data": b"token=%ED%A0%80&email=%ED%A0%80&password=%ED%A0%80"},
    "NUL": {"data": b"token=%00&email=a%00@example.org&password=%00"},
    "a broken escape": {"data": b"token=%&email=%k&password=%kk"},
    "a header": {"data": urlencode({"email": "kilimanjaro@example.org\r\nBcc: eve@example.org"}).encode()},
    "members twice": {"data": b"token=1&token=2&email=a&email=b&password=1&password=2"},
    "a thousand fields": {"data": "&".join(f"k{number}=1" for number in range(1_200)).encode()},
    "a long password": {"data": b"token=made-up&email=eve&password=" + b"k" * 9_000},
    "JSON": {"data": b'{"email": "kilimanjaro@example.org"}', "content_type": "application/json"},
    "no media type": {"data": b"email=kilimanjaro@example.org", "content_type": None},
    "a multipart form without boundary": {"data": b"kilimanjaro", "content_type": "multipart/form-data"},
    "a broken multipart form": {"data": b"--k\r\nkilimanjaro", "content_type": "multipart/form-data; boundary=k"},
    "a strange charset": {"data": b"email=k", "content_type": f"{FORM}; charset=kilimanjaro"},
}


@pytest.fixture
def form_paths(shared_service: Service) -> list[str]:
    """The paths of all forms that people send."""
    rules = shared_service.app.url_map.iter_rules()
    return [rule.rule for rule in rules if "POST" in (rule.methods or ()) and not rule.rule.startswith("/v1/")]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_form_that_makes_no_sense_is_shown_again(
    shared_service: Service, form_paths: list[str], caplog: pytest.LogCaptureFixture, form: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in form_paths:
        response = shared_service.http.post(path, **{"content_type": FORM, **form})
        assert response.status_code in {400, 422}
        assert response.mimetype == "text/html"
        # What is marked is the field; a token in the address has none.
        assert ('aria-invalid="true"' in response.text) == ("<" not in path)
    assert WORD not in caplog.text


@pytest.mark.parametrize("way", [announced, chunked])
@pytest.mark.parametrize(
    ("content_type", "start"),
    [
        (FORM, b"email="),
        ("multipart/form-data; boundary=k", b'--k\r\nContent-Disposition: form-data; name="email"\r\n\r\n'),
    ],
    ids=["urlencoded", "multipart"],
)
def test_a_form_over_16_kib_is_too_large(
    send: Send, form_paths: list[str], way: Callable[[bytes], dict[str, Any]], content_type: str, start: bytes
) -> None:
    for path in form_paths:
        options = way(start + WORD.encode() * 20_000)
        options["headers"] = {"Accept": "text/html"} | options.get("headers", {})
        response = send("POST", path, content_type=content_type, **options)
        assert (response.status_code, response.mimetype) == (413, "text/html")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/account"), ("DELETE", "/v1/sessions/current")])
@pytest.mark.parametrize("way", [announced, chunked])
def test_a_body_where_none_is_read_is_refused(
    service: Service, ada: Person, method: str, path: str, way: Callable[[bytes], dict[str, Any]]
) -> None:
    options = way(b'{"kilimanjaro": 1}')
    options["headers"] = {**options.get("headers", {}), **ada.headers}
    response = service.http.open(path, method=method, **options)
    assert_problem(response, 422, "invalid-request")
    assert "kilimanjaro" not in response.text
    assert service.account(ada.headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_form_that_another_site_sends_is_refused(service: Service, site: str) -> None:
    headers = {"Sec-Fetch-Site": site}
    response = service.http.post("/password-reset", data={"email": "ada@example.org"}, headers=headers)
    assert_problem(response, 422, "invalid-request")
    assert service.rows("mails") == []
