"""Session tokens: one response for every invalid one."""

import pytest
from support import NOBODY, Person, Send, Service, assert_problem, bearer

from backend.web.api import operations

WITH_SESSION = [
    (method.upper(), path.replace("{id}", NOBODY))
    for path, item in operations.document["paths"].items()
    for method, described in item.items()
    if described.get("security", [{}])[-1]
]
AUTHORIZATION = {
    "empty": "",
    "blank": "  ",
    "a word": "kilimanjaro",
    "another scheme": "Basic a2lsaW1hbmphcm86a2lsaW1hbmphcm8=",
    "no token": "Bearer",
    "a blank token": "Bearer  ",
    "made up": "Bearer tiles_kilimanjaro",
    "without its prefix": "Bearer kilimanjaro",
    "two tokens": "Bearer kilimanjaro kilimanjaro",
    "not ASCII": "Bearer kilimanjaro\xff\xfe",
    "UTF-8": "Bearer kilimanjaro€".encode().decode("latin-1"),
    "NUL": "Bearer kilimanjaro\0",
    "15 KiB": "Bearer " + ("kilimanjaro" * 1_400)[: 15 * 1024],
    "quotes": 'Bearer "kilimanjaro"',
    "no space": "Bearer:kilimanjaro",
}


@pytest.mark.parametrize("value", AUTHORIZATION.values(), ids=AUTHORIZATION.keys())
def test_a_made_up_session_is_refused(send: Send, value: str) -> None:
    response = send("GET", "/v1/account", headers={"Authorization": value})
    assert_problem(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), WITH_SESSION)
def test_an_operation_of_an_account_needs_a_session(shared_service: Service, method: str, path: str) -> None:
    for headers in ({}, bearer("tiles_kilimanjaro")):
        response = shared_service.http.open(path, method=method, json={}, headers=headers)
        assert_problem(response, 401, "unauthenticated")


def test_a_slightly_altered_session_is_refused(send: Send, sender: Person) -> None:
    token = sender.session["token"]
    altered = (token[:-1], f"{token}A", token.swapcase(), token.removeprefix("tiles_"), f"tiles_{token}")
    for value in [*(f"Bearer {other}" for other in altered), f"Basic {token}", f"Token {token}", token]:
        assert_problem(send("GET", "/v1/account", headers={"Authorization": value}), 401, "unauthenticated")
