"""`tiles check` finds faults, changes nothing, prints no personal data, and ends in time."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from apps import KEY, dispose
from checking import Levels, probe
from flask import Flask
from peers import MailServer, free_port
from server_process import run_tiles
from support import Service, any_database
from tls_peer import TLS, server

from backend.commands import check
from backend.commands.check import PROBES, Finding

Make = Callable[..., Service]

# Valid settings for production; each test changes one.
SOUND = {
    "public_url": "https://accounts.example.org",
    "trusted_proxies": 1,
    "metrics_token": "a token of the tests",
    "data_manager_email": "privacy@example.org",
    "support_email": "help@example.org",
    "rate_limits": "",
    "argon2_memory_kib": 19456,
    "argon2_time_cost": 2,
}


def faults(app: Flask) -> Levels:
    """Run every probe, and return the code and the level of each fault."""
    findings = [finding for group in check.run(app) for finding in group]
    return {finding.code: finding.level for finding in findings if finding.level != "fine"}


def run_check(folder: Path, **settings: object) -> tuple[int, list[dict[str, str]]]:
    """Run `tiles check --json`; return its exit status and its findings."""
    done = run_tiles(folder, "check", "--json", **settings)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def sound(make_service: Make, tmp_path: Path, authority: trustme.CA, redis_url: str) -> Iterator[Service]:
    """An installation in which nothing is wrong, with a mail server over TLS."""
    for path in tmp_path.glob("tiles.sqlite3*"):
        path.chmod(0o600)
    with server(authority.issue_cert("127.0.0.1"), TLS) as peer:
        service = make_service(**SOUND, **TLS, mail_port=peer.port, redis_url=redis_url)
        service.mail_server = peer
        yield service


def test_a_sound_installation_has_no_findings_and_is_not_changed(
    sound: Service, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    assert faults(sound.app) == {}
    assert sound.mail_server.connections == 2
    assert sound.mail_server.messages == []
    sound.register(name="Ada Lovelace", email="ada@example.org")
    before = {table: sound.rows(table) for table in ("accounts", "mails", "audit", "alembic_version")}
    emails = len(sound.mail_server.messages)
    dispose(sound.app)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    settings = {**SOUND, **TLS, "mail_server": "127.0.0.1", "mail_port": sound.mail_server.port, "redis_url": redis_url}
    status, findings = run_check(tmp_path, database_url=database_url, secret_keys=KEY, **settings)
    wrong = [finding for finding in findings if finding["level"] != "fine"]
    assert (status, wrong) == (0, [])
    assert len(findings) == 1 + len(PROBES)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert {table: sound.rows(table) for table in before} == before
    assert len(sound.mail_server.messages) == emails
    assert "ada" not in json.dumps(findings).lower()


def test_the_output_names_each_fault_with_advice_and_creates_no_file(tmp_path: Path) -> None:
    done = run_tiles(tmp_path / "instance", "check", nonsense="1")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "error    mail-server: there is none: emails go to the folder mailbox/ and to nobody" in lines
    codes = {line.split()[1].rstrip(":") for line in lines if "→" not in line}
    assert {"files-none", "database-none", "public-url-local"} <= codes
    assert "TILES_NONSENSE is not a setting" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_invalid_settings_are_the_only_findings(tmp_path: Path) -> None:
    status, findings = run_check(tmp_path, mail_port="many", password_min_length=1)
    assert status == 1
    assert [(finding["code"], finding["level"]) for finding in findings] == [("settings", "error")] * 2
    assert all("TILES_" in finding["what"] for finding in findings)


# Settings


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("public-url", {"public_url": "http://127.0.0.1:8000"}, {"public-url-local": "error"}),
        ("public-url", {"public_url": "http://localhost"}, {"public-url-local": "error"}),
        ("public-url", {"public_url": "http://accounts.example.org"}, {"public-url-clear": "error"}),
        ("proxies", {"trusted_proxies": 0}, {"proxies": "warning"}),
        ("addresses", {"support_email": None}, {"support-email": "warning"}),
        ("addresses", {"data_manager_email": None}, {"data-manager-email": "warning"}),
        ("mail-server", {"mail_server": None}, {"mail-server": "error"}),
        ("limits", {"rate_limits": "off"}, {"limits-off": "error"}),
        ("passwords", {"argon2_memory_kib": 19455}, {"argon2-weak": "error"}),
        ("passwords", {"argon2_memory_kib": 12288, "argon2_time_cost": 3}, {}),
    ],
)
@any_database
def test_a_setting_unfit_for_production_is_found(
    make_service: Make, name: str, changes: dict[str, Any], expected: Levels
) -> None:
    assert probe(make_service(**SOUND | changes), name) == expected


# This machine


@any_database
def test_files_that_others_may_read_are_found(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret_key").touch(0o600)
    (tmp_path / "tiles.sqlite3").chmod(0o600)
    assert probe(service, "files") == {}
    for name, mode, level in (
        ("", 0o750, "warning"), ("", 0o755, "error"), ("secret_key", 0o640, "warning"),
        ("tiles.sqlite3", 0o604, "error"),
    ):  # fmt: skip
        before = (tmp_path / name).stat().st_mode
        (tmp_path / name).chmod(mode)
        assert probe(service, "files") == {"files-open": level}
        (tmp_path / name).chmod(before)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert probe(service, "files") == {"files-owner": "warning"}


def test_a_disk_that_is_nearly_full_is_found(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LEAST_FREE_BYTES", 2**60)
    assert probe(service, "disk") == {"disk": "error"}


# The mail server


def refuse(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, _given: object) -> AuthResult:
    return AuthResult(success=False, handled=False)


@any_database
@pytest.mark.usefixtures("authority")
def test_a_mail_server_that_takes_no_mail_is_found_with_the_reason(make_service: Make) -> None:
    def reason(**settings: object) -> str:
        with make_service(**settings).app.app_context():
            (finding,) = PROBES["mail-server"][0]()
        assert (finding.code, finding.level) == ("mail-server", "error")
        return finding.what

    assert reason(mail_port=free_port()) == "it does not answer (connection-refused)"
    assert reason(**TLS) == "it offers no STARTTLS, or no way to sign in (not-supported)"
    with server(trustme.CA().issue_cert("127.0.0.1"), TLS) as peer:
        assert reason(mail_port=peer.port, **TLS) == "its certificate is not trusted (certificate-20)"
    with MailServer(authenticator=refuse, auth_require_tls=False) as peer:
        signing_in = {"mail_port": peer.port, "mail_username": "tiles", "mail_password": "wrong"}
        assert reason(**signing_in) == "it does not let us in (smtp-535)"


@any_database
def test_a_silent_mail_server_is_reported_after_the_timeout(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        app = make_service(mail_port=silent.getsockname()[1]).app
        findings = {finding.code: finding for group in check.run(app) for finding in group}
        assert findings["mail-server"] == Finding(
            "mail-server", "error", "no answer within 0 s", "see that it is there, and not too busy"
        )


@any_database
def test_mails_in_clear_to_another_machine_are_found(make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "is_loopback", lambda _host: False)
    assert probe(make_service(), "mail-server") == {"mail-clear": "warning"}


# Redis


@any_database
def test_a_redis_that_does_not_answer_or_is_too_old_is_found(
    make_service: Make, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = make_service(rate_limits="", redis_url=f"redis://127.0.0.1:{free_port()}")
    assert probe(down, "limits") == {"redis": "error"}
    monkeypatch.setattr(check, "OLDEST_REDIS", 99)
    assert probe(make_service(rate_limits="", redis_url=redis_url), "limits") == {"redis-old": "error"}


def test_limits_that_several_processes_count_for_themselves_are_found(make_service: Make, database_url: str) -> None:
    expected = {} if database_url.startswith("sqlite") else {"redis-none": "warning"}
    assert probe(make_service(rate_limits=""), "limits") == expected


# The whole check


@any_database
def test_a_probe_that_breaks_is_an_error_and_names_nobody(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        raise ZeroDivisionError("ada@example.org")

    monkeypatch.setattr(check, "PROBES", {"broken": (broken, "")})
    assert list(check.run(service.app)) == [[Finding("broken", "error", "cannot be looked at (ZeroDivisionError)")]]
