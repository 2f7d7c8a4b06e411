"""Bad bodies: always a documented problem; no part of them is returned, logged or stored."""

import gzip
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from support import NUMBER, PASSWORD, WORD, Send, Service, announced, assert_problem, chunked
from werkzeug.test import TestResponse

from backend.database.models import Account, Session
from backend.web import bodies
from backend.web.api import operations

JSON = "application/json"
GOOD = {
    "name": "Eve",
    "email": "eve@example.org",
    "token": "made-up",
    "password": PASSWORD,
    "current_password": PASSWORD,
    "new_password": PASSWORD,
    "email_updates": False,
    "accepted_policy": "2026-01",
    "message": "More tiles, please.",
    "erase": False,
    "receipt": "made-up",
}
# Values that are wrong elsewhere, and valid for these operations.
RIGHT = {
    ("PATCH", "name"): [None],
    ("POST", "accepted_policy"): [None],
    ("PATCH", "email_updates"): [True, False],
    ("POST", "erase"): [True, False],
}


# A request must not set them (mass assignment).
COLUMNS = {column.name for table in (Account, Session) for column in table.__table__.columns}


class Operation(NamedTuple):
    """An operation of the contract that takes a body."""

    method: str
    path: str
    fields: list[str]
    required: list[str]

    def good(self, **changes: object) -> dict[str, object]:
        """Return a valid body, apart from the changes."""
        return {name: GOOD[name] for name in self.fields} | changes


def operations_with_a_body() -> list[Operation]:
    document = operations.document
    schemas = document["components"]["schemas"]
    return [
        Operation(method.upper(), path, list(body["properties"]), body.get("required", []))
        for path, item in document["paths"].items()
        for method, described in item.items()
        if "requestBody" in described
        for body in [schemas[described["requestBody"]["content"][JSON]["schema"]["$ref"].rpartition("/")[2]]]
    ]


OPERATIONS = operations_with_a_body()
any_operation = pytest.mark.parametrize("to", OPERATIONS, ids=[f"{to.method} {to.path}" for to in OPERATIONS])
either_way = pytest.mark.parametrize("way", [announced, chunked])
Way = Callable[[bytes], dict[str, Any]]


def pointers(response: TestResponse) -> list[str]:
    """Return the pointers of an invalid request's errors, which are all in our own words."""
    errors = assert_problem(response, 422, "invalid-request")["errors"]
    assert {entry["detail"].partition(" ")[0] for entry in errors} <= {
        "write",
        "is",
        "contains",
        "send",
        "this",
        "name",
    }
    assert not any("is not as the contract" in entry["detail"] for entry in errors)
    return [entry["pointer"] for entry in errors]


# JSON


MALFORMED = [
    b"", b" \r\n\t ", b"kilimanjaro", b'{"name": "kilimanjaro', b'{"kilimanjaro": 1} {}', b'{"kilimanjaro": 1,}',
    b"{'kilimanjaro': 1}", b"/* kilimanjaro */ {}", b'{"name": "kilimanjaro\r\nSet-Cookie: a=b"}',
    b'{"name": "kilimanjaro\0"}', b'{"name": "kilimanjaro"}\0', b'{"kilimanjaro": NaN}', b'{"kilimanjaro": Infinity}',
    b'{"kilimanjaro": -Infinity}', b"NaN", rb'{"name": "kilimanjaro\ud800"}', rb'{"name": "kilimanjaro\udc00"}',
    rb'{"name": "kilimanjaro\ude00\ud83d"}', rb'{"kilimanjaro\ud800": 1}', b'{"name": "kilimanjaro\xed\xa0\x80"}',
    b'{"name": "kilimanjaro\xff"}', b'{"name": "kilimanjaro\xc0\xaf"}', '{"name": "kilimanjaro é"}'.encode("latin-1"),
    '{"name": "kilimanjaro"}'.encode("utf-16"), '{"name": "kilimanjaro"}'.encode("utf-32-be"),
    '{"name": "kilimanjaro"}'.encode("utf-8-sig"), b"[" * 16_384, b'{"kilimanjaro":' * 1_000,
    b"[" * 8_000 + b"]" * 8_000, gzip.compress(b'{"name": "kilimanjaro"}'),
    b"name=kilimanjaro&email=eve%40example.org",
]  # fmt: skip


@any_operation
def test_malformed_json_is_refused(send: Send, to: Operation) -> None:
    twice = json.dumps(to.good())[:-1] + f', "{to.fields[0]}": "{WORD}"}}'
    for data in (*MALFORMED, twice):
        assert_problem(send(to.method, to.path, data=data, content_type=JSON), 400, "malformed-json")
    for digits in (400, 4_000, 15_000):
        number = str(NUMBER) * (digits // 10)
        data = json.dumps(to.good(**{to.fields[0]: WORD})).replace(f'"{WORD}"', number)
        response = send(to.method, to.path, data=data, content_type=JSON)
        assert response.json["code"] in {"malformed-json", "invalid-request"}


UNSUPPORTED = [
    None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=kilimanjaro",
    "application/kilimanjaro", "application/jsonkilimanjaro", "application/problem+json",
    "application/json, application/kilimanjaro", "kilimanjaro/\xff",
]  # fmt: skip


@any_operation
def test_another_media_type_or_an_encoded_body_is_unsupported(send: Send, to: Operation) -> None:
    data = json.dumps(to.good())
    for content_type in UNSUPPORTED:
        assert_problem(send(to.method, to.path, data=data, content_type=content_type), 415, "unsupported-media-type")
    for encoding in ("gzip", "deflate", "br", WORD):
        options = {"data": gzip.compress(data.encode()), "headers": {"Content-Encoding": encoding}}
        assert_problem(send(to.method, to.path, content_type=JSON, **options), 415, "unsupported-media-type")


@pytest.mark.parametrize("content_type", [JSON, f"{JSON}; charset=utf-8", f"{JSON};charset=UTF-8", JSON.upper()])
def test_json_with_a_charset_is_accepted(shared_service: Service, content_type: str) -> None:
    data = json.dumps({"email": "nobody@example.org"})
    response = shared_service.http.post("/v1/password-resets", data=data, content_type=content_type)
    assert response.status_code == 202
    shared_service.deliver()


# Sizes


@any_operation
@either_way
def test_a_body_over_16_kib_and_of_feedback_over_64_is_too_large(send: Send, to: Operation, way: Way) -> None:
    most = bodies.most_bytes(to.path)
    start = json.dumps(to.good(**{WORD: ""})).encode()[:-2]
    cut = json.dumps(to.good()).encode().ljust(most) + WORD.encode()
    for data in (start.ljust(most - 1, b"x") + b'"}', start.ljust(200 * 1024, b"x") + b'"}', cut):
        assert_problem(send(to.method, to.path, content_type=JSON, **way(data)), 413, "payload-too-large")


@either_way
def test_feedback_of_4000_characters_is_accepted_in_any_script_and_escaping(shared_service: Service, way: Way) -> None:
    for character in ("\u00e9", "\u6f22", "\U0001f642"):
        data = json.dumps({"message": character * 4_000}).encode()
        response = shared_service.http.post("/v1/feedback", content_type=JSON, **way(data))
        assert response.status_code == 201
    assert len(data) == 4_000 * len(r"\ud83d\ude42") + len('{"message": ""}')


@either_way
def test_a_body_of_16_kib_is_read(shared_service: Service, way: Way) -> None:
    data = json.dumps({"email": "nobody@example.org"}).encode().ljust(16_384)
    response = shared_service.http.post("/v1/password-resets", content_type=JSON, **way(data))
    assert response.status_code == 202
    shared_service.deliver()


@any_operation
def test_a_body_with_a_wrong_length_is_refused(send: Send, to: Operation) -> None:
    data = json.dumps(to.good())
    longer = {"CONTENT_LENGTH": str(len(data) + 1), "wsgi.input_terminated": True}
    response = send(to.method, to.path, data=data, content_type=JSON, environ_overrides=longer)
    assert_problem(response, 400, "malformed-json")
    for length in ("-1", WORD, "1e3", "0x10", "9" * 30):
        overrides = {"CONTENT_LENGTH": length}
        response = send(to.method, to.path, data=data, content_type=JSON, environ_overrides=overrides)
        assert response.json["code"] in {"malformed-json", "payload-too-large"}


# Fields


@any_operation
def test_a_body_that_is_not_an_object_is_refused(send: Send, to: Operation) -> None:
    for body in (None, True, NUMBER, 0.5, WORD, "", [], [WORD], [{"name": WORD}]):
        assert pointers(send(to.method, to.path, data=json.dumps(body), content_type=JSON)) == [""]


@any_operation
def test_a_missing_field_is_pointed_to(send: Send, to: Operation) -> None:
    if to.required:
        assert pointers(send(to.method, to.path, json={})) == [f"/{name}" for name in to.required]
    for name in to.required:
        body = to.good()
        del body[name]
        assert pointers(send(to.method, to.path, json=body)) == [f"/{name}"]


@any_operation
def test_a_field_that_the_contract_does_not_name_is_refused(send: Send, to: Operation) -> None:
    odd = {WORD, "", "NAME", "Email", "email ", "name\0", "__proto__", "device", "a/b~c", "é", "\u202e"}
    for extra in sorted((odd | COLUMNS) - set(to.fields)):
        sent = {"json": to.good(**{extra: WORD}), "query_string": {extra: WORD}}
        assert pointers(send(to.method, to.path, **sent)) == [""], ascii(extra)


@any_operation
def test_a_field_of_the_wrong_type_is_pointed_to(send: Send, to: Operation) -> None:
    for name in to.fields:
        for value in (None, True, False, 0, NUMBER, 1.5, [], [WORD], {}, {"$ne": WORD}, {WORD: NUMBER}, ""):
            if not any(value is right for right in RIGHT.get((to.method, name), [])):
                assert pointers(send(to.method, to.path, json=to.good(**{name: value}))) == [f"/{name}"], value


@any_operation
def test_a_very_long_string_is_refused(send: Send, to: Operation) -> None:
    for name in to.fields:
        response = send(to.method, to.path, json=to.good(**{name: WORD * 1_300}))
        code = (400, "invalid-token") if name in {"token", "receipt"} else (422, "invalid-request")
        assert_problem(response, *code)


# Names and addresses


NAMES = [
    "\0kilimanjaro", "kilimanjaro\r\nBcc: eve@example.org", "kilimanjaro\x1b[31m", "kilimanjaro\x9bx",
    "kilimanjaro\u2028x", "kilimanjaro\u2029x", "kilimanjaro\u202ax", "kilimanjaro\u202bx", "kilimanjaro\u202cx",
    "kilimanjaro\u202dx", "kilimanjaro\u2066x", "kilimanjaro\u2067x", "kilimanjaro\u2068x",
    " \u00a0\u2003\u3000 ", "\r\n\r\n", "\u200b\u200b", "\u200c\u200d",
    "\u2060", "\ufeff", "\u00ad", "\u200e\u200f\u061c", "\U000e0041\U000e0042", " \u200b \u2060 ", "\u034f",
    "\ufe0f\U000e0100", "\u115f\u1160\u3164\uffa0", "x" * 201, "\U0001f600" * 201, "\u0958" * 101,
]  # fmt: skip


def test_a_name_with_control_or_without_visible_characters_is_refused(send: Send) -> None:
    for name in NAMES:
        sent = {"name": name, "email": "eve@example.org"}
        assert pointers(send("POST", "/v1/registrations", json=sent)) == ["/name"], ascii(name)


LABEL = "x" * 63
EMAILS = [
    " ", "kilimanjaro", "@", "@kilimanjaro.org", "kilimanjaro@", "a@kilimanjaro@example.org", "eve@kilimanjaro",
    "kilimanjaro@example.org.", "kilimanjaro@example..org", "eve@-kilimanjaro.org", "eve@kili_manjaro.org",
    "kilimanjaro@example.123", "kilimanjaro@[127.0.0.1]", "kilimanjaro@[IPv6:::1]", "kilimanjaro@127.0.0.1",
    "kilimanjaro@localhost", "eve@xn--kilimanjaro\u00fc.org", ".kilimanjaro@example.org", "kilimanjaro.@example.org",
    "kilim..anjaro@example.org", '"kilimanjaro x"@example.org', "kilimanjaro(x)@example.org",
    "Kilimanjaro <eve@example.org>", "<kilimanjaro@example.org>", "kilimanjaro@example.org, eve@example.org",
    "kilimanjaro@example.org;eve@example.org", "mailto:kilimanjaro@example.org", "kilimanjaro\0@example.org",
    "eve@kilimanjaro\0.org", "kilimanjaro@example.org\0",
    "kilimanjaro@example.org\r\nBcc: eve@example.org", "kilimanjaro @example.org", "kilimanjaro@example.org\u202e",
    "kili\u200bmanjaro@example.org", "eve@kili\u200bmanjaro.org", "eve@kili\u00admanjaro.org",
    "kilim\u00e4njaro@example.org", f"{'x' * 65}@example.org", f"eve@{'x' * 64}.org",
    f"{'x' * 64}@{LABEL}.{LABEL}.{'x' * 58}.org",
]  # fmt: skip


@pytest.mark.parametrize("to", [to for to in OPERATIONS if "email" in to.fields], ids=lambda to: to.path)
def test_an_address_that_no_email_reaches_is_refused(send: Send, to: Operation) -> None:
    for email in EMAILS:
        assert pointers(send(to.method, to.path, json=to.good(email=email))) == ["/email"], email
