"""`tiles serve`, the real process: started from nothing, stopped, killed, and with wrong settings."""

import asyncio
import json
import os
import random
import re
import secrets
import signal
import socket
import sqlite3
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from mailbox import Maildir
from pathlib import Path

import httpx2
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from journeys import at_once
from peers import MailServer, wait_for
from served_requests import register, send_through
from server_process import ExecutedServer, ServerProcess, run_tiles
from support import OTHER_PASSWORD, PASSWORD, empty_database

TERMINATED_SECONDS = 20


def residue(folder: Path, *words: str) -> list[str]:
    """Return which files of a folder contain which of the words."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [f"{word} in {path.name}" for path, content in files.items() for word in words if word.encode() in content]


class Slow(MailServer):
    """Takes some seconds for each email."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = threading.Event()
        super().__init__()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.begun.set()
        await asyncio.sleep(self.seconds)
        return await super().handle_DATA(server, session, envelope)


# Serving


def test_the_start_prints_the_url_and_where_emails_go_and_only_the_owner_can_read_its_files(
    server: ServerProcess,
) -> None:
    assert f"Serving TILES accounts at {server.url}" in server.log
    assert "No mail server is set (TILES_MAIL_SERVER)" in server.log
    assert str(server.instance_path / "mailbox") in server.log
    assert server.instance_path.stat().st_mode & 0o777 == 0o700
    assert (server.instance_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_files_are_for_their_owner_only_also_in_an_existing_folder(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    folder.mkdir(mode=0o755)
    assert run_tiles(folder, "db", "upgrade").returncode == 0
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077} == set()


def test_a_person_gets_from_the_form_to_a_new_password_with_links_from_the_terminal(server: ServerProcess) -> None:
    with httpx2.Client(base_url=server.url) as http:

        def token(page: str) -> str:
            link = wait_for(lambda: re.search(rf"^{server.url}/{page}#(\S+)$", server.log, re.MULTILINE))
            return link.group(1)

        register(server.url, "ada@example.org")
        proof = {"token": token("registration"), "password": PASSWORD}
        assert http.post("/v1/registrations/confirm", json=proof).status_code == 201
        signed_in = http.post("/v1/sessions", json={"email": "ada@example.org", "password": PASSWORD})
        headers = {"Authorization": f"Bearer {signed_in.json()['session']['token']}"}
        assert http.get("/v1/account", headers=headers).json()["name"] == "Ada Lovelace"
        assert http.post("/v1/password-resets", json={"email": "ada@example.org"}).status_code == 202
        proof = {"token": token("password-reset"), "password": OTHER_PASSWORD}
        assert http.post("/v1/password-resets/confirm", json=proof).status_code == 204
        assert http.get("/v1/account", headers=headers).status_code == 401
        signed_in = http.post("/v1/sessions", json={"email": "ada@example.org", "password": OTHER_PASSWORD})
        assert signed_in.status_code == 201
        mailbox = Maildir(server.instance_path / "mailbox", create=False)
        wait_for(lambda: len(mailbox) == 3)
        assert {message["To"] for message in mailbox} == {"ada@example.org"}


def test_concurrent_requests_get_their_own_responses(server: ServerProcess) -> None:
    emails = [f"person{number}@example.org" for number in range(8)]
    before = len(server.log)
    for email in emails:
        register(server.url, email)
    links = rf"^{server.url}/registration#(\S+)$"
    wait_for(lambda: len(re.findall(links, server.log[before:], re.MULTILINE)) == len(emails))
    for token in re.findall(links, server.log[before:], re.MULTILINE):
        body = {"token": token, "password": PASSWORD}
        assert httpx2.post(f"{server.url}/v1/registrations/confirm", json=body).status_code == 201

    def come_and_go(email: str) -> set[str]:
        with httpx2.Client(base_url=server.url) as http:
            emails_seen = set()
            for _ in range(20):
                signed_in = http.post("/v1/sessions", json={"email": email, "password": PASSWORD}).json()
                headers = {"Authorization": f"Bearer {signed_in['session']['token']}"}
                assert http.post("/v1/feedback", json={"message": email}, headers=headers).status_code == 201
                emails_seen |= {signed_in["account"]["email"], http.get("/v1/account", headers=headers).json()["email"]}
            return emails_seen

    with ThreadPoolExecutor(len(emails)) as pool:
        assert list(pool.map(come_and_go, emails)) == [{email} for email in emails]
    with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3")) as stored:
        joined = "feedback JOIN accounts ON accounts.id = account_id"
        authors = f"SELECT message, email, count(*) FROM {joined} GROUP BY message, email"
        assert sorted(stored.execute(authors)) == [(email, email, 20) for email in emails]


def test_a_worker_renders_emails_in_one_low_priority_thread_and_writes_in_others(
    server: ServerProcess,
) -> None:
    def policies_of(process: int) -> list[int]:
        """Return the scheduling policy of each thread, the main thread's first."""
        threads = sorted(int(path.name) for path in Path(f"/proc/{process}/task").iterdir())
        return [os.sched_getscheduler(thread) for thread in threads]

    def with_an_idle_thread() -> list[list[int]]:
        return [policies for policies in map(policies_of, server.processes()) if os.SCHED_IDLE in policies]

    # The first email starts the thread.
    register(server.url, "idle@example.org")
    idle = wait_for(with_an_idle_thread)
    assert [(policies[0], policies.count(os.SCHED_IDLE)) for policies in idle] == [(os.SCHED_OTHER, 1)]


# Stopping and killing


def test_a_terminated_service_ends_soon_with_the_mail_in_hand_sent_and_the_others_kept(tmp_path: Path) -> None:
    with Slow(1) as mail_server, ExecutedServer(tmp_path, **send_through(mail_server)) as server:
        for number in range(3):
            register(server.url, f"person{number}@example.org")
        assert mail_server.begun.wait(20)
        assert server.terminate(TERMINATED_SECONDS) == 0
        assert server.processes() == []
        queue = json.loads(run_tiles(server.instance_path, "mail", "status", "--json").stdout)
        assert queue["waiting"] + len(mail_server.messages) == 3
        assert queue["retrying"] == 0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["service manager", "Ctrl-C"])
def test_processes_that_get_the_signal_to_stop_together_finish_their_requests(
    tmp_path: Path, number: signal.Signals
) -> None:
    slow = {"argon2_memory_kib": 65536, "argon2_time_cost": 80}
    with ExecutedServer(tmp_path, **slow) as server, ThreadPoolExecutor(1) as pool:
        credentials = {"email": "ada@example.org", "password": PASSWORD}
        in_hand = pool.submit(httpx2.post, f"{server.url}/v1/sessions", json=credentials, timeout=20)
        wait_for(lambda: re.search("^tiles_hash_line [1-9]", httpx2.get(f"{server.url}/metrics").text, re.MULTILINE))
        assert not in_hand.done()
        # All processes are in the process group of the first.
        os.killpg(server.pid, number)
        begun = time.monotonic()
        assert in_hand.result().status_code == 401
        # An idle worker ends sooner.
        assert time.monotonic() - begun > 1
        assert server.wait(TERMINATED_SECONDS) == 0
        assert server.processes() == []


@pytest.mark.long
def test_a_service_that_was_killed_leaves_no_process_behind_and_can_be_started_again(tmp_path: Path) -> None:
    server = ExecutedServer(tmp_path)
    try:
        server.start()
        wait_for(lambda: len(server.processes()) > 1)
        for _ in range(2):
            server.kill()
            wait_for(lambda: not server.processes(), seconds=5)
            server.start()
            server.wait_until_ready()
    finally:
        server.kill_all()


@pytest.mark.long
def test_no_email_is_lost_and_no_byte_left_though_the_service_was_killed_under_load(tmp_path: Path) -> None:
    accepted = []

    def register_until_it_is_gone() -> None:
        with httpx2.Client(base_url=server.url) as http, suppress(httpx2.TransportError):
            while True:
                person = {"name": "Ada", "email": f"{secrets.token_hex(8)}@example.org"}
                if http.post("/v1/registrations", json=person).status_code == 202:
                    accepted.append(person["email"])

    def mailed() -> dict[str, set[str]]:
        """Return the message ids by recipient."""
        ids: dict[str, set[str]] = defaultdict(set)
        for message in list(mail_server.messages):
            ids[str(message["To"])].add(str(message["Message-ID"]))
        return ids

    with Slow(0.005) as mail_server, ExecutedServer(tmp_path, **send_through(mail_server)) as server:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(register_until_it_is_gone)
            time.sleep(random.uniform(1, 2))
            server.kill_all()
        assert not mailed().keys() >= set(accepted)
        server.start()
        # The claims of a killed worker expire after 45 seconds.
        wait_for(lambda: mailed().keys() >= set(accepted), seconds=60)
        assert {len(ids) for ids in mailed().values()} == {1}
        # An email that was handed over when its worker was killed stays claimed, and is sent once more.
        wait_for(lambda: not residue(server.instance_path, "@example.org"), seconds=60)
        assert "@example.org" not in server.log


# The start


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_limits", "nonsense"),
        ("database_url", "postgresql://u:marmalade@127.0.0.1:1/x"),
        ("database_url", "sqlite:////proc/tiles.sqlite3"),
    ],
    ids=["wrong", "nobody answers", "no place for a file"],
)
def test_a_fatal_setting_stops_the_start_with_one_line(tmp_path: Path, name: str, value: str) -> None:
    stopped = run_tiles(tmp_path, "serve", **{name: value})
    assert stopped.returncode != 0
    assert stopped.stdout == ""
    assert stopped.stderr.startswith(f"Error: TILES_{name.upper()}")
    assert "Traceback" not in stopped.stderr
    assert "marmalade" not in stopped.stderr


def test_a_port_in_use_by_another_program_or_by_the_service_stops_the_start_and_is_named(
    tmp_path: Path, server: ServerProcess
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        for port in (other.getsockname()[1], server.port):
            stopped = run_tiles(tmp_path, "serve", "--port", str(port))
            assert stopped.returncode != 0
            assert re.search(f"{port}.* in use", stopped.stderr)
            assert "Traceback" not in stopped.stderr
            assert "stack backtrace" not in stopped.stderr


@empty_database
def test_processes_that_start_together_on_an_empty_database_migrate_it_once(tmp_path: Path, database_url: str) -> None:
    def upgrade() -> str:
        done = run_tiles(tmp_path / "instance", "db", "upgrade", "--json", database_url=database_url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert sum('"from": null' in printed for printed in at_once(*[upgrade] * 3)) == 1
    assert [path.name for path in (tmp_path / "instance").iterdir() if "key" in path.name] == ["secret_key"]


def test_a_package_of_the_same_name_in_the_working_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backend").mkdir()
    for name in ("__init__", "server"):
        (tmp_path / "backend" / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with ExecutedServer(tmp_path) as server:
        assert "the wrong one" not in server.log
