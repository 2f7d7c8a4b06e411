"""Logs name nobody, go to standard error with times in UTC, and stop nothing."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from journeys import MakeService
from support import OTHER_PASSWORD, PASSWORD

from backend import logs

BACKEND = Path(logs.__file__).parent
THREATS = (BACKEND.parent / "docs" / "threats.md").read_text("utf-8")


def test_each_attempt_and_its_refusal_is_logged_without_naming_anybody(
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
    messages = [record.getMessage() for record in caplog.records if record.name == "backend.web.problems"]
    assert [re.sub(r" [\d.]+ ms$", "", line) for line in messages] == [
        "POST /v1/sessions 201",
        *["POST /v1/sessions 401"] * 3,
        "POST /v1/sessions 429",
        "POST /v1/registrations/confirm 400",
        "GET /v1/account 401",
        "PUT /v1/account/password 403",
        "PATCH /v1/account 422",
        "DELETE /v1/sessions/<uuid:id> 404",
    ]


@contextmanager
def configured(capfd: pytest.CaptureFixture[str]) -> Iterator[logging.Logger]:
    """Configure the root logger as the service does; restore it and standard error afterwards."""
    root, stderr = logging.getLogger(), os.dup(2)
    handlers, level = root.handlers[:], root.level
    logs.finish()  # writes the lines that an earlier test left in the queue
    capfd.readouterr()
    logs.configure()
    yield root
    logs.finish()
    os.dup2(stderr, 2)
    os.close(stderr)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_logs_go_to_standard_error_and_nowhere_else_with_their_time_in_utc(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = logging.LogRecord("backend.web.problems", logging.INFO, "", 0, "GET /v1/account\n%s", (200,), None)
    record.created, record.msecs = 1_767_225_600.25, 250.0
    with configured(capfd) as root, monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        root.handle(record)
    time.tzset()
    output = capfd.readouterr()
    expected = {"level": "INFO", "logger": "backend.web.problems", "message": "GET /v1/account\n200"}
    assert json.loads(output.err) == expected | {"time": "2026-01-01T00:00:00.250Z"}
    assert (output.err.count("\n"), output.out) == (1, "")


def test_a_log_that_cannot_be_written_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with configured(capfd), Path("/dev/full").open("w", encoding="utf-8") as full:
        os.dup2(full.fileno(), 2)
        for _ in range(2):
            logging.getLogger("backend.serving.server").error("a process has ended")
        logs.finish()
        os.close(2)
        logging.getLogger("backend.serving.server").error("another, to a file that is closed")


def test_a_line_that_cannot_be_formatted_names_nobody_and_stops_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    values = ("ada@example.org",)
    with configured(capfd):
        logging.getLogger("backend.web.problems").error("%d of %d", *values)
        logging.getLogger("backend.web.problems").error("the next")
    errors = capfd.readouterr().err
    assert [json.loads(line)["message"] for line in errors.splitlines()] == ["%d of %d", "the next"]
    assert "ada" not in errors


def test_the_documented_loggers_are_those_of_the_code() -> None:
    (section,) = re.findall(r"^### What is logged.*?(?=^#|\Z)", THREATS, re.MULTILINE | re.DOTALL)
    documented = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    calls = re.compile(r"\blog\.(info|warning|error)\(")
    assert documented == {path.stem for path in BACKEND.rglob("*.py") if calls.search(path.read_text("utf-8"))}
