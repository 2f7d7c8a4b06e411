"""Wrong paths, methods, headers and forms: a problem, or a page for a browser, that repeats nothing."""

import logging
from urllib.parse import urlencode

import pytest
from support import NOBODY, WORD, Person, Send, Service, announced, assert_problem, chunked

from backend.web.api import operations

PATHS = operations.document["paths"]
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=k"


# Paths and methods


@pytest.mark.parametrize(
    "id",
    ["1", WORD, "%00", "%ff", "%F0%9F%98%80", "%2e%2e%2f", NOBODY[:-1], NOBODY.replace("-", ""), f"{{{NOBODY}}}",
     f"{NOBODY}%00", f"{NOBODY}/", "a" * 4_000, f"urn:uuid:{NOBODY}", NOBODY],
)  # fmt: skip
def test_an_id_of_no_session_is_not_found(send: Send, id: str) -> None:  # noqa: A002 - the contract's word
    assert_problem(send("DELETE", f"/v1/sessions/{id}", secrets=(NOBODY,)), 404, "not-found")


@pytest.mark.parametrize(
    "path",
    ["/v1", f"/{WORD}?{WORD}={WORD}", f"/v1/account/{WORD}", "/v1/Account", "/v1/account/", "/.env", "/kilimanjaro%00",
     "/kilimanjaro%ff%fe", "/v1/../kilimanjaro", "/static/kilimanjaro", "/static/../config.py",
     "/static/%2e%2e/config.py", "/problems/kilimanjaro", "/%7b%7b7*7%7d%7d", f"/{'k' * 8_000}",
     "/v1/account;kilimanjaro", "//v1/account", "/v1//account"],
)  # fmt: skip
def test_an_unknown_path_is_not_found(send: Send, path: str) -> None:
    assert_problem(send("GET", path), 404, "not-found")


def test_another_method_is_refused_with_the_allowed_ones(send: Send) -> None:
    made_up = {"TRACE", "CONNECT", "PROPFIND", WORD.upper(), "OPTIONS"}
    for path, item in PATHS.items():
        declared = {method.upper() for method in item}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", *made_up} - declared:
            response = send(method, path.replace("{id}", NOBODY), json={"name": WORD})
            assert_problem(response, 405, "method-not-allowed")
            assert set(response.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"} == declared


# Headers


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Host", "kilimanjaro.example"),
        ("Host", f"{WORD * 9}..example"),
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
def test_a_strange_header_changes_no_response(send: Send, header: str, value: str) -> None:
    usual, strange = send("GET", "/v1/account"), send("GET", "/v1/account", headers={header: value})
    assert (strange.status_code, strange.text) == (200, usual.text)
    assert {**strange.headers, "X-Request-Id": ""} == {**usual.headers, "X-Request-Id": ""}


# Forms


FORMS = {
    "nothing": (b"", FORM),
    "invalid UTF-8": (b"token=kilimanjaro%ff%fe&email=kilimanjaro%ff&password=%ff", FORM),
    "a lone surrogate": (b"token=%ED%A0%80&email=%ED%A0%80&password=%ED%A0%80", FORM),
    "NUL": (b"token=%00&email=a%00@example.org&password=%00", FORM),
    "a broken escape": (b"token=%&email=%k&password=%kk", FORM),
    "a header": (urlencode({"email": "kilimanjaro@example.org\r\nBcc: eve@example.org"}).encode(), FORM),
    "fields twice": (b"token=1&token=2&email=a&email=b&password=1&password=2", FORM),
    "a thousand fields": ("&".join(f"k{number}=1" for number in range(1_200)).encode(), FORM),
    "a long password": (b"token=made-up&email=eve&password=" + b"k" * 9_000, FORM),
    "JSON": (b'{"email": "kilimanjaro@example.org"}', "application/json"),
    "no media type": (b"email=kilimanjaro@example.org", None),
    "a multipart form without boundary": (b"kilimanjaro", "multipart/form-data"),
    "a broken multipart form": (b"--k\r\nkilimanjaro", MULTIPART),
    "a strange charset": (b"email=k", f"{FORM}; charset=kilimanjaro"),
}


@pytest.fixture
def form_paths(shared_service: Service) -> list[str]:
    """The paths of all forms that need no session."""
    rules = shared_service.app.url_map.iter_rules()
    paths = [rule.rule for rule in rules if "POST" in (rule.methods or ()) and not rule.rule.startswith("/v1/")]
    return [path for path in paths if not path.startswith("/desk") or path.startswith("/desk/sign-in")]


@pytest.mark.parametrize(("data", "content_type"), FORMS.values(), ids=FORMS.keys())
def test_an_invalid_form_is_shown_again(
    shared_service: Service,
    form_paths: list[str],
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    content_type: str | None,
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in form_paths:
        response = shared_service.http.post(path, data=data, content_type=content_type)
        assert response.status_code in {400, 422}
        assert response.mimetype == "text/html"
        # Its field is marked; a token in the path has none.
        assert ('aria-invalid="true"' in response.text) == ("<" not in path)
    assert WORD not in caplog.text


def test_a_form_over_16_kib_is_too_large(send: Send, form_paths: list[str]) -> None:
    multipart = b'--k\r\nContent-Disposition: form-data; name="email"\r\n\r\n'
    for path in form_paths:
        for content_type, start in ((FORM, b"email="), (MULTIPART, multipart)):
            for options in (announced(start + WORD.encode() * 2_000), chunked(start + WORD.encode() * 20_000)):
                options["headers"] = {"Accept": "text/html"} | options.get("headers", {})
                response = send("POST", path, content_type=content_type, **options)
                assert (response.status_code, response.mimetype) == (413, "text/html")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/account"), ("DELETE", "/v1/sessions/current")])
def test_a_body_is_refused_where_none_is_read(service: Service, ada: Person, method: str, path: str) -> None:
    for options in (announced(b'{"kilimanjaro": 1}'), chunked(b'{"kilimanjaro": 1}')):
        options["headers"] = {**options.get("headers", {}), **ada.headers}
        response = service.http.open(path, method=method, **options)
        assert_problem(response, 422, "invalid-request")
        assert "kilimanjaro" not in response.text
    assert service.account(ada.headers).status_code == 200
