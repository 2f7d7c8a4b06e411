"""Tokens and sessions that are none: one answer for all, which tells nothing about what is wrong."""

import base64
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import dispose, make_app, make_settings
from flask import Flask
from support import NOBODY, PASSWORD, WORD, Person, Send, Service, assert_problem, bearer

from backend.security import tokens
from backend.security.tokens import Purpose
from backend.web.api import operations

PATHS = {
    "/v1/registrations/confirm": Purpose.REGISTRATION,
    "/v1/password-resets/confirm": Purpose.PASSWORD_RESET,
}
WITH_SESSION = [
    (method.upper(), path.replace("{id}", NOBODY))
    for path, item in operations.document["paths"].items()
    for method, described in item.items()
    if described.get("security", [{}])[-1]
]
any_path = pytest.mark.parametrize("path", PATHS)
any_operation = pytest.mark.parametrize(("method", "path"), WITH_SESSION)


def real_token(app: Flask, purpose: Purpose) -> str:
    """Return a token that has every right to be one."""
    with app.app_context():
        content = {"account": NOBODY, "name": WORD, "email": "eve@example.org", "state": WORD}
        return tokens.issue(purpose, content)


def redeem(send: Send, path: str, token: str) -> None:
    """Try a token; it is refused, and nothing of it told."""
    response = send(
        "POST", path, json={"token": token, "password": PASSWORD}, secrets=(token[:20],) if token[20:] else ()
    )
    assert_problem(response, 400, "invalid-token")


# Mailed tokens


MADE_UP = {
    "a word": "kilimanjaro",
    "a blank": " ",
    "dots": "..",
    "three parts": "kilimanjaro.kilimanjaro.kilimanjaro",
    "NUL": "kilimanjaro\0",
    "not ASCII": "kilimanjaro\u00e9\u202e",
    "no base64": "!kilimanjaro!.!.!",
    "compressed nonsense": ".kilimanjaro.aaaaaa.aaaa",
    "dots upon dots": "." * 16_000,
    "a session's": "tiles_kilimanjaro",
}


@any_path
@pytest.mark.parametrize("token", MADE_UP.values(), ids=MADE_UP.keys())
def test_a_made_up_token_is_invalid(send: Send, path: str, token: str) -> None:
    response = send("POST", path, json={"token": token, "password": PASSWORD})
    assert_problem(response, 400, "invalid-token")


def with_payload(token: str, change: Callable[[bytes], bytes]) -> str:
    """Change what a token says, and leave its signature as it was."""
    payload, time, signature = token.rsplit(".", 2)
    packed = base64.urlsafe_b64decode(payload.removeprefix(".") + "==")
    said = zlib.decompress(packed) if payload.startswith(".") else packed
    changed = change(said)
    assert changed != said
    return f"{base64.urlsafe_b64encode(changed).decode().rstrip('=')}.{time}.{signature}"


SPOIL: dict[str, Callable[[str], str]] = {
    "cut off": lambda token: token[:-8],
    "half": lambda token: token[: len(token) // 2],
    "without its head": lambda token: token[8:],
    "without its signature": lambda token: token.rpartition(".")[0],
    "without its time": lambda token: ".".join(token.rsplit(".", 2)[::2]),
    "only its payload": lambda token: token.rsplit(".", 2)[0],
    "another address": lambda token: with_payload(token, lambda said: said.replace(b"eve@", b"bob@")),
    "another account": lambda token: with_payload(token, lambda said: said.replace(b"5a1c", b"6b2d")),
    "another time": lambda token: "{0}.aaaaaa.{2}".format(*token.rsplit(".", 2)),
    "another spelling": lambda token: with_payload(token, lambda said: said + b" "),
    "a signature twice": lambda token: f"{token}.{token.rpartition('.')[2]}",
    "in quotes": lambda token: f'"{token}"',
    "with a line break": lambda token: f"{token[:40]}\r\n{token[40:]}",
}


@any_path
@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL.keys())
def test_a_spoilt_token_is_invalid(send: Send, shared_service: Service, path: str, spoil: Callable[[str], str]) -> None:
    redeem(send, path, spoil(real_token(shared_service.app, PATHS[path])))


@any_path
def test_a_token_of_another_purpose_is_invalid(send: Send, shared_service: Service, path: str) -> None:
    for other in set(Purpose) - {PATHS[path]}:
        redeem(send, path, real_token(shared_service.app, other))


@any_path
def test_a_sessions_token_is_no_mailed_token(send: Send, sender: Person, path: str) -> None:
    redeem(send, path, sender.session["token"])


@any_path
def test_a_token_signed_with_another_key_is_invalid(send: Send, tmp_path: Path, path: str) -> None:
    url = f"sqlite:///{tmp_path / 'other.sqlite3'}"
    app = make_app(make_settings(tmp_path, url, secret_keys="a key of another service altogether"))
    redeem(send, path, real_token(app, PATHS[path]))
    dispose(app)


def test_a_token_about_nobody_is_invalid(send: Send, shared_service: Service) -> None:
    redeem(send, "/v1/password-resets/confirm", real_token(shared_service.app, Purpose.PASSWORD_RESET))


# Sessions


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


@any_operation
@pytest.mark.parametrize("value", AUTHORIZATION.values(), ids=AUTHORIZATION.keys())
def test_a_made_up_session_is_nobodys(send: Send, method: str, path: str, value: str) -> None:
    response = send(method, path, json={}, headers={"Authorization": value})
    assert_problem(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@any_operation
def test_without_a_session_nothing_of_an_account_is_told(shared_service: Service, method: str, path: str) -> None:
    assert_problem(shared_service.http.open(path, method=method, json={}), 401, "unauthenticated")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: f"{token}A",
        str.swapcase,
        lambda token: token.removeprefix("tiles_"),
        lambda token: f"tiles_{token}",
    ],
    ids=["cut off", "prolonged", "in the other case", "without its prefix", "with its prefix twice"],
)
def test_a_session_that_is_nearly_right_is_nobodys(send: Send, sender: Person, spoil: Callable[[str], str]) -> None:
    response = send("GET", "/v1/account", headers=bearer(spoil(sender.session["token"])))
    assert_problem(response, 401, "unauthenticated")


def test_a_mailed_token_is_no_session(send: Send, shared_service: Service) -> None:
    token = real_token(shared_service.app, Purpose.PASSWORD_RESET)
    response = send("GET", "/v1/account", headers=bearer(token), secrets=(token[:20],))
    assert_problem(response, 401, "unauthenticated")
