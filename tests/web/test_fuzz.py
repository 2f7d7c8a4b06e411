"""Generated requests: always a documented response; no part of them is returned, logged or stored."""

from typing import Any
from urllib.parse import quote

import pytest
from caller import PURPOSES
from fuzzing import (
    FORM,
    FORMS,
    JSON,
    OPERATIONS,
    Door,
    Markup,
    Mutate,
    around,
    bodies,
    latin,
    media_types,
    mutations,
    nearly_right,
    raw,
    texts,
    twice,
    values,
)
from generating import Count, amount
from hypothesis import given, settings
from hypothesis import strategies as st
from itsdangerous import BadData, base64_decode
from journeys import MakeService
from support import NOBODY, PASSWORD, WORD, Service, any_database, assert_problem

from backend.errors import InvalidToken
from backend.security import tokens
from backend.security.tokens import Purpose

REDEEMED = {purpose: path for path, purpose in PURPOSES.items()} | {
    Purpose.RECEIPT: "/v1/erasure-receipts/verify",
    Purpose.UNSUBSCRIBE: "/unsubscribe/",
    Purpose.DESK: "/desk/sign-in/confirm",
}
CONTENT: dict[str, object] = {
    "account": NOBODY,
    "change": NOBODY,
    "state": WORD,
    "name": WORD,
    "email": "eve@example.org",
    "requested_at": None,
    "erased_at": "2026-01-01T00:00:00Z",
    "removed": [],
    "kept": [],
}
purposes = st.sampled_from(list(Purpose))
some = settings(max_examples=amount(50))
long = pytest.mark.long


@pytest.fixture
def door(service: Service, count: Count, caplog: pytest.LogCaptureFixture) -> Door:
    """The service, for a person with an account."""
    ada = service.register()
    count(service.app)
    caplog.set_level("DEBUG")
    return Door(service, ada, caplog)


# Tokens


def try_token(door: Door, purpose: Purpose, token: str) -> None:
    """Redeem an invalid token by its feature and by its operation."""
    with door.service.app.app_context(), pytest.raises(InvalidToken):
        tokens.redeem(purpose, token)
    send_token(door, purpose, token)


def send_token(door: Door, purpose: Purpose, token: str) -> None:
    path = REDEEMED[purpose]
    secret = [token] if len(token) > 30 else []
    if purpose is Purpose.UNSUBSCRIBE:
        response = door.send("POST", f"{path}{quote(token, safe='')}", *secret)
        assert response.status_code in {400, 404, 405}
        return
    if purpose is Purpose.DESK:
        assert door.send("POST", path, echoed=True, data={"token": token}).status_code == 400
        return
    member = "receipt" if purpose is Purpose.RECEIPT else "token"
    password = {"password": PASSWORD} if purpose in {Purpose.REGISTRATION, Purpose.PASSWORD_RESET} else {}
    response = door.send("POST", path, *secret, json={member: token, **password})
    assert_problem(response, 400, "invalid-token")


def issue(door: Door, purpose: Purpose, content: object) -> str:
    """Sign anything, not only an object."""
    with door.service.app.app_context():
        return tokens.issue(purpose, content)  # type: ignore[arg-type]


@any_database
@some
@given(purpose=purposes, token=around(texts) | around(st.text("._-Aa0", max_size=400)))
def test_a_made_up_token_is_refused_and_not_repeated(door: Door, purpose: Purpose, token: str) -> None:
    try_token(door, purpose, token)


def is_same(token: str, valid: str) -> bool:
    """Return whether two tokens have the same bytes, which have several spellings in base64."""
    content, _, signature = token.rpartition(".")
    expected, _, right = valid.rpartition(".")
    try:
        return content == expected and base64_decode(signature.encode()) == base64_decode(right)
    except BadData:
        return False


@any_database
@some
@given(purpose=purposes, spoil=st.lists(mutations("."), min_size=1, max_size=3))
def test_an_altered_token_is_refused(door: Door, purpose: Purpose, spoil: list[Mutate]) -> None:
    valid = token = issue(door, purpose, CONTENT)
    for change in spoil:
        token = change(token) or WORD
    if not is_same(token, valid):
        try_token(door, purpose, token)


# A name and an address were cleaned before they were signed; every other field is checked again.
odd_members = (
    st.tuples(st.sampled_from(sorted(CONTENT)), values)
    .filter(lambda member: not (member[0] in {"name", "email"} and isinstance(member[1], str)))
    .map(lambda member: CONTENT | dict([member]))
)
fewer_members = st.sets(st.sampled_from(sorted(CONTENT))).map(lambda kept: {name: CONTENT[name] for name in kept})
MEMBERS = {
    Purpose.REGISTRATION: {"account", "name", "email"},
    Purpose.EMAIL_CHANGE: {"account", "state", "email"},
    Purpose.EMAIL_CHANGE_UNDO: {"account", "state", "change"},
    Purpose.UNSUBSCRIBE: {"account"},
    Purpose.RECEIPT: {"account", "requested_at", "erased_at", "removed", "kept"},
}


@any_database
@some
@given(purpose=purposes, content=values | odd_members | fewer_members)
def test_a_signed_token_with_other_content_is_refused(door: Door, purpose: Purpose, content: object) -> None:
    """Another release may have signed it."""
    needed = MEMBERS.get(purpose, {"account", "state"})
    right = isinstance(content, dict) and all(content.get(name, WORD) == CONTENT[name] for name in needed)
    if not right and not (purpose is Purpose.RECEIPT and isinstance(content, dict) and needed <= content.keys()):
        send_token(door, purpose, issue(door, purpose, content))


# Headers


authorizations = latin | latin.map("Bearer ".__add__) | st.text(" \t\0", max_size=900).map("bearer {}x".format)
other_schemes = latin.filter(lambda text: text.strip().lower() != "bearer")


# Only the hash of a token reaches the database.
@any_database
@long
@some
@given(value=authorizations, scheme=other_schemes, spoil=st.lists(mutations("_"), min_size=1, max_size=3))
def test_an_invalid_authorization_is_refused(door: Door, value: str, scheme: str, spoil: list[Mutate]) -> None:
    valid = altered = door.person.session["token"]
    for change in spoil:
        altered = change(altered) or "x"
    values = [value, scheme + valid, f"{scheme} {valid}", f"{scheme}\t{valid}"]
    if altered.strip() != valid:
        values.append(f"Bearer {altered}".encode().decode("latin-1"))
    for each in values:
        for method, path, options in (
            ("POST", "/v1/feedback", {"json": {"message": WORD}}),
            ("GET", "/v1/account", {}),
        ):
            secrets = [each] if len(each) > 30 else []
            response = door.send(method, path, *secrets, environ_overrides={"HTTP_AUTHORIZATION": each}, **options)
            if method == "POST" and each.partition(" ")[0].lower() not in {"bearer", ""}:
                # Another scheme is no session, and feedback needs none.
                assert response.status_code == 201
                continue
            assert_problem(response, 401, "unauthenticated")
            assert response.headers["WWW-Authenticate"] == "Bearer"


@long
@some
@given(key=latin, message=around(texts))
def test_an_idempotency_key_is_accepted_or_refused(door: Door, key: str, message: str) -> None:
    options: dict[str, Any] = {"environ_overrides": {"HTTP_IDEMPOTENCY_KEY": key}, "json": {"message": message}}
    first = door.send("POST", "/v1/feedback", **options)
    again = door.send("POST", "/v1/feedback", **options)
    assert first.status_code == again.status_code
    assert first.status_code == 422 or first.json == again.json
    fine = 1 <= len(key) <= 255 and key.isascii() and key.isprintable()
    assert fine or first.status_code == 422


ADDRESSES = st.ip_addresses().map(str) | latin | st.builds("[{}]:{}".format, st.ip_addresses(v=6), latin)


@pytest.fixture
def doors(make_service: MakeService, count: Count) -> dict[int, Service]:
    """The service with its limits, by the number of its proxies."""
    services = {number: make_service(trusted_proxies=number, rate_limits="") for number in range(3)}
    for service in services.values():
        count(service.app)
    return services


@long
@some
@given(values=st.lists(ADDRESSES, max_size=5), proxies=st.integers(0, 2))
def test_no_forwarded_address_fails(door: Door, doors: dict[int, Service], values: list[str], proxies: int) -> None:
    door.service = doors[proxies]
    headers = {"HTTP_X_FORWARDED_FOR": ",".join(values), "HTTP_FORWARDED": ";".join(values)}
    response = door.send("POST", "/v1/email-changes/confirm", json={"token": WORD}, environ_overrides=headers)
    assert response.status_code in {400, 429}


# Bodies


@settings(max_examples=amount(100))
@given(operation=st.sampled_from(OPERATIONS), data=st.data())
def test_a_body_is_read_or_refused(door: Door, operation: tuple[str, str, list[str]], data: st.DataObject) -> None:
    method, path, members = operation
    door.send(method, path, signed_in=True, data=data.draw(bodies(members)), content_type=JSON)


@any_database
@some
@given(operation=st.sampled_from(OPERATIONS), content_type=media_types, data=st.data())
def test_a_repeated_field_is_refused_and_a_media_type_is_read_or_refused(
    door: Door, operation: tuple[str, str, list[str]], content_type: str, data: st.DataObject
) -> None:
    method, path, members = operation
    response = door.send(method, path, signed_in=True, data=data.draw(twice(members)), content_type=JSON)
    assert_problem(response, 400, "malformed-json")
    body = data.draw(nearly_right(members) | raw)
    door.send(method, path, signed_in=True, data=body, environ_overrides={"CONTENT_TYPE": content_type})


MARKUP = st.sampled_from([f'"><{WORD} {WORD}="', f"'><script>{WORD}</script>", f"{{{{ {WORD} }}}}", f"</p><{WORD}>"])
fields = st.lists(
    st.tuples(st.sampled_from(["email", "password", "token", "name", ""]) | texts, around(texts) | MARKUP), max_size=5
)
encoded = fields.map(lambda pairs: "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs).encode())


@any_database
@some
@given(path=st.sampled_from(FORMS), body=encoded | raw, content_type=st.just(FORM) | media_types)
def test_a_form_of_a_page_is_shown_again_or_refused(door: Door, path: str, body: bytes, content_type: str) -> None:
    """The text stays in its field."""
    response = door.send("POST", path, echoed=True, data=body, environ_overrides={"CONTENT_TYPE": content_type})
    assert response.status_code in {400, 413, 422}
    assert Markup(response.text).foreign == []


# Paths


segments = st.sampled_from(["v1", "sessions", "account", "unsubscribe", "problems", "static", "..", ".", "", NOBODY])
paths = st.lists(segments | latin, max_size=6).map("/".join).map("/".__add__)


@long
@some
@given(
    path=paths | latin, query=latin, method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT"]) | st.text("AZ")
)
def test_a_path_leads_somewhere_or_to_nothing(door: Door, path: str, query: str, method: str) -> None:
    response = door.send("GET", "/", environ_overrides={
        "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": method, "SCRIPT_NAME": "",
    })  # fmt: skip
    assert "://" not in response.headers.get("Location", "")


def test_a_version_with_nul_is_refused_on_both_databases(door: Door) -> None:
    response = door.send("PATCH", "/v1/account", signed_in=True, json={"accepted_policy": "2026\0"})
    assert_problem(response, 422, "invalid-request")
