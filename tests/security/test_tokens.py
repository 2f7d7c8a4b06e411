"""Tokens: every invalid token gets the same response, which does not say what is wrong."""

import base64
import hashlib
import hmac
import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apps import KEY, dispose, make_app, make_settings
from flask import Flask
from itsdangerous import Signer, URLSafeTimedSerializer
from itsdangerous.encoding import base64_encode
from support import NOBODY, PASSWORD, WORD, Person, Send, Service, any_database, assert_problem, bearer

from backend import clock
from backend.errors import InvalidToken
from backend.security import tokens
from backend.security.tokens import LIFETIMES, Purpose

MoveClock = Callable[[timedelta], None]
CONFIRM = "/v1/registrations/confirm"


# The content that every purpose requires: only the salt distinguishes them.
CONTENT = {"account": NOBODY, "change": NOBODY, "state": WORD, "name": WORD, "email": "eve@example.org"}


def real_token(app: Flask, purpose: Purpose = Purpose.REGISTRATION) -> str:
    """Return a token that is valid for its purpose."""
    with app.app_context():
        return tokens.issue(purpose, CONTENT)


def refuse(send: Send, path: str, token: str) -> None:
    """Check that a token is refused, and that neither the response nor the log contains it."""
    secrets = (token[:20],) if token[20:] else ()
    assert_problem(
        send("POST", path, json={"token": token, "password": PASSWORD}, secrets=secrets), 400, "invalid-token"
    )


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
    "many dots": "." * 16_000,
    "a session's": "tiles_kilimanjaro",
}


@pytest.mark.parametrize("token", MADE_UP.values(), ids=MADE_UP.keys())
def test_a_made_up_token_is_invalid(send: Send, token: str) -> None:
    assert_problem(send("POST", CONFIRM, json={"token": token, "password": PASSWORD}), 400, "invalid-token")


def with_payload(token: str, change: Callable[[bytes], bytes]) -> str:
    """Change the content of a token and keep its signature."""
    payload, time, signature = token.rsplit(".", 2)
    packed = base64.urlsafe_b64decode(payload.removeprefix(".") + "==")
    content = zlib.decompress(packed) if payload.startswith(".") else packed
    changed = change(content)
    assert changed != content
    return f"{base64.urlsafe_b64encode(changed).decode().rstrip('=')}.{time}.{signature}"


ALTERATIONS: dict[str, Callable[[str], str]] = {
    "cut off": lambda token: token[:-8],
    "half": lambda token: token[: len(token) // 2],
    "without its head": lambda token: token[8:],
    "without its signature": lambda token: token.rpartition(".")[0],
    "without its time": lambda token: ".".join(token.rsplit(".", 2)[::2]),
    "only its payload": lambda token: token.rsplit(".", 2)[0],
    "another address": lambda token: with_payload(token, lambda content: content.replace(b"eve@", b"bob@")),
    "another account": lambda token: with_payload(token, lambda content: content.replace(b"5a1c", b"6b2d")),
    "another time": lambda token: "{0}.aaaaaa.{2}".format(*token.rsplit(".", 2)),
    "another spelling": lambda token: with_payload(token, lambda content: content + b" "),
    "a signature twice": lambda token: f"{token}.{token.rpartition('.')[2]}",
    "in quotes": lambda token: f'"{token}"',
}


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_an_altered_token_is_invalid(send: Send, shared_service: Service, alter: Callable[[str], str]) -> None:
    refuse(send, CONFIRM, alter(real_token(shared_service.app)))


def test_a_token_of_another_purpose_is_invalid(send: Send, shared_service: Service, sender: Person) -> None:
    for purpose in Purpose:
        token = real_token(shared_service.app, purpose)
        with shared_service.app.app_context():
            assert tokens.redeem(purpose, token) == CONTENT
            for other in set(Purpose) - {purpose}:
                with pytest.raises(InvalidToken):
                    tokens.redeem(other, token)
        if purpose is not Purpose.REGISTRATION:
            refuse(send, CONFIRM, token)
    refuse(send, CONFIRM, sender.session["token"])


def test_a_mailed_token_is_no_session(send: Send, shared_service: Service) -> None:
    token = real_token(shared_service.app, Purpose.PASSWORD_RESET)
    response = send("GET", "/v1/account", headers=bearer(token), secrets=(token[:20],))
    assert_problem(response, 401, "unauthenticated")


REQUIRED = {
    Purpose.REGISTRATION: {"name", "email"},
    Purpose.EMAIL_CHANGE: {"state", "email"},
    Purpose.EMAIL_CHANGE_UNDO: {"state", "change"},
    Purpose.UNSUBSCRIBE: set(),
    Purpose.RECEIPT: set(),
}


@pytest.mark.parametrize("purpose", Purpose)
def test_a_token_without_the_content_of_its_purpose_is_invalid(shared_service: Service, purpose: Purpose) -> None:
    contents = [{name: value for name, value in CONTENT.items() if name != absent} for absent in CONTENT]
    contents += [{"account": NOBODY, **dict.fromkeys(REQUIRED.get(purpose, {"state"}), NOBODY)}]
    with shared_service.app.app_context():
        for content in [{}, CONTENT | {"account": WORD}, *contents]:
            token = tokens.issue(purpose, content)
            required = {"account"} | REQUIRED.get(purpose, {"state"})
            if required <= content.keys() and content["account"] == NOBODY:
                assert tokens.redeem(purpose, token) == content
            else:
                with pytest.raises(InvalidToken):
                    tokens.redeem(purpose, token)


def test_a_token_signed_with_another_key_is_invalid(send: Send, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.sqlite3'}"
    app = make_app(make_settings(tmp_path, url, secret_keys="a key of another service altogether"))
    refuse(send, CONFIRM, real_token(app))
    dispose(app)


def test_a_token_of_an_unknown_account_is_invalid(send: Send, shared_service: Service) -> None:
    refuse(send, "/v1/password-resets/confirm", real_token(shared_service.app, Purpose.PASSWORD_RESET))


def test_line_breaks_in_a_receipt_do_no_harm(shared_service: Service) -> None:
    entry: Any = SimpleNamespace(account_id=uuid.UUID(NOBODY), details={"removed": [], "kept": []})
    with shared_service.app.app_context():
        receipt = tokens.issue_receipt(entry)
        content = tokens.redeem(Purpose.RECEIPT, f" {receipt[:40]}\r\n {receipt[40:]}\n")
    assert content == {"account": NOBODY, "removed": [], "kept": []}


def forged(algorithm: Callable[..., "hashlib._Hash"]) -> str:
    """Sign a token with the right key and the right salt, by any algorithm."""
    signer_kwargs = {"key_derivation": "hmac", "digest_method": algorithm}
    serializer = URLSafeTimedSerializer([KEY], salt="registration", signer_kwargs=signer_kwargs)
    token = serializer.dumps(CONTENT)
    assert isinstance(token, str)
    return token


@any_database
def test_a_token_signed_by_another_algorithm_is_refused(service: Service) -> None:
    good = forged(hashlib.sha256)
    for algorithm in (hashlib.sha1, hashlib.md5, hashlib.sha512, hashlib.sha3_256):
        assert_problem(service.confirm(forged(algorithm)), 400, "invalid-token")
    payload, time, signature = good.rsplit(".", 2)
    assert len(signature) == 43  # 256 bits in base64
    for wrong in ("", "none", base64_encode(hmac.digest(b"", f"{payload}.{time}".encode(), "sha256")).decode()):
        assert_problem(service.confirm(f"{payload}.{time}.{wrong}"), 400, "invalid-token")
    assert_problem(service.confirm(Signer(KEY).sign(payload).decode()), 400, "invalid-token")
    assert service.confirm(good).status_code == 201


def test_a_managers_token_is_bound_to_the_address_and_to_the_last_sign_in(app: Flask) -> None:
    manager = {"id": uuid.UUID(int=1), "email": "Mary@example.org", "sign_in_id": uuid.UUID(int=2)}
    others = ({"id": uuid.UUID(int=3)}, {"email": "grace@example.org"}, {"sign_in_id": uuid.UUID(int=3)})
    states = [tokens.manager_state(SimpleNamespace(**manager | other)) for other in ({}, *others)]
    assert len(set(states)) == 4
    assert tokens.manager_state(SimpleNamespace(**manager | {"email": "mary@EXAMPLE.org"})) == states[0]
    parts = ("desk/sign-in", str(manager["id"]), "mary@example.org", str(manager["sign_in_id"]))
    assert states[0] == hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    with app.app_context():
        content = tokens.redeem(Purpose.DESK, tokens.issue_for_manager(SimpleNamespace(**manager)))
    assert content == {"account": str(manager["id"]), "state": states[0]}


def test_a_token_is_bound_to_every_part_of_the_state() -> None:
    account = {"id": uuid.uuid4(), "email": "ada@example.org", "closed_at": None, "credentials_id": uuid.uuid4()}
    others = [
        {"id": uuid.uuid4()},
        {"email": "bob@example.org"},
        {"closed_at": datetime.now(UTC)},
        {"credentials_id": uuid.uuid4()},
    ]
    states = [tokens.state(Purpose.ERASURE, SimpleNamespace(**account | other)) for other in ({}, *others)]
    states += [tokens.state(purpose, SimpleNamespace(**account)) for purpose in set(Purpose) - {Purpose.ERASURE}]
    assert len(set(states)) == len(states) == 5 + len(Purpose) - 1


# Lifetimes


NOW = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)


@pytest.mark.parametrize("purpose", LIFETIMES)
def test_a_token_is_valid_from_5_minutes_ahead_until_its_lifetime_ends(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch, purpose: Purpose
) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    token, second = real_token(shared_service.app, purpose), timedelta(seconds=1)
    oldest, youngest = LIFETIMES[purpose], -timedelta(minutes=5)
    for age in (youngest - second, youngest, oldest, oldest + second):
        monkeypatch.setattr(clock, "now", lambda age=age: NOW + age)
        with shared_service.app.app_context():
            if youngest <= age <= oldest:
                assert tokens.redeem(purpose, token) == CONTENT
            else:
                with pytest.raises(InvalidToken):
                    tokens.redeem(purpose, token)


@pytest.mark.parametrize("path", ["/v1/registrations/confirm", "/registration"])
def test_white_space_around_and_within_a_mailed_token_is_removed(service: Service, path: str) -> None:
    token = service.ask_to_register()
    body = {"token": f" \t{token[:70]}\r\n {token[70:]}\u00a0\n", "password": PASSWORD}
    response = service.http.post(path, **{"json" if path.startswith("/v1") else "data": body})
    assert response.status_code in {200, 201}
    assert len(service.rows("accounts")) == 1


def test_a_link_emailed_by_an_older_release_works_after_an_upgrade(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"account": NOBODY, "email": "zo\u00eb@example.org", "state": "s"}
    # The spaces keep secret scanners from reporting the value.
    token = (
        "eyJhY2NvdW50Ijoi NWExYzJmNWUtOWE5 Yi00Yzg3LThmMGUt M2Y2ZjJhNGYwYjEx IiwiZW1haWwiOiJ6 b8OrQGV4YW1wbGUu "
        "b3JnIiwic3RhdGUi OiJzIn0.aVc1pQ.T 6B2gicGNCU9tWSHK If10r27KJJhfOFmV zpg74Kgbvo "
    ).replace(" ", "")
    monkeypatch.setattr(clock, "now", lambda: NOW)
    with shared_service.app.app_context():
        assert tokens.redeem(Purpose.EMAIL_CHANGE, token) == content
        assert tokens.issue(Purpose.EMAIL_CHANGE, content) == token
    account = {"id": uuid.UUID(int=1), "email": "Ada@Example.org", "credentials_id": uuid.UUID(int=2)}
    states = [
        tokens.state(Purpose.ERASURE, SimpleNamespace(**account, closed_at=closed_at)) for closed_at in (None, NOW)
    ]
    open_account: Any = SimpleNamespace(**account, closed_at=None)
    with shared_service.app.app_context():
        mailed = tokens.issue_for(Purpose.ERASURE, open_account, email="e")
        assert tokens.redeem(Purpose.ERASURE, mailed) == {
            "account": str(uuid.UUID(int=1)),
            "state": states[0],
            "email": "e",
        }
    expected = ["9cb038b509d3aafb", "6c26edf6633216dc", "cb39dcbf76e21510", "8498e69fcccd79d5"]
    assert states == ["".join(expected[:2]), "".join(expected[2:])]
