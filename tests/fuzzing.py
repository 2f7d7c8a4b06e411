"""The fuzzers' strategies, and the door for their requests: no request may break the service or leave a trace."""

import json
import logging
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import strategies as st
from support import PASSWORD, WORD, Person, Service
from werkzeug.test import TestResponse

from backend.errors import problems
from backend.web.api import operations

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
TABLES = ("accounts", "sessions", "mails", "feedback", "previous_addresses")
# A valid value of each field, except a working token; the password is not the account's.
GOOD: dict[str, object] = {
    "name": "Eve",
    "email": "eve@example.org",
    "token": "made-up",
    "password": f"{PASSWORD}, not",
    "current_password": f"{PASSWORD}, not",
    "new_password": PASSWORD,
    "email_updates": False,
    "accepted_policy": "2026-01",
    "message": "More tiles, please.",
    "erase": False,
    "receipt": "made-up",
}
SCHEMAS = operations.document["components"]["schemas"]
OPERATIONS: list[tuple[str, str, list[str]]] = [
    (method.upper(), path, list(SCHEMAS[body["schema"]["$ref"].rpartition("/")[2]]["properties"]))
    for path, item in operations.document["paths"].items()
    for method, described in item.items()
    for body in [described.get("requestBody", {}).get("content", {}).get(JSON)]
    if body
]
FORMS = ["/registration", "/password-reset", "/password-reset/confirm", "/email-change", "/email-change-undo",
         "/erasure", "/erasure/confirm", "/erasure-cancel", "/unsubscribe/made-up"]  # fmt: skip


class Door:
    """Sends requests, and checks each response."""

    def __init__(self, service: Service, person: Person, caplog: pytest.LogCaptureFixture) -> None:
        self.service, self.person, self._caplog = service, person, caplog
        self._stored = self._rows()

    def _rows(self) -> dict[str, Any]:
        return {table: self.service.rows(table) for table in TABLES}

    def send(
        self, method: str, path: str, *secrets: str, signed_in: bool = False, echoed: bool = False, **options: Any
    ) -> TestResponse:
        """Send a request. Only a page that shows its form again (`echoed`) may repeat a part of it."""
        self._caplog.clear()
        if signed_in:
            options["headers"] = self.person.headers | options.get("headers", {})
        response = self.service.http.open(path, method=method, **options)
        assert response.status_code < 500, response.text
        assert [record for record in self._caplog.records if record.levelno >= logging.WARNING] == []
        output = f"{'' if echoed else response.text}\n{response.headers}\n{self._caplog.text}".lower()
        assert not any(secret.lower() in output for secret in (WORD, *secrets))
        if response.status_code >= 400:
            self._check_refusal(response)
        self._check_stored(refused=response.status_code >= 400 or method in {"GET", "HEAD"})
        return response

    def _check_refusal(self, response: TestResponse) -> None:
        if response.mimetype == "text/html" or response.request.method == "HEAD":
            return
        assert response.mimetype == "application/problem+json"
        document = response.json
        assert document.keys() == {"type", "title", "status", "detail", "code", "request_id", "errors"}
        assert problems()[document["code"]].status == document["status"] == response.status_code
        assert all(entry.keys() == {"pointer", "detail"} for entry in document["errors"])

    def _check_stored(self, *, refused: bool) -> None:
        stored = self._rows()
        if refused:
            assert stored == self._stored, "what was refused was stored"
        self._stored = stored


def around(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Put a marker word into generated text."""
    return st.tuples(text, text).map(WORD.join)


texts = st.text(max_size=40)
# A header may have any bytes. A WSGI server reads them as Latin-1.
latin = st.text(st.characters(max_codepoint=255), max_size=60)
raw = st.binary(max_size=200).map(lambda data: data + WORD.encode())
numbers = st.integers() | st.integers(10**300, 10**310) | st.floats(allow_nan=False, allow_infinity=False)
names = st.sampled_from(sorted(GOOD)) | texts
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | around(texts),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def nearly_right(members: list[str]) -> st.SearchStrategy[bytes]:
    """Generate a valid body with one field changed, missing or added."""
    good = {member: GOOD[member] for member in members}
    odd = st.builds(lambda member, value: good | {member: value}, st.sampled_from(members), values)
    more = st.builds(lambda member, value: good | {member: value}, around(texts), values)
    less = st.sampled_from(members).map(lambda omitted: {name: good[name] for name in members if name != omitted})
    return (odd | more | less).map(lambda body: json.dumps(body).encode())


def twice(members: list[str]) -> st.SearchStrategy[bytes]:
    """Generate a valid body with a repeated field."""
    good = json.dumps({member: GOOD[member] for member in members})[:-1]
    return st.builds(lambda name, value: f"{good}, {json.dumps(name)}: {json.dumps(value)}}}".encode(),
                     st.sampled_from(members), around(texts))  # fmt: skip


def damaged(members: list[str]) -> st.SearchStrategy[bytes]:
    """Generate the bytes of a valid body, cut or with some bytes changed."""
    good = json.dumps({member: GOOD[member] for member in members}).encode()
    return st.builds(splice, st.just(good), st.integers(0, len(good)), st.integers(0, 8), st.binary(max_size=6))


def splice(data: bytes, at: int, removed: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + removed :]


deep = st.builds(lambda start, times, end: start * times + end, st.sampled_from([b"[", b'{"a":', b'["', b'{"name":[']),
                 st.integers(1, 3_000), st.binary(max_size=4))  # fmt: skip


def bodies(members: list[str]) -> st.SearchStrategy[bytes]:
    """Generate bodies: noise, JSON of any shape, and nearly valid bodies."""
    anything = values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return raw | deep | anything | nearly_right(members) | damaged(members)


media_types = (
    st.just(JSON)
    | st.sampled_from([f"{JSON}; charset=utf-8", f"{JSON}; charset=utf-16", f"{JSON};charset={WORD}", f"{JSON};", FORM,
                       "multipart/form-data", f"multipart/form-data; boundary={WORD}", "text/plain", "*/*", ""])
    | latin
)  # fmt: skip

Mutate = Callable[[str], str]


def mutations(parts: str) -> st.SearchStrategy[Mutate]:
    """Generate changes of a text: cut, doubled, with other characters, or with its parts in another order."""
    letters = st.characters(codec="ascii", categories=("L", "N", "P"))
    cuts = st.builds(
        lambda at, removed, new: lambda text: text[: at % len(text)] + new + text[at % len(text) + removed :],
        st.integers(0, 400),
        st.integers(0, 30),
        st.text(letters | st.characters(codec="utf-8"), max_size=5),
    )
    orders = st.permutations(range(3)).map(
        lambda order: lambda text: parts.join([*text.rsplit(parts, 2), "", ""][number] for number in order)
    )
    return cuts | orders | st.sampled_from([str.swapcase, lambda text: text * 2, lambda text: text[::-1]])


class Markup(HTMLParser):
    """The tags and attributes of a page that come from the request."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.foreign += [name for name in (tag, *(name for name, _ in attrs)) if WORD in name]

    def handle_data(self, data: str) -> None:
        self.foreign += [data] if WORD in data and self._tag != "textarea" else []
