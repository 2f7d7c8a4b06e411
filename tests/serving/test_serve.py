"""`tiles serve`, the real process: started from nothing, stopped, killed, and told what makes no sense."""

import asyncio
import json
import os
import random
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from mailbox import Maildir
from pathlib import Path

import httpx2
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from support import (
    OTHER_PASSWORD,
    PASSWORD,
    TILES,
    MailServer,
    ServerProcess,
    empty_database,
    environment,
    run_tiles,
    token_of,
    wait_for,
)

from backend import create_app
from backend.config import SettingsError, load

TERMINATED_SECONDS = 20


def send_through(server: MailServer) -> dict[str, object]:
    return {"mail_server": server.host, "mail_port": server.port, "rate_limits": "off"}


def register(url: str, email: str, name: str = "Ada Lovelace") -> None:
    assert httpx2.post(f"{url}/v1/registrations", json={"name": name, "email": email}).status_code == 202


def residue(folder: Path, *words: str) -> list[str]:
    """Return which files of a folder hold which of the words, and where."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        found += [
            f"{word} at {content.index(word.encode())} of {path.name}" for word in words if word.encode() in content
        ]
    return found


class Slow(MailServer):
    """Takes its time over every mail."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = threading.Event()
        super().__init__()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.begun.set()
        await asyncio.sleep(self.seconds)
        return await super().handle_DATA(server, session, envelope)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A service that was started on an empty folder, without any mail server."""
    with ServerProcess(tmp_path_factory.mktemp("serve")) as found:
        yield found


def test_the_start_says_the_address_and_where_mails_go_without_a_mail_server(server: ServerProcess) -> None:
    assert f"TILES accounts at {server.url}" in server.log
    assert "No mail server is set (TILES_MAIL_SERVER)" in server.log
    assert str(server.instance_path / "mailbox") in server.log


def test_what_the_service_makes_is_for_its_owner_only(server: ServerProcess) -> None:
    assert server.instance_path.stat().st_mode & 0o777 == 0o700
    assert (server.instance_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_what_is_stored_is_for_its_owner_only_also_in_a_folder_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    folder.mkdir(mode=0o755)
    assert run_tiles(folder, "db", "upgrade").returncode == 0
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077} == set()


def test_a_person_gets_from_the_form_to_a_new_password_with_links_from_the_terminal(server: ServerProcess) -> None:
    with httpx2.Client(base_url=server.url) as http:

        def token(page: str) -> str:
            found = wait_for(lambda: re.search(rf"^{server.url}/{page}#(\S+)$", server.log, re.MULTILINE))
            return found.group(1)

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


def test_a_terminated_service_ends_soon_with_the_mail_in_hand_sent_and_the_others_kept(tmp_path: Path) -> None:
    with Slow(1) as mail_server, ServerProcess(tmp_path, **send_through(mail_server)) as server:
        for number in range(3):
            register(server.url, f"person{number}@example.org")
        assert mail_server.begun.wait(20)
        assert server.terminate(TERMINATED_SECONDS) == 0
        assert server.processes() == []
        left = json.loads(run_tiles(server.instance_path, "mail", "status", "--json").stdout)
        assert left["waiting"] + len(mail_server.messages) == 3
        assert left["retrying"] == 0


@pytest.mark.parametrize("moment", ["serving", "starting"])
def test_a_killed_service_leaves_no_process_behind_and_can_be_started_again(tmp_path: Path, moment: str) -> None:
    server = ServerProcess(tmp_path)
    try:
        server.start()
        if moment == "serving":
            server.wait_until_ready()
        else:
            wait_for(lambda: len(server.processes()) > 1)
        server.kill()
        wait_for(lambda: not server.processes(), seconds=5)
        server.start()
        server.wait_until_ready()
    finally:
        server.kill_all()


def test_two_workers_serve_side_by_side_and_a_dead_one_is_replaced(tmp_path: Path, mail_server: MailServer) -> None:
    with ServerProcess(tmp_path, "--workers", "2", **send_through(mail_server)) as server:
        # What started them, the worker, and two processes for each server: one may be ready before the other.
        whole = 2 + 2 * 2
        wait_for(lambda: len(server.processes()) == whole)
        addresses = [f"person{number}@example.org" for number in range(40)]
        for address in addresses:
            register(server.url, address)
        wait_for(lambda: len(mail_server.messages) >= 40)
        before = set(server.processes())
        os.kill(max(before), signal.SIGKILL)
        # Whoever was being answered by the dead one has lost his connection. Its other half ends too.
        wait_for(lambda: len(before & set(server.processes())) == whole - 2)
        register(server.url, "late@example.org")
        wait_for(lambda: len(mail_server.messages) >= 41)
        wait_for(lambda: len(server.processes()) == whole)
        server.wait_until_ready()
    assert sorted(message["To"] for message in mail_server.messages) == sorted([*addresses, "late@example.org"])


class Siege:
    """A service with its mail server, and four clients that register one address after the other until it is gone."""

    def __init__(self, stack: ExitStack, folder: Path, **settings: object) -> None:
        folder.mkdir()
        self.mail_server = stack.enter_context(Slow(0.005))
        self.server = stack.enter_context(ServerProcess(folder, **settings, **send_through(self.mail_server)))
        self.accepted: list[str] = []

    def _register(self) -> None:
        with httpx2.Client(base_url=self.server.url) as http:
            while True:
                address = f"{secrets.token_hex(8)}@example.org"
                try:
                    answer = http.post("/v1/registrations", json={"name": address, "email": address})
                except httpx2.TransportError:
                    return
                if answer.status_code == 202:
                    self.accepted.append(address)

    def kill_under_load(self) -> None:
        clients = [threading.Thread(target=self._register) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(random.uniform(1, 2))
        self.server.kill_all()
        for client in clients:
            client.join()

    def mailed(self) -> dict[str, set[str]]:
        """Return to whom mails came, and under which ids."""
        found: dict[str, set[str]] = defaultdict(set)
        for message in list(self.mail_server.messages):
            found[str(message["To"])].add(str(message["Message-ID"]))
        return found

    def has_mailed_all(self) -> bool:
        return self.mailed().keys() >= set(self.accepted)

    def has_forgotten_all(self) -> bool:
        return not residue(self.server.instance_path, "@example.org")


def test_whoever_was_answered_202_is_mailed_though_the_service_was_killed_under_load(
    tmp_path: Path, empty_postgresql_url: str
) -> None:
    with ExitStack() as stack:
        sieges = [
            Siege(stack, tmp_path / "sqlite"),
            Siege(stack, tmp_path / "postgresql", database_url=empty_postgresql_url),
        ]
        for siege in sieges:
            siege.kill_under_load()
            assert not siege.has_mailed_all()
        for siege in sieges:
            siege.server.start()
        for siege in sieges:
            # What its worker had claimed when it was killed is free again 45 seconds later.
            wait_for(siege.has_mailed_all, seconds=60)
            assert {len(ids) for ids in siege.mailed().values()} == {1}
            # A mail that was handed over when its worker was killed stays claimed for a while, and goes out once more.
            wait_for(siege.has_forgotten_all, seconds=60)
            assert "@example.org" not in siege.server.log


def test_who_is_answered_at_the_same_moment_gets_their_own_answer(tmp_path: Path, mail_server: MailServer) -> None:
    emails = [f"person{number}@example.org" for number in range(8)]
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        for email in emails:
            register(server.url, email)
        wait_for(lambda: len(mail_server.messages) == len(emails))
        for message in mail_server.messages:
            body = {"token": token_of(message), "password": PASSWORD}
            assert httpx2.post(f"{server.url}/v1/registrations/confirm", json=body).status_code == 201

        def come_and_go(email: str) -> set[str]:
            with httpx2.Client(base_url=server.url) as http:
                seen = set()
                for _ in range(20):
                    signed_in = http.post("/v1/sessions", json={"email": email, "password": PASSWORD}).json()
                    headers = {"Authorization": f"Bearer {signed_in['session']['token']}"}
                    assert http.post("/v1/feedback", json={"message": email}, headers=headers).status_code == 201
                    seen |= {signed_in["account"]["email"], http.get("/v1/account", headers=headers).json()["email"]}
                return seen

        with ThreadPoolExecutor(len(emails)) as pool:
            assert list(pool.map(come_and_go, emails)) == [{email} for email in emails]
        with closing(sqlite3.connect(server.instance_path / "tiles.sqlite3")) as stored:
            joined = "feedback JOIN accounts ON accounts.id = account_id"
            whose = f"SELECT message, email, count(*) FROM {joined} GROUP BY message, email"
            assert sorted(stored.execute(whose)) == [(email, email, 20) for email in emails]


def policies_of(process: int) -> list[int]:
    """Return when each thread of a process is given a processor, its first thread's first."""
    threads = sorted(int(path.name) for path in Path(f"/proc/{process}/task").iterdir())
    return [os.sched_getscheduler(thread) for thread in threads]


def test_a_worker_makes_mails_in_a_thread_of_low_priority_and_writes_in_threads_that_are_not(
    tmp_path: Path, mail_server: MailServer
) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        register(server.url, "ada@example.org")
        wait_for(lambda: mail_server.messages)
        giving_way = [found for found in map(policies_of, server.processes()) if os.SCHED_IDLE in found]
    assert [(found[0], found.count(os.SCHED_IDLE)) for found in giving_way] == [(os.SCHED_OTHER, 1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["service manager", "Ctrl-C"])
def test_all_processes_that_are_told_to_stop_at_once_finish_what_they_have_in_hand(
    tmp_path: Path, number: signal.Signals
) -> None:
    slow = {"argon2_memory_kib": 65536, "argon2_time_cost": 80}
    with ServerProcess(tmp_path, **slow) as server, ThreadPoolExecutor(1) as pool:
        credentials = {"email": "ada@example.org", "password": PASSWORD}
        in_hand = pool.submit(httpx2.post, f"{server.url}/v1/sessions", json=credentials, timeout=20)
        time.sleep(0.3)
        assert not in_hand.done()
        # Each runs in the session, and so in the process group, of the one that was started.
        os.killpg(server.pid, number)
        begun = time.monotonic()
        assert in_hand.result().status_code == 401
        # Longer than a worker that has nothing to do takes to end.
        assert time.monotonic() - begun > 1
        assert server.wait(TERMINATED_SECONDS) == 0
        assert server.processes() == []


def test_while_another_process_writes_everything_but_writing_goes_on(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, rate_limits="off") as server:
        other = sqlite3.connect(server.instance_path / "tiles.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(register, server.url, f"person{number}@example.org") for number in range(8)]
            begun = time.monotonic()
            for _ in range(20):
                assert httpx2.get(f"{server.url}/v1/account", headers={"Authorization": "Bearer x"}).status_code == 401
                assert httpx2.get(f"{server.url}/healthz").status_code == 200
            assert time.monotonic() - begun < 5
            assert not any(each.done() for each in waiting)
            other.execute("ROLLBACK")
            other.close()
            for each in waiting:
                each.result()


def test_no_byte_of_a_registration_is_left_once_its_mail_was_handed_over(
    tmp_path: Path, mail_server: MailServer
) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        register(server.url, "marmalade@example.org", name="Paddington Brown")
        wait_for(lambda: mail_server.messages)
        wait_for(lambda: not residue(server.instance_path, "Paddington", "marmalade"), seconds=10)
        assert "Paddington" not in server.log
        assert "marmalade" not in server.log


def test_no_byte_of_many_interleaved_registrations_is_left(tmp_path: Path, mail_server: MailServer) -> None:
    words = [secrets.token_hex(8) for _ in range(400)]
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        mail_server.refuse = "451 4.3.0 Try again later"

        def register_some(words: list[str]) -> None:
            with httpx2.Client(base_url=server.url) as http:
                for name, address in zip(words[::2], words[1::2], strict=True):
                    person = {"name": name + "x" * random.randrange(150), "email": f"{address}@example.org"}
                    assert http.post("/v1/registrations", json=person).status_code == 202

        clients = [threading.Thread(target=register_some, args=(words[part::4],)) for part in range(4)]
        for client in clients:
            client.start()
        mail_server.refuse = None
        for client in clients:
            client.join()
        run_tiles(server.instance_path, "mail", "retry")
        wait_for(lambda: len(mail_server.messages) == 200)
        wait_for(lambda: not residue(server.instance_path, *words), seconds=10)


WRONG: list[tuple[dict[str, object], str]] = [
    ({"mail_port": "abc"}, "TILES_MAIL_PORT: .*integer"),
    ({"password_min_length": 3}, "TILES_PASSWORD_MIN_LENGTH: .*greater than or equal to 8"),
    ({"public_url": "foo"}, "TILES_PUBLIC_URL: write .*https://"),
    ({"database_url": "mysql://x/y"}, "TILES_DATABASE_URL: write .*postgresql://"),
    ({"database_url": "sqlite:///file:tiles.db?uri=true"}, "TILES_DATABASE_URL: write .*sqlite:///"),
    ({"database_url": "sqlite:///:memory:"}, "TILES_DATABASE_URL: write .*sqlite:///"),
    ({"database_url": "postgresql://u:marmalade@127.0.0.1:port/x"}, "TILES_DATABASE_URL: write .*postgresql://"),
    ({"secret_keys": "marmalade"}, "TILES_SECRET_KEYS: write .*32"),
    ({"rate_limits": "nonsense"}, "TILES_RATE_LIMITS: name one of request/client"),
    ({"rate_limits": "sign-in/client=lots"}, "TILES_RATE_LIMITS: write .*10/5 minutes"),
    ({"mail_use_tls": 1, "mail_use_ssl": 1}, "TILES_MAIL_USE_TLS, TILES_MAIL_USE_SSL: set one"),
    ({"redis_url": "http://x"}, "TILES_REDIS_URL: write .*redis://"),
    ({"redis_url": "redis://127.0.0.1:port/0"}, "TILES_REDIS_URL: write .*redis://"),
    ({"argon2_memory_kib": 8, "argon2_parallelism": 4}, "TILES_ARGON2_MEMORY_KIB"),
    ({"support_email": "nobody"}, "TILES_SUPPORT_EMAIL: write an email address"),
]


@pytest.mark.parametrize(("settings", "advice"), WRONG, ids=["+".join(settings) for settings, _ in WRONG])
def test_a_setting_that_makes_no_sense_is_named_with_what_to_write(
    tmp_path: Path, settings: dict[str, object], advice: str
) -> None:
    with pytest.raises(SettingsError, match=advice) as refused:
        create_app(load(environment(tmp_path, **settings)))
    assert "marmalade" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mail_port", "abc"),
        ("rate_limits", "nonsense"),
        ("database_url", "postgresql://u:marmalade@127.0.0.1:1/x"),
        ("database_url", "sqlite:////proc/tiles.sqlite3"),
    ],
    ids=["wrong", "wrong within", "nobody answers", "no place for a file"],
)
def test_a_setting_with_which_nothing_works_stops_the_start_in_a_line(tmp_path: Path, name: str, value: str) -> None:
    stopped = run_tiles(tmp_path, "serve", **{name: value})
    assert stopped.returncode != 0
    assert stopped.stdout == ""
    assert stopped.stderr.startswith(f"Error: TILES_{name.upper()}")
    assert "Traceback" not in stopped.stderr
    assert "marmalade" not in stopped.stderr


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"public_url = ", "config.toml: cannot be read as TOML; write lines such as"),
        (b'support_email = "\xe9"', "config.toml: cannot be read as TOML"),
        (b'colour = "red"', "TILES_COLOUR: not a setting"),
        (b'publc_url = "https://x.example"', "did you mean TILES_PUBLIC_URL"),
        (b'mail_port = "abc"', "TILES_MAIL_PORT: .*integer"),
    ],
    ids=["broken", "not UTF-8", "unknown", "misspelt", "wrong value"],
)
def test_a_configuration_file_that_makes_no_sense_is_named_with_what_to_write(
    tmp_path: Path, content: bytes, advice: str
) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=advice):
        load(environment(tmp_path))


def test_a_setting_comes_from_the_environment_else_from_the_file(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, public_url="", support_email="environment@example.org")
    server.instance_path.mkdir()
    (server.instance_path / "config.toml").write_text(
        'public_url = "https://file.example.org"\nsupport_email = "file@example.org"\n'
    )
    with server:
        security = httpx2.get(f"{server.url}/.well-known/security.txt").text
    assert "Canonical: https://file.example.org/" in security
    assert "Contact: mailto:environment@example.org" in security


@pytest.mark.parametrize("line_break", ["\n", "\r\n"], ids=["unix", "windows"])
def test_a_byte_order_mark_before_the_settings_does_no_harm(tmp_path: Path, line_break: str) -> None:
    lines = ["\ufeffsupport_email = 'hilfe@example.org'", "trusted_proxies = 2", ""]
    (tmp_path / "config.toml").write_bytes(line_break.join(lines).encode())
    taken = load(environment(tmp_path))
    assert (taken.support_email, taken.trusted_proxies) == ("hilfe@example.org", 2)


def assert_port_is_named(folder: Path, port: int) -> None:
    second = ServerProcess(folder, port=port)
    try:
        second.start()
        assert second.wait(15) != 0
        assert re.search(f"{port}.* in use", second.log)
        assert "Traceback" not in second.log
        assert "stack backtrace" not in second.log
    finally:
        second.kill_all()


def test_a_port_on_which_another_program_listens_stops_the_start_and_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert_port_is_named(tmp_path, other.getsockname()[1])


def test_a_port_on_which_the_service_runs_already_stops_the_start_and_is_named(
    tmp_path: Path, server: ServerProcess
) -> None:
    assert_port_is_named(tmp_path, server.port)


@empty_database
def test_processes_that_start_together_on_an_empty_database_migrate_it_once(tmp_path: Path, database_url: str) -> None:
    together = [
        subprocess.Popen(
            [TILES, "db", "upgrade", "--json"],
            env=environment(tmp_path / "instance", database_url=database_url),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=30)[0] for process in together]
    assert [process.returncode for process in together] == [0, 0, 0]
    assert sum('"from": null' in text for text in told) == 1
    assert [path.name for path in (tmp_path / "instance").iterdir() if "key" in path.name] == ["secret_key"]


def test_a_package_of_the_same_name_in_the_working_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backend").mkdir()
    for name in ("__init__", "server"):
        (tmp_path / "backend" / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with ServerProcess(tmp_path) as server:
        assert "the wrong one" not in server.log
