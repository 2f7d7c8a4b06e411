"""Readiness: the response says whether the service can serve, and nothing else."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from conftest import needs
from peers import free_port, wait_for
from server_process import ServerProcess
from support import Person, Service, any_database, assert_problem

from backend.database import engine, scrub
from backend.database.models import Mail
from backend.mail import delivery
from backend.mail.refusals import ServerUnavailable


def test_a_ready_service_says_so_and_no_number(service: Service) -> None:
    assert service.http.get("/readyz").json == {"status": "ready"}


def test_emails_untried_for_an_hour_make_the_service_unready(
    service: Service, move_clock: Callable[[timedelta], None]
) -> None:
    service.http.post("/v1/password-resets", json={"email": "nobody@example.org"})
    move_clock(timedelta(minutes=59))
    assert service.http.get("/readyz").status_code == 200
    move_clock(timedelta(minutes=2))
    assert_problem(service.http.get("/readyz"), 503, "overloaded")
    service.deliver()
    assert service.http.get("/readyz").status_code == 200


def test_one_mailbox_that_refuses_does_not_make_it_unready(
    service: Service, move_clock: Callable[[timedelta], None]
) -> None:
    service.mail_server.refuse = "451 4.7.1 Greylisted"
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    service.deliver()
    move_clock(timedelta(hours=3))
    assert service.http.get("/readyz").status_code == 200


def test_during_an_outage_an_email_to_an_unknown_address_waits_like_any_other(
    make_service: Callable[..., Service], service: Service, ada: Person
) -> None:
    away = make_service(mail_port=free_port())
    for email in ("nobody@example.org", ada.email):
        away.http.post("/v1/password-resets", json={"email": email})
        with away.app.app_context(), pytest.raises(ServerUnavailable):
            delivery.deliver()
    assert {row["email"]: row["attempts"] for row in away.rows("mails")} == {ada.email: 0, "nobody@example.org": 0}
    assert [message["To"] for message in service.deliver()] == [ada.email]
    assert service.rows("mails") == []


@any_database
def test_a_disk_without_room_for_sqlites_log_makes_it_unready(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(engine, "SQLITE_LEAST_FREE_BYTES", free + 2**30)
    assert_problem(service.http.get("/readyz"), 503, "overloaded")
    monkeypatch.setattr(engine, "SQLITE_LEAST_FREE_BYTES", free - 2**30)
    assert service.http.get("/readyz").status_code == 200


@any_database
def test_a_long_read_stops_no_writer(service: Service, tmp_path: Path) -> None:
    reader = sqlite3.connect(tmp_path / "tiles.sqlite3", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM accounts").fetchone()
    service.http.post("/v1/password-resets", json={"email": "nobody@example.org"})
    with service.app.app_context():
        assert not scrub.scrub(Mail)
    assert service.http.post("/v1/password-resets", json={"email": "nobody@example.org"}).status_code == 202
    reader.execute("COMMIT")
    reader.close()
    with service.app.app_context():
        assert scrub.scrub(Mail)


# A file system that takes no writes


# Another user than root is root in a user namespace.
ROOT_IN, ROOT_OF = ([], []) if os.geteuid() == 0 else (["--map-root-user"], ["--user", "--preserve-credentials"])


class Mounted(ServerProcess):
    """A server with its own mounts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._command[:0] = ["unshare", "--mount", *ROOT_IN]

    def run(self, *command: str) -> bool:
        """Run a command among the server's mounts; return whether it succeeded."""
        entry = ["nsenter", "--mount", *ROOT_OF, "--target", str(self.pid), *command]
        return subprocess.run(entry, capture_output=True, env=self._environment, check=False).returncode == 0

    def mount_read_only(self, folder: str) -> None:
        """Mount a folder over itself, read-only; again if the server opened a file in it for writing meanwhile."""
        mount = 'mount --bind "$0" "$0" && { mount -o remount,bind,ro "$0" || { umount --lazy "$0"; false; }; }'
        wait_for(lambda: self.run("sh", "-c", mount, folder))


@pytest.mark.long
def test_a_read_only_file_system_makes_the_service_unready_until_it_is_writable(tmp_path: Path) -> None:
    if subprocess.run([needs("unshare"), "--mount", *ROOT_IN, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody have mounts of their own")
    server = Mounted(tmp_path)
    folder = str(server.instance_path)
    with server, closing(sqlite3.connect(server.instance_path / "tiles.sqlite3", isolation_level=None)) as writer:
        server.mount_read_only(folder)
        # The response does not wait for a concurrent writer.
        writer.execute("BEGIN IMMEDIATE")
        answer = httpx2.get(f"{server.url}/readyz")
        writer.execute("ROLLBACK")
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert "read-only" in answer.json()["detail"]
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        assert server.run("mount", "-o", "remount,bind,rw", folder)
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
    assert "Traceback" not in server.log


@any_database
def test_a_readiness_request_writes_nothing(service: Service, tmp_path: Path) -> None:
    assert service.http.get("/readyz").status_code == 200
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
    with service.statements() as statements:
        assert service.http.get("/readyz").status_code == 200
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())} == before
    assert {statement.partition(" ")[0] for statement in statements} == {"BEGIN", "PRAGMA", "SELECT"}
    assert "BEGIN IMMEDIATE" not in statements
