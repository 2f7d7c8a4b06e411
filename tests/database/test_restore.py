"""A restored backup brings nobody back: what was erased after it was made is erased again, once, without a word."""

import json
import re
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from conftest import KEY, dispose
from flask.cli import ScriptInfo
from support import (
    TILES,
    Person,
    ServerProcess,
    Service,
    any_database,
    assert_problem,
    environment,
    free_port,
    run_tiles,
    token_of,
    wait_for,
)

from backend.commands.serve import tiles
from backend.database import engine
from backend.desk import operations
from backend.privacy import erasure

MoveClock = Callable[[timedelta], None]


class Backup:
    """A copy of the whole database, as an operator has it; nothing outside the database is in it."""

    def __init__(self, service: Service, url: str, folder: Path) -> None:
        self._service, self._url, self._file = service, url, folder / "backup.sqlite3"
        self._name = url.partition("?")[0].rpartition("/")[2]

    def make(self) -> None:
        dispose(self._service.app)
        if self._url.startswith("postgresql"):
            self._execute(f"DROP DATABASE IF EXISTS backup_of_{self._name}",
                          f"CREATE DATABASE backup_of_{self._name} TEMPLATE {self._name}")  # fmt: skip
            return
        with sqlite3.connect(self._name_of_file()) as database, sqlite3.connect(self._file) as copy:
            database.backup(copy)
        database.close()
        copy.close()

    def restore(self) -> None:
        dispose(self._service.app)
        if self._url.startswith("postgresql"):
            self._execute(f"DROP DATABASE {self._name} WITH (FORCE)",
                          f"CREATE DATABASE {self._name} TEMPLATE backup_of_{self._name}")  # fmt: skip
            return
        for suffix in ("-wal", "-shm"):
            Path(self._name_of_file() + suffix).unlink(missing_ok=True)
        shutil.copy(self._file, self._name_of_file())

    def forget(self) -> None:
        if self._url.startswith("postgresql"):
            self._execute(f"DROP DATABASE IF EXISTS backup_of_{self._name}")
        self._file.unlink(missing_ok=True)

    def _name_of_file(self) -> str:
        return self._url.removeprefix("sqlite:///")

    def _execute(self, *statements: str) -> None:
        with psycopg.connect(self._url.replace(self._name, "postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture
def backup(service: Service, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backup]:
    """Make a backup, and restore it later."""
    found = Backup(service, database_url, tmp_path_factory.mktemp("backup"))
    yield found
    found.forget()


def everything(service: Service) -> dict[str, list[str]]:
    """Return every row of every table, in an order of its own."""
    return {name: sorted(map(repr, service.rows(name))) for name in engine.Base.metadata.tables}


def about(service: Service, email: str) -> dict[str, list[str]]:
    """Return every row that is about somebody."""
    (account,) = [row for row in service.rows("accounts") if row["email"] == email]
    id_ = str(account["id"]).replace("-", "")
    return {name: [row for row in rows if id_ in row.replace("-", "") or email in row]
            for name, rows in everything(service).items()}  # fmt: skip


def erase(service: Service, *emails: str) -> None:
    """Erase people, and let them be told."""
    with service.app.app_context():
        for email in emails:
            operations.erase(email, at_once=True)
        assert erasure.erase_due() == len(emails)
    assert {message["To"] for message in service.deliver()} == set(emails)


def addresses(service: Service) -> set[str]:
    return {row["email"] for row in service.rows("accounts")}


def run(service: Service, *arguments: str, status: int = 0) -> Result:
    """Run a command of `tiles`."""
    done = CliRunner().invoke(tiles, list(arguments), obj=ScriptInfo(create_app=lambda: service.app))
    assert done.exit_code == status, (done.output, done.exception)
    return done


def replay(service: Service, *arguments: str) -> dict[str, int]:
    """Run `tiles data replay-erasures`, and return what it says."""
    told: dict[str, int] = json.loads(run(service, "data", "replay-erasures", "--json", "--yes", *arguments).stdout)
    return told


@pytest.fixture
def bob(service: Service) -> Person:
    """Somebody who stays."""
    return service.register(name="Bob", email="bob@example.org")


def write(service: Service, person: Person) -> None:
    sent = service.http.post("/v1/feedback", json={"message": f"{person.name} was here."}, headers=person.headers)
    assert sent.status_code == 201


def test_promise_8_whoever_was_erased_after_the_backup_is_erased_again_and_nobody_else(
    service: Service, backup: Backup, ada: Person, bob: Person
) -> None:
    for person in (ada, bob):
        write(service, person)
    # Also what waits in the queue is restored, and is never sent.
    service.http.post("/v1/password-resets", json={"email": ada.email})
    backup.make()
    service.deliver()
    erase(service, ada.email)
    backup.restore()
    assert service.sign_in().status_code == 201
    untouched = about(service, bob.email)

    assert replay(service) == {"in_ledger": 1, "erased_again": 1}
    assert addresses(service) == {bob.email}
    assert "Lovelace" not in str(everything(service))
    assert about(service, bob.email) == untouched
    assert service.account(bob.headers).status_code == 200
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert service.deliver() == []


def test_replaying_twice_changes_nothing(service: Service, backup: Backup, ada: Person) -> None:
    backup.make()
    erase(service, ada.email)
    backup.restore()
    assert replay(service)["erased_again"] == 1
    after = everything(service)
    assert replay(service) == {"in_ledger": 1, "erased_again": 0}
    assert everything(service) == after


def test_replaying_without_a_restore_changes_nothing(service: Service, ada: Person, bob: Person) -> None:
    assert replay(service) == {"in_ledger": 0, "erased_again": 0}
    erase(service, ada.email)
    after = everything(service)
    assert replay(service) == {"in_ledger": 1, "erased_again": 0}
    assert everything(service) == after
    assert addresses(service) == {bob.email}


def test_the_service_replays_by_itself_when_it_starts(
    service: Service, backup: Backup, ada: Person, database_url: str, tmp_path: Path
) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    backup.make()
    erase(service, ada.email)
    backup.restore()
    sent = len(service.mail_server.messages)
    server = ServerProcess(tmp_path, database_url=database_url, mail_server=service.mail_server.host,
                           mail_port=service.mail_server.port, secret_keys=KEY)  # fmt: skip
    server.instance_path.mkdir()
    shutil.copy(tmp_path / "erasures.jsonl", server.instance_path)
    with server:
        assert "1 erased accounts had come back with a restored database, and were erased again." in server.log
        assert addresses(service) == {bob.email}
        if database_url.startswith("sqlite"):
            wait_for(lambda: not [path for path in tmp_path.glob("tiles.sqlite3*") if b"Lovelace" in path.read_bytes()])
        # Whoever can reset a password has a mail server that works, and nobody else was mailed.
        service.http.post("/v1/password-resets", json={"email": bob.email})
        wait_for(lambda: service.mail_server.messages[sent:])
    assert [message["To"] for message in service.mail_server.messages[sent:]] == [bob.email]
    with server:
        assert server.log.count("had come back") == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_byte_is_left_of_whoever_was_erased_again(
    service: Service, backup: Backup, ada: Person, tmp_path: Path
) -> None:
    write(service, ada)
    backup.make()
    erase(service, ada.email)
    backup.restore()

    def holding() -> list[str]:
        words = (b"lovelace", b"ada@example.org")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return [path.name for path in files if any(word in path.read_bytes().lower() for word in words)]

    assert holding() == ["tiles.sqlite3"]
    replay(service)
    assert holding() == []


# Links and mails of before


def test_the_link_that_made_an_erased_account_makes_no_other_after_a_restore(
    service: Service, backup: Backup, ada: Person
) -> None:
    backup.make()
    erase(service, ada.email)
    assert_problem(service.confirm(ada.token), 400, "invalid-token")
    backup.restore()
    replay(service)
    assert_problem(service.confirm(ada.token), 400, "invalid-token")
    assert addresses(service) == set()


def test_the_link_makes_none_also_when_the_backup_is_older_than_the_account(service: Service, backup: Backup) -> None:
    token = service.ask_to_register()
    backup.make()
    assert service.confirm(token).status_code == 201
    erase(service, "ada@example.org")
    backup.restore()
    assert replay(service) == {"in_ledger": 1, "erased_again": 0}
    assert_problem(service.confirm(token), 400, "invalid-token")
    assert addresses(service) == set()


def test_a_registration_that_waited_in_the_backup_is_forgotten_with_the_account_that_came_of_it(
    service: Service, backup: Backup
) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada Lovelace", "email": "ada@example.org"})
    backup.make()
    assert service.confirm(token_of(service.mail())).status_code == 201
    erase(service, "ada@example.org")
    backup.restore()
    replay(service)
    assert "Lovelace" not in str(everything(service))
    assert service.deliver() == []


def test_whoever_registers_anew_after_a_restore_gets_an_account_that_stays(
    service: Service, backup: Backup, ada: Person
) -> None:
    backup.make()
    erase(service, ada.email)
    backup.restore()
    replay(service)
    service.register(name="Ada King", email=ada.email)
    assert replay(service) == {"in_ledger": 1, "erased_again": 0}
    assert [row["name"] for row in service.rows("accounts")] == ["Ada King"]


# What the backup says of the account


def test_a_legal_hold_that_the_backup_knows_was_over_when_the_account_was_erased(
    service: Service, backup: Backup, ada: Person
) -> None:
    with service.app.app_context():
        operations.hold(ada.email, basis="Order 4 of 2026", until=datetime(2099, 1, 1, tzinfo=UTC))
        backup.make()
        operations.release(ada.email)
    erase(service, ada.email)
    backup.restore()
    assert replay(service) == {"in_ledger": 1, "erased_again": 1}
    assert (service.rows("accounts"), service.rows("holds")) == ([], [])


def test_an_erasure_that_had_begun_when_the_backup_was_made_is_finished(
    service: Service, backup: Backup, ada: Person, move_clock: MoveClock
) -> None:
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
        with engine.transaction() as session:
            session.execute(engine.text("UPDATE accounts SET erasing_since = :now"), {"now": datetime.now(UTC)})
    backup.make()
    move_clock(timedelta(minutes=2))
    with service.app.app_context():
        assert erasure.erase_due() == 1
    backup.restore()
    replay(service)
    with service.app.app_context():
        erasure.erase_due()
    assert service.rows("accounts") == []


def test_hundreds_come_back_and_go_again(service: Service, backup: Backup, bob: Person) -> None:
    with service.app.app_context(), engine.transaction() as session:
        (account,) = service.rows("accounts")
        others = [account | {"id": f"{number:032x}", "email": f"{number}@example.net"} for number in range(1, 251)]
        for other in others:
            columns = ", ".join(other)
            values = ", ".join(f":{name}" for name in other)
            session.execute(engine.text(f"INSERT INTO accounts ({columns}) VALUES ({values})"), other)
    backup.make()
    with service.app.app_context():
        with engine.transaction() as session:
            session.execute(engine.text("UPDATE accounts SET closed_at = created_at, erase_after = created_at "
                                    "WHERE email LIKE '%example.net'"))  # fmt: skip
        while erasure.erase_due():
            pass
    assert addresses(service) == {bob.email}
    backup.restore()
    assert replay(service) == {"in_ledger": 250, "erased_again": 250}
    assert addresses(service) == {bob.email}
    assert replay(service) == {"in_ledger": 250, "erased_again": 0}


# Ledgers


@pytest.fixture
def other_ledger(service: Service, backup: Backup, ada: Person, tmp_path: Path) -> Path:
    """The ledger of another machine, on which somebody was erased who is back."""
    backup.make()
    erase(service, ada.email)
    backup.restore()
    return (tmp_path / "erasures.jsonl").rename(tmp_path / "other.jsonl")


def test_the_ledger_of_another_machine_is_replayed_when_it_is_named(service: Service, other_ledger: Path) -> None:
    assert replay(service) == {"in_ledger": 0, "erased_again": 0}
    assert replay(service, "--ledger", str(other_ledger)) == {"in_ledger": 1, "erased_again": 1}
    assert addresses(service) == set()


def test_what_another_machine_erased_stays_erased_also_after_the_next_restore(
    service: Service, backup: Backup, other_ledger: Path
) -> None:
    replay(service, "--ledger", str(other_ledger))
    backup.restore()
    assert replay(service) == {"in_ledger": 1, "erased_again": 1}
    assert addresses(service) == set()


def test_a_last_line_that_a_crash_cut_off_harms_no_other(service: Service, other_ledger: Path) -> None:
    (line,) = other_ledger.read_text("utf-8").strip().splitlines()
    for length in (1, len(line) // 2, len(line) - 1):
        other_ledger.write_text(f"\n{line}\n\n{line[:length]}", "utf-8")
        assert replay(service, "--ledger", str(other_ledger))["in_ledger"] == 1
    assert addresses(service) == set()


@any_database
def test_what_is_written_after_a_line_that_was_cut_off_counts(service: Service, ada: Person, tmp_path: Path) -> None:
    (tmp_path / "erasures.jsonl").write_text('{"account": "5a1c2f5e-9a9b')
    erase(service, ada.email)
    assert replay(service)["in_ledger"] == 1


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "there is no such file"),
        (b"a,b\n1,2\n", "line 1 is no entry of a ledger"),
        (b"\x89PNG\r\n\xff", "cannot be read as a ledger"),
        (b'{"feedback": []}\n', "line 1 is no entry of a ledger"),
        (b'\n{"account": "nobody", "erased_at": "2026-01-01T00:00:00Z"}\n', "line 2 is no entry of a ledger"),
        (
            b'{"account": "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11", "erased_at": "2099-01-01"}\n',
            "line 1 is no entry of a",
        ),
        (b'{"account": "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11", "erased_at": 4}\n', "line 1 is no entry of a ledger"),
    ],
    ids=["missing", "a table", "a picture", "another document", "a damaged line", "a day without time", "a number"],
)
@any_database
def test_what_is_no_ledger_is_said_in_a_line_and_nobody_is_erased(
    service: Service, ada: Person, tmp_path: Path, content: bytes | None, advice: str
) -> None:
    file = tmp_path / "given"
    if content is not None:
        file.write_bytes(content)
    done = run(service, "data", "replay-erasures", "--yes", "--ledger", str(file), status=1)
    assert advice in done.stderr
    assert done.stderr.startswith(f"Error: {file}: ")
    assert len(done.stderr.splitlines()) == 1
    assert addresses(service) == {ada.email}


@any_database
def test_a_folder_is_no_ledger(service: Service, tmp_path: Path) -> None:
    done = run(service, "data", "replay-erasures", "--yes", "--ledger", str(tmp_path), status=1)
    assert "cannot be read as a ledger" in done.stderr


@any_database
def test_another_ledger_is_replayed_with_somebodys_word_only(service: Service, ada: Person, tmp_path: Path) -> None:
    (account,) = service.rows("accounts")
    file = tmp_path / "given"
    file.write_text(json.dumps({"account": str(account["id"]), "erased_at": "2026-01-01T00:00:00Z"}))
    assert "--yes" in run(service, "data", "replay-erasures", "--ledger", str(file), status=1).stderr
    assert addresses(service) == {ada.email}


@any_database
def test_the_service_does_not_start_with_what_is_no_ledger(service: Service, database_url: str, tmp_path: Path) -> None:
    dispose(service.app)
    (tmp_path / "erasures.jsonl").write_text("nonsense\n")
    stopped = run_tiles(tmp_path, "serve", "--port", str(free_port()), database_url=database_url)
    assert stopped.returncode == 2
    assert stopped.stderr.startswith(f"Error: {tmp_path / 'erasures.jsonl'}: line 1 is no entry of a ledger")


# A ledger that cannot be written


def due(service: Service, database_url: str, tmp_path: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `tiles data erase --due` as a process of its own."""
    dispose(service.app)
    return subprocess.run(
        [TILES, "data", "erase", "--due", "--yes"],
        env=environment(tmp_path, database_url=database_url, secret_keys=KEY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def assert_not_erased(service: Service, ada: Person, failed: subprocess.CompletedProcess[str]) -> None:
    assert addresses(service) == {ada.email}
    assert [row["act"] for row in service.rows("audit")].count("erased") == 0
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    assert re.search("ledger", failed.stderr)


def test_nobody_is_erased_whom_a_full_disk_keeps_out_of_the_ledger(
    service: Service, ada: Person, database_url: str, tmp_path: Path
) -> None:
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
    # So long that nothing else which is written comes near the size at which no file may grow further.
    full = 4_000_000
    (tmp_path / "erasures.jsonl").write_text("\n" * full)
    limits = (full + 20, full + 20)
    failed = due(service, database_url, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    assert_not_erased(service, ada, failed)


@any_database
def test_nobody_is_erased_while_the_ledger_cannot_be_written(
    service: Service, ada: Person, database_url: str, tmp_path: Path
) -> None:
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
    (tmp_path / "erasures.jsonl").mkdir()
    assert_not_erased(service, ada, due(service, database_url, tmp_path))
