"""Bad bodies: always a problem of the contract; nothing of them comes back, is logged, or is stored."""

import gzip
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from support import NUMBER, PASSWORD, WORD, Send, Service, announced, assert_problem, chunked

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
# Of the wrong type elsewhere, right here.
RIGHT = {
    ("PATCH", "name"): [None],
    ("PATCH", "email_updates"): [True, False],
    ("POST", "erase"): [True, False],
}


class Operation(NamedTuple):
    """An operation of the contract that takes a body."""

    method: str
    path: str
    members: list[str]
    required: list[str]

    def good(self, **changes: object) -> dict[str, object]:
        """Return a body without fault, but for the changes."""
        return {member: GOOD[member] for member in self.members} | changes


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
any_member = pytest.mark.parametrize(
    ("to", "member"),
    [(to, member) for to in OPERATIONS for member in to.members],
    ids=[f"{to.path} {member}" for to in OPERATIONS for member in to.members],
)
either_way = pytest.mark.parametrize("way", [announced, chunked])
Way = Callable[[bytes], dict[str, Any]]


# What is no JSON


MALFORMED = {
    "empty": b"",
    "blank": b" \r\n\t ",
    "a bare word": b"kilimanjaro",
    "cut off": b'{"name": "kilimanjaro',
    "two documents": b'{"kilimanjaro": 1} {}',
    "a trailing comma": b'{"kilimanjaro": 1,}',
    "single quotes": b"{'kilimanjaro': 1}",
    "a comment": b"/* kilimanjaro */ {}",
    "a line break in a string": b'{"name": "kilimanjaro\r\nSet-Cookie: a=b"}',
    "NUL in a string": b'{"name": "kilimanjaro\0"}',
    "NUL after the end": b'{"name": "kilimanjaro"}\0',
    "NaN": b'{"kilimanjaro": NaN}',
    "Infinity": b'{"kilimanjaro": Infinity}',
    "-Infinity": b'{"kilimanjaro": -Infinity}',
    "only NaN": b"NaN",
    "a lone high surrogate": rb'{"name": "kilimanjaro\ud800"}',
    "a lone low surrogate": rb'{"name": "kilimanjaro\udc00"}',
    "a surrogate pair the wrong way round": rb'{"name": "kilimanjaro\ude00\ud83d"}',
    "a lone surrogate in a member's name": rb'{"kilimanjaro\ud800": 1}',
    "a surrogate in UTF-8": b'{"name": "kilimanjaro\xed\xa0\x80"}',
    "invalid UTF-8": b'{"name": "kilimanjaro\xff"}',
    "overlong UTF-8": b'{"name": "kilimanjaro\xc0\xaf"}',
    "Latin-1": '{"name": "kilimanjaro é"}'.encode("latin-1"),
    "UTF-16": '{"name": "kilimanjaro"}'.encode("utf-16"),
    "UTF-32": '{"name": "kilimanjaro"}'.encode("utf-32-be"),
    "a byte order mark": '{"name": "kilimanjaro"}'.encode("utf-8-sig"),
    "deep lists": b"[" * 16_384,
    "deep objects": b'{"kilimanjaro":' * 1_000,
    "deep and closed": b"[" * 8_000 + b"]" * 8_000,
    "gzip": gzip.compress(b'{"name": "kilimanjaro"}'),
    "a form": b"name=kilimanjaro&email=eve%40example.org",
}


@any_operation
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_json_is_malformed(send: Send, to: Operation, data: bytes) -> None:
    assert_problem(send(to.method, to.path, data=data, content_type=JSON), 400, "malformed-json")


@any_operation
def test_a_member_given_twice_is_refused(send: Send, to: Operation) -> None:
    twice = json.dumps(to.good())[:-1] + f', "{to.members[0]}": "{WORD}"}}'
    response = send(to.method, to.path, data=twice, content_type=JSON)
    assert response.json["code"] in {"malformed-json", "invalid-request"}


@any_operation
@pytest.mark.parametrize("digits", [400, 4_000, 15_000])
def test_a_number_of_hundreds_of_digits_is_refused(send: Send, to: Operation, digits: int) -> None:
    number = str(NUMBER) * (digits // 10)
    data = json.dumps(to.good(**{to.members[0]: WORD})).replace(f'"{WORD}"', number)
    response = send(to.method, to.path, data=data, content_type=JSON)
    assert response.json["code"] in {"malformed-json", "invalid-request"}


# Media types


UNSUPPORTED = {
    "none": None,
    "text": "text/plain",
    "a form": "application/x-www-form-urlencoded",
    "a multipart form": "multipart/form-data; boundary=kilimanjaro",
    "made up": "application/kilimanjaro",
    "nearly": "application/jsonkilimanjaro",
    "another JSON": "application/problem+json",
    "two": "application/json, application/kilimanjaro",
    "not ASCII": "kilimanjaro/\xff",
}


@any_operation
@pytest.mark.parametrize("content_type", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_another_media_type_is_unsupported(send: Send, to: Operation, content_type: str | None) -> None:
    response = send(to.method, to.path, data=json.dumps(to.good()), content_type=content_type)
    assert_problem(response, 415, "unsupported-media-type")


@any_operation
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", WORD])
def test_an_encoded_body_is_unsupported(send: Send, to: Operation, encoding: str) -> None:
    data = gzip.compress(json.dumps(to.good()).encode())
    response = send(to.method, to.path, data=data, content_type=JSON, headers={"Content-Encoding": encoding})
    assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize("content_type", [JSON, f"{JSON}; charset=utf-8", f"{JSON};charset=UTF-8", JSON.upper()])
def test_json_with_a_charset_is_fine(shared_service: Service, content_type: str) -> None:
    data = json.dumps({"email": "nobody@example.org"})
    response = shared_service.http.post("/v1/password-resets", data=data, content_type=content_type)
    assert response.status_code == 202
    shared_service.deliver()


# Sizes


@any_operation
@either_way
@pytest.mark.parametrize("size", [16_385, 200 * 1024])
def test_a_body_over_16_kib_is_too_large(send: Send, to: Operation, way: Way, size: int) -> None:
    start = json.dumps(to.good(**{WORD: ""})).encode()[:-2]
    data = start.ljust(size - 2, b"x") + b'"}'
    assert_problem(send(to.method, to.path, content_type=JSON, **way(data)), 413, "payload-too-large")


@any_operation
@either_way
def test_what_follows_a_whole_document_is_not_cut_off(send: Send, to: Operation, way: Way) -> None:
    data = json.dumps(to.good()).encode().ljust(16_384) + WORD.encode()
    assert_problem(send(to.method, to.path, content_type=JSON, **way(data)), 413, "payload-too-large")


@either_way
def test_a_body_of_16_kib_is_read(shared_service: Service, way: Way) -> None:
    data = json.dumps({"email": "nobody@example.org"}).encode().ljust(16_384)
    response = shared_service.http.post("/v1/password-resets", content_type=JSON, **way(data))
    assert response.status_code == 202
    shared_service.deliver()


@any_operation
def test_a_body_shorter_than_announced_is_not_acted_on(send: Send, to: Operation) -> None:
    data = json.dumps(to.good())
    overrides = {"CONTENT_LENGTH": str(len(data) + 1), "wsgi.input_terminated": True}
    response = send(to.method, to.path, data=data, content_type=JSON, environ_overrides=overrides)
    assert_problem(response, 400, "malformed-json")


@any_operation
@pytest.mark.parametrize("length", ["-1", WORD, "1e3", "0x10", "9" * 30])
def test_a_length_that_is_none_is_no_mistake_of_ours(send: Send, to: Operation, length: str) -> None:
    overrides = {"CONTENT_LENGTH": length}
    response = send(to.method, to.path, data=json.dumps(to.good()), content_type=JSON, environ_overrides=overrides)
    assert response.json["code"] in {"malformed-json", "payload-too-large"}


# Members


@any_operation
@pytest.mark.parametrize("body", [None, True, NUMBER, 0.5, WORD, "", [], [WORD], [{"name": WORD}]], ids=repr)
def test_a_body_that_is_no_object_is_refused(send: Send, to: Operation, body: object) -> None:
    response = send(to.method, to.path, data=json.dumps(body), content_type=JSON)
    document = assert_problem(response, 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == [""]


@any_operation
def test_an_empty_object_lacks_every_member_that_is_needed(send: Send, to: Operation) -> None:
    if not to.required:
        assert_problem(send(to.method, to.path, json=[]), 422, "invalid-request")
        return
    document = assert_problem(send(to.method, to.path, json={}), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == [f"/{member}" for member in to.required]


@any_operation
@pytest.mark.parametrize(
    "extra",
    [WORD, "", "NAME", "Email", "email ", "name\0", "__proto__", "constructor", "id", "device", "a/b~c", "é", "\u202e"],
    ids=ascii,
)
def test_a_member_that_the_contract_does_not_name_is_refused(send: Send, to: Operation, extra: str) -> None:
    document = assert_problem(send(to.method, to.path, json=to.good(**{extra: WORD})), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == [""]


@pytest.mark.parametrize(
    ("to", "member"),
    [(to, member) for to in OPERATIONS for member in to.required],
    ids=[f"{to.path} {member}" for to in OPERATIONS for member in to.required],
)
def test_a_missing_member_is_pointed_to(send: Send, to: Operation, member: str) -> None:
    body = to.good()
    del body[member]
    document = assert_problem(send(to.method, to.path, json=body), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == [f"/{member}"]


@any_member
@pytest.mark.parametrize(
    "value", [None, True, False, 0, NUMBER, 1.5, [], [WORD], {}, {"$ne": WORD}, {WORD: NUMBER}, ""], ids=repr
)
def test_a_member_of_the_wrong_type_is_pointed_to(send: Send, to: Operation, member: str, value: object) -> None:
    if any(value is right for right in RIGHT.get((to.method, member), [])):
        return
    document = assert_problem(send(to.method, to.path, json=to.good(**{member: value})), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == [f"/{member}"]


@any_member
def test_a_very_long_string_is_refused(send: Send, to: Operation, member: str) -> None:
    response = send(to.method, to.path, json=to.good(**{member: WORD * 1_300}))
    assert_problem(response, *((400, "invalid-token") if member in {"token", "receipt"} else (422, "invalid-request")))


# Names and addresses


NAMES = {
    "NUL": "kilimanjaro\0",
    "NUL first": "\0kilimanjaro",
    "CR LF": "kilimanjaro\r\nBcc: eve@example.org",
    "a line feed": "kilimanjaro\nx",
    "a carriage return": "kilimanjaro\rx",
    "a tab": "kilimanjaro\tx",
    "an escape": "kilimanjaro\x1b[31m",
    "a backspace": "kilimanjaro\bx",
    "delete": "kilimanjaro\x7f",
    "a C1 control": "kilimanjaro\x9bx",
    "next line": "kilimanjaro\x85x",
    "a line separator": "kilimanjaro\u2028x",
    "a paragraph separator": "kilimanjaro\u2029x",
    "a left-to-right embedding": "kilimanjaro\u202ax",
    "a right-to-left embedding": "kilimanjaro\u202bx",
    "a pop": "kilimanjaro\u202cx",
    "a left-to-right override": "kilimanjaro\u202dx",
    "a right-to-left override": "kilimanjaro\u202ex",
    "a left-to-right isolate": "kilimanjaro\u2066x",
    "a right-to-left isolate": "kilimanjaro\u2067x",
    "a first strong isolate": "kilimanjaro\u2068x",
    "a pop of an isolate": "kilimanjaro\u2069x",
    "spaces": " \u00a0\u2003\u3000 ",
    "line breaks": "\r\n\r\n",
    "zero-width spaces": "\u200b\u200b",
    "joiners": "\u200c\u200d",
    "a word joiner": "\u2060",
    "a byte order mark": "\ufeff",
    "a soft hyphen": "\u00ad",
    "directional marks": "\u200e\u200f\u061c",
    "tags": "\U000e0041\U000e0042",
    "zero-width and space": " \u200b \u2060 ",
    "a grapheme joiner": "\u034f",
    "variation selectors": "\ufe0f\U000e0100",
    "Hangul fillers": "\u115f\u1160\u3164\uffa0",
    "201 letters": "x" * 201,
    "201 emoji": "\U0001f600" * 201,
    "101 letters that decompose to 202": "\u0958" * 101,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_nobody_could_read_is_refused(send: Send, name: str) -> None:
    response = send("POST", "/v1/registrations", json={"name": name, "email": "eve@example.org"})
    document = assert_problem(response, 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/name"]


LABEL = "x" * 63
EMAILS = {
    "blank": " ",
    "no at": "kilimanjaro",
    "only at": "@",
    "no local part": "@kilimanjaro.org",
    "no domain": "kilimanjaro@",
    "two ats": "a@kilimanjaro@example.org",
    "one label": "eve@kilimanjaro",
    "a trailing dot": "kilimanjaro@example.org.",
    "a double dot": "kilimanjaro@example..org",
    "a leading hyphen": "eve@-kilimanjaro.org",
    "an underscore": "eve@kili_manjaro.org",
    "a numeric top level": "kilimanjaro@example.123",
    "an IPv4 literal": "kilimanjaro@[127.0.0.1]",
    "an IPv6 literal": "kilimanjaro@[IPv6:::1]",
    "an IP address": "kilimanjaro@127.0.0.1",
    "localhost": "kilimanjaro@localhost",
    "broken punycode": "eve@xn--kilimanjaro\u00fc.org",
    "a leading dot": ".kilimanjaro@example.org",
    "a dot before the at": "kilimanjaro.@example.org",
    "two dots": "kilim..anjaro@example.org",
    "quotes": '"kilimanjaro x"@example.org',
    "a comment": "kilimanjaro(x)@example.org",
    "a display name": "Kilimanjaro <eve@example.org>",
    "angle brackets": "<kilimanjaro@example.org>",
    "two addresses": "kilimanjaro@example.org, eve@example.org",
    "a semicolon": "kilimanjaro@example.org;eve@example.org",
    "a URL": "mailto:kilimanjaro@example.org",
    "NUL in the local part": "kilimanjaro\0@example.org",
    "NUL in the domain": "eve@kilimanjaro\0.org",
    "NUL at the end": "kilimanjaro@example.org\0",
    "a line feed at the end": "kilimanjaro@example.org\n",
    "a header": "kilimanjaro@example.org\r\nBcc: eve@example.org",
    "a space": "kilimanjaro @example.org",
    "a bidi override": "kilimanjaro@example.org\u202e",
    "a zero-width space in the local part": "kili\u200bmanjaro@example.org",
    "a zero-width space in the domain": "eve@kili\u200bmanjaro.org",
    "a soft hyphen in the domain": "eve@kili\u00admanjaro.org",
    "a local part that is not ASCII": "kilim\u00e4njaro@example.org",
    "a local part of 65": f"{'x' * 65}@example.org",
    "a label of 64": f"eve@{'x' * 64}.org",
    "255 characters": f"{'x' * 64}@{LABEL}.{LABEL}.{'x' * 58}.org",
}
TAKES_AN_EMAIL = [to for to in OPERATIONS if "email" in to.members]


@pytest.mark.parametrize("to", TAKES_AN_EMAIL, ids=[to.path for to in TAKES_AN_EMAIL])
@pytest.mark.parametrize("email", EMAILS.values(), ids=EMAILS.keys())
def test_an_address_that_no_mail_reaches_is_refused(send: Send, to: Operation, email: str) -> None:
    document = assert_problem(send(to.method, to.path, json=to.good(email=email)), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/email"]
