"""What OWASP ASVS 5.0 asks for and no other test shows; `docs/threats.md` has the whole table."""

import ast
import hashlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from argon2 import Type, extract_parameters
from argon2.low_level import hash_secret_raw
from conftest import make_settings
from flask import Flask
from itsdangerous import Signer, URLSafeTimedSerializer
from itsdangerous.encoding import base64_encode
from journeys import MakeService, MoveClock
from support import OTHER_PASSWORD, PASSWORD, Person, Service, any_database, assert_problem

from backend import logs
from backend.config import Settings
from backend.security import password_rules, tokens
from backend.security.hashing import Hasher
from backend.security.tokens import Purpose

BACKEND = Path(tokens.__file__).parents[1]
ROOT = BACKEND.parent
MODULES = {path.stem: ast.parse(path.read_text("utf-8")) for path in sorted(BACKEND.rglob("*.py"))}
THREATS = (ROOT / "docs" / "threats.md").read_text("utf-8")


# V6, authentication


@any_database
def test_a_new_service_has_no_account(service: Service) -> None:
    assert service.rows("accounts") == service.rows("sessions") == []
    for email in ("admin@example.org", "root@tiles.test", "tiles@accounts.tiles.test"):
        for password in ("admin", "root", "tiles", PASSWORD):
            assert_problem(service.sign_in(email, password), 401, "wrong-credentials")


@any_database
def test_a_session_comes_of_a_password_and_of_nothing_else(service: Service) -> None:
    document = service.http.get("/openapi.json").json
    schemas, opens = document["components"]["schemas"], {}
    for path, item in document["paths"].items():
        for operation in item.values():
            for answer in operation["responses"].values():
                if "AccountAndSession" in str(answer):
                    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                    opens[path] = set(schemas[body.rpartition("/")[2]]["required"])
    assert opens == {"/v1/sessions": {"email", "password"}, "/v1/registrations/confirm": {"token", "password"}}
    assert [name for name, tree in MODULES.items() if "sessions.begin" in ast.unparse(tree)] == [
        "registration",
        "sign_in",
    ]


@any_database
def test_a_password_stays_good_for_ten_years(service: Service, ada: Person, move_clock: MoveClock) -> None:
    move_clock(timedelta(days=3650))
    assert service.sign_in(ada.email, PASSWORD).status_code == 201


def test_more_than_3000_listed_passwords_are_as_long_as_the_policy_asks() -> None:
    listed = password_rules._common_passwords().splitlines()  # noqa: SLF001 - how many there are shows in no answer
    assert sum(len(word) >= Settings.model_fields["password_min_length"].default for word in listed) > 3000


# V9, self-contained tokens


def forged(app_keys: list[str], purpose: Purpose, algorithm: Callable[..., "hashlib._Hash"]) -> str:
    """Sign a token with the right key and the right salt, but by another algorithm."""
    signer_kwargs = {"key_derivation": "hmac", "digest_method": algorithm}
    serializer = URLSafeTimedSerializer(app_keys, salt=purpose.value, signer_kwargs=signer_kwargs)
    token = serializer.dumps(
        {"account": "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11", "name": "Eve", "email": "eve@example.org"}
    )
    assert isinstance(token, str)
    return token


@any_database
def test_a_token_signed_by_another_algorithm_is_refused(service: Service) -> None:
    key = "a key of the tests and of nobody else"
    assert service.confirm(forged([key], Purpose.REGISTRATION, hashlib.sha256)).status_code == 201
    for algorithm in (hashlib.sha1, hashlib.md5, hashlib.sha512, hashlib.sha3_256):
        assert_problem(service.confirm(forged([key], Purpose.REGISTRATION, algorithm)), 400, "invalid-token")
    payload, time, _ = forged([key], Purpose.REGISTRATION, hashlib.sha256).rsplit(".", 2)
    for signature in ("", "none", base64_encode(hmac.digest(b"", f"{payload}.{time}".encode(), "sha256")).decode()):
        assert_problem(service.confirm(f"{payload}.{time}.{signature}"), 400, "invalid-token")
    assert_problem(service.confirm(Signer(key).sign(payload).decode()), 400, "invalid-token")


@any_database
def test_a_token_of_the_future_is_refused(service: Service, ada: Person, move_clock: MoveClock) -> None:
    move_clock(timedelta(minutes=30))
    token = service.ask_for_reset(ada.email)
    move_clock(timedelta(minutes=-30))
    assert_problem(service.reset(token), 400, "invalid-token")
    move_clock(timedelta(minutes=30))
    assert service.reset(token).status_code == 204


# V11.4, hashing


def test_sha_256_is_the_only_hash_beside_argon2id() -> None:
    used = {
        f"{module}: {ast.unparse(node)}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hashlib"
    }
    assert used
    assert {name.rpartition(".")[2] for name in used} == {"sha256"}
    imported = {
        ast.unparse(node) for tree in MODULES.values() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert [line for line in imported if re.match(r"from (hashlib|hmac|crypt|zlib)\b", line)] == []


def test_argon2_as_it_was_built_here_hashes_as_its_authors_say() -> None:
    # From the reference implementation's own tests (test.c, Argon2id, version 0x13).
    raw = hash_secret_raw(b"password", b"somesalt", 2, 65536, 1, 32, Type.ID)
    assert raw.hex(" ", 4) == "09316115 d5cf24ed 5a15a31a 3ba326e5 cf32edc2 4702987c 02b6566f 61913cf7"


def test_a_password_costs_by_default_what_owasp_asks_for(app: Flask, tmp_path: Path) -> None:
    given = make_settings(tmp_path, f"sqlite:///{tmp_path / 'none.sqlite3'}")
    defaults = {
        name: Settings.model_fields[name].default for name in Settings.model_fields if name.startswith("argon2_")
    }
    with app.app_context():
        encoded = Hasher(given.model_copy(update=defaults)).hash(PASSWORD)
    found = extract_parameters(encoded)
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (found.salt_len, found.hash_len) == (16, 32)


def test_nothing_secret_comes_of_a_generator_that_can_be_predicted() -> None:
    used = {
        f"{module}.{ast.unparse(node)}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    }
    # The order of mails, how long whoever is refused under load waits for that: nobody gains by a guess.
    assert used == {"queue.random.shuffle", "front.random.uniform"}


# V16, logging


def test_each_attempt_and_its_refusal_leaves_a_line_that_names_nobody(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(rate_limits="sign-in/address+client=4/5 minutes")
    ada = service.register(name="Ada Lovelace", email="ada@example.org")
    caplog.clear()
    caplog.set_level(logging.INFO)
    service.sign_in(ada.email, PASSWORD)
    for _ in range(4):
        service.sign_in(ada.email, OTHER_PASSWORD)
    service.confirm("made-up")
    service.http.get("/v1/account", headers={"Authorization": "Bearer tiles_made-up"})
    passwords = {"current_password": OTHER_PASSWORD, "new_password": OTHER_PASSWORD}
    service.http.put("/v1/account/password", json=passwords, headers=ada.headers)
    service.http.patch("/v1/account", json={"id": 1}, headers=ada.headers)
    service.http.delete("/v1/sessions/5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11", headers=ada.headers)
    written = [record.getMessage() for record in caplog.records if record.name == "backend.web.problems"]
    assert [re.sub(r" [\d.]+ ms$", "", line) for line in written] == [
        "POST /v1/sessions 201",
        *["POST /v1/sessions 401"] * 3,
        "POST /v1/sessions 429",
        "POST /v1/registrations/confirm 400",
        "GET /v1/account 401",
        "PUT /v1/account/password 403",
        "PATCH /v1/account 422",
        "DELETE /v1/sessions/<uuid:id> 404",
    ]


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine's own time be another than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_logs_go_to_standard_error_and_nowhere_else_with_their_time_in_utc(
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    # What an earlier test left in the queue.
    logs.finish()
    capfd.readouterr()
    try:
        logs.configure()
        record = logging.LogRecord("backend.web.problems", logging.INFO, "", 0, "GET /v1/account\n%s", (200,), None)
        record.created, record.msecs = 1_767_225_600.25, 250.0
        root.handle(record)
        logs.finish()
        written = capfd.readouterr()
        expected = {"level": "INFO", "logger": "backend.web.problems", "message": "GET /v1/account\n200"}
        assert json.loads(written.err) == expected | {"time": "2026-01-01T00:00:00.250Z"}
        assert (written.err.count("\n"), written.out) == (1, "")
    finally:
        root.handlers[:] = before
    handlers = {name for tree in MODULES.values() for name in re.findall(r"\w*Handler\b", ast.unparse(tree))}
    assert {name for name in handlers if name[0].isupper()} <= {"QueueHandler"}


@pytest.fixture
def kept_stderr() -> Iterator[None]:
    """Give standard error back after a test that did something to it."""
    kept = os.dup(2)
    yield
    os.dup2(kept, 2)
    os.close(kept)


@pytest.mark.usefixtures("kept_stderr")
def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure()
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            os.dup2(full.fileno(), 2)
            for _ in range(2):
                logging.getLogger("backend.serving.server").error("a process has ended")
            logs.finish()
        os.close(2)
        logging.getLogger("backend.serving.server").error("another, to a file that is closed")
        logs.finish()
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_a_line_that_cannot_be_formatted_names_nobody_and_stops_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure()
        values = ("ada@example.org",)
        logging.getLogger("backend.web.problems").error("%d of %d", *values)
        logging.getLogger("backend.web.problems").error("the next")
        logs.finish()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    written = capfd.readouterr().err
    assert [json.loads(line)["message"] for line in written.splitlines()] == ["%d of %d", "the next"]
    assert "ada" not in written


def test_what_is_logged_is_what_the_page_says() -> None:
    (said,) = re.findall(r"^What is logged.*?(?=^#|\Z)", THREATS, re.MULTILINE | re.DOTALL)
    documented = set(re.findall(r"^\| `(\w+)`", said, re.MULTILINE))
    logging_ = {
        name for name, tree in MODULES.items() if re.search(r"\blog\.(info|warning|error)\(", ast.unparse(tree))
    }
    assert documented == logging_
