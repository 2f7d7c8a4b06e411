"""A restored backup revives no account: those erased after it are erased again, once, without an email."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from apps import KEY, dispose
from peers import token_of, wait_for
from running import erase, error_of, invoke
from server_process import ServerProcess
from support import Person, Service, any_database, assert_problem

from backend.database import engine
from backend.desk import holds, operations
from backend.privacy import erasure

ADA, BOB = "ada@example.org", "bob@example.org"
ENTRY = {"account": "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11", "erased_at": "2026-01-01T00:00:00Z"}


class Backup:
    """A copy of the database, without any file outside it."""

    def __init__(self, service: Service, url: str, folder: Path) -> None:
        self._service, self._url = service, url
        self._name = url.partition("?")[0].rpartition("/")[2]
        self._file, self._copy = url.removeprefix("sqlite:///"), folder / "backup.sqlite3"

    def make(self) -> None:
        dispose(self._service.app)
        if self._url.startswith("postgresql"):
            self.forget()
            self._execute(f"CREATE DATABASE backup_of_{self._name} TEMPLATE {self._name}")
        else:
            with closing(sqlite3.connect(self._file)) as database, closing(sqlite3.connect(self._copy)) as copy:
                database.backup(copy)

    def restore(self) -> None:
        dispose(self._service.app)
        if self._url.startswith("postgresql"):
            self._execute(f"DROP DATABASE {self._name} WITH (FORCE)",
                          f"CREATE DATABASE {self._name} TEMPLATE backup_of_{self._name}")  # fmt: skip
        else:
            for suffix in ("-wal", "-shm"):
                Path(self._file + suffix).unlink(missing_ok=True)
            shutil.copy(self._copy, self._file)

    def forget(self) -> None:
        if self._url.startswith("postgresql"):
            self._execute(f"DROP DATABASE IF EXISTS backup_of_{self._name}")

    def _execute(self, *statements: str) -> None:
        with psycopg.connect(self._url.replace(self._name, "postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture
def backup(service: Service, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backup]:
    backup = Backup(service, database_url, tmp_path_factory.mktemp("backup"))
    yield backup
    backup.forget()


@pytest.fixture
def bob(service: Service) -> Person:
    """A person whose account is not erased."""
    return service.register(name="Bob", email=BOB)


def everything(service: Service) -> dict[str, list[str]]:
    """Return every row of every table, sorted."""
    return {name: sorted(map(repr, service.rows(name))) for name in engine.Base.metadata.tables}


def about(service: Service, email: str) -> dict[str, list[str]]:
    """Return every row about an account."""
    (account,) = [row for row in service.rows("accounts") if row["email"] == email]
    id_ = str(account["id"]).replace("-", "")
    return {name: [row for row in rows if id_ in row.replace("-", "") or email in row]
            for name, rows in everything(service).items()}  # fmt: skip


def addresses(service: Service) -> set[str]:
    return {row["email"] for row in service.rows("accounts")}


def replay(service: Service, *arguments: str) -> tuple[int, int]:
    """Replay the ledger, and return how many accounts it names and how many were erased again."""
    done = invoke(service.app, "data", "replay-erasures", "--yes", "--json", *arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert ("names no erasure; is it the right one?" in done.stderr) == (result["in_ledger"] == 0) == bool(done.stderr)
    return result["in_ledger"], result["erased_again"]


def holding(folder: Path) -> list[str]:
    """Return SQLite's files that contain bytes of the erased person."""
    contents = {path.name: path.read_bytes().lower() for path in folder.rglob("*") if path.is_file()}
    return [name for name, content in contents.items() if b"lovelace" in content or ADA.encode() in content]


def write(service: Service, person: Person) -> None:
    body = {"message": f"{person.name} was here."}
    assert service.http.post("/v1/feedback", json=body, headers=person.headers).status_code == 201


def test_promise_8_accounts_erased_after_the_backup_are_erased_again_and_no_others(
    service: Service, backup: Backup, ada: Person, bob: Person, tmp_path: Path
) -> None:
    for person in (ada, bob):
        write(service, person)
    # An email that waits in the backup is restored too, and must never be sent.
    service.http.post("/v1/password-resets", json={"email": ada.email})
    backup.make()
    assert replay(service) == (0, 0)
    service.deliver()
    erase(service)
    after_erasing = everything(service)
    assert replay(service) == (1, 0)
    assert everything(service) == after_erasing
    assert holding(tmp_path) == []
    backup.restore()
    assert service.sign_in().status_code == 201
    untouched = about(service, BOB)

    assert replay(service) == (1, 1)
    assert holding(tmp_path) == []
    after_replaying = everything(service)
    assert addresses(service) == {BOB}
    assert "Lovelace" not in str(after_replaying)
    assert about(service, BOB) == untouched
    assert replay(service) == (1, 0)
    assert everything(service) == after_replaying
    assert service.account(bob.headers).status_code == 200
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert service.deliver() == []

    service.register(name="Ada King", email=ADA)
    assert replay(service) == (1, 0)
    assert {row["name"] for row in service.rows("accounts")} == {"Bob", "Ada King"}


@pytest.mark.long
@any_database
@pytest.mark.usefixtures("ada")
def test_the_service_replays_by_itself_when_it_starts(
    service: Service, backup: Backup, bob: Person, database_url: str, tmp_path: Path
) -> None:
    backup.make()
    erase(service)
    backup.restore()
    emails = len(service.mail_server.messages)
    server = ServerProcess(tmp_path, database_url=database_url, mail_server=service.mail_server.host,
                           mail_port=service.mail_server.port, secret_keys=KEY)  # fmt: skip
    server.instance_path.mkdir()
    shutil.copy(tmp_path / "erasures.jsonl", server.instance_path)
    with server:
        assert "Erased 1 accounts again: the restored database had brought them back." in server.log
        assert addresses(service) == {bob.email}
        wait_for(lambda: not [path for path in tmp_path.glob("tiles.sqlite3*") if b"Lovelace" in path.read_bytes()])
        # The next email shows that no other one was sent before.
        service.http.post("/v1/password-resets", json={"email": bob.email})
        wait_for(lambda: service.mail_server.messages[emails:])
    assert [message["To"] for message in service.mail_server.messages[emails:]] == [bob.email]
    with server:
        assert server.log.count("had brought them back") == 1


@pytest.mark.parametrize("when", ["before the account", "after the account"])
def test_the_link_that_made_an_erased_account_makes_no_other_after_a_restore(
    service: Service, backup: Backup, when: str
) -> None:
    token = service.ask_to_register()
    if when == "before the account":
        backup.make()
    assert service.confirm(token).status_code == 201
    if when == "after the account":
        backup.make()
    erase(service)
    assert_problem(service.confirm(token), 400, "invalid-token")
    backup.restore()
    assert replay(service) == (1, when == "after the account")
    assert_problem(service.confirm(token), 400, "invalid-token")
    assert addresses(service) == set()


def test_a_registration_email_queued_in_the_backup_is_erased_with_its_account(service: Service, backup: Backup) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada Lovelace", "email": ADA})
    backup.make()
    assert service.confirm(token_of(service.mail())).status_code == 201
    erase(service)
    backup.restore()
    replay(service)
    assert "Lovelace" not in str(everything(service))
    assert service.deliver() == []


@pytest.mark.usefixtures("ada")
def test_a_legal_hold_in_the_backup_does_not_stop_erasing_again(service: Service, backup: Backup) -> None:
    with service.app.app_context():
        holds.place(ADA, basis="Order 4 of 2026", until=datetime(2099, 1, 1, tzinfo=UTC))
        backup.make()
        holds.release(ADA)
    erase(service)
    backup.restore()
    assert replay(service) == (1, 1)
    assert (service.rows("accounts"), service.rows("holds")) == ([], [])


@pytest.mark.usefixtures("ada")
def test_an_erasure_that_had_begun_when_the_backup_was_made_is_finished(
    service: Service, backup: Backup, move_clock: Callable[[timedelta], None]
) -> None:
    with service.app.app_context():
        operations.erase(ADA, at_once=True)
        with engine.transaction() as session:
            session.execute(engine.text("UPDATE accounts SET erasing_since = :now"), {"now": datetime.now(UTC)})
    backup.make()
    move_clock(timedelta(minutes=2))
    assert service.run(erasure.erase_due) == 1
    backup.restore()
    replay(service)
    service.run(erasure.erase_due)
    assert service.rows("accounts") == []


def test_hundreds_of_restored_accounts_are_erased_again(service: Service, backup: Backup, bob: Person) -> None:
    (account,) = service.rows("accounts")
    others = [account | {"id": f"{number:032x}", "email": f"{number}@example.net"} for number in range(1, 251)]
    values = ", ".join(f":{name}" for name in account)
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text(f"INSERT INTO accounts ({', '.join(account)}) VALUES ({values})"), others)
    backup.make()
    with service.app.app_context():
        with engine.transaction() as session:
            session.execute(engine.text("UPDATE accounts SET closed_at = created_at, erase_after = created_at "
                                        "WHERE email LIKE '%example.net'"))  # fmt: skip
        while erasure.erase_due():
            pass
    assert addresses(service) == {bob.email}
    backup.restore()
    assert replay(service) == (250, 250)
    assert addresses(service) == {bob.email}
    assert replay(service) == (250, 0)


# Ledgers


@pytest.mark.usefixtures("ada")
def test_the_ledger_of_another_machine_is_replayed_when_it_is_named_and_remembered(
    service: Service, backup: Backup, tmp_path: Path
) -> None:
    backup.make()
    erase(service)
    backup.restore()
    other = (tmp_path / "erasures.jsonl").rename(tmp_path / "other.jsonl")
    assert replay(service) == (0, 0)
    assert replay(service, "--ledger", str(other)) == (1, 1)
    assert addresses(service) == set()
    backup.restore()
    assert replay(service) == (1, 1)
    assert addresses(service) == set()


@any_database
def test_an_invalid_ledger_or_one_without_yes_erases_no_account(service: Service, ada: Person, tmp_path: Path) -> None:
    file = tmp_path / "given"
    file.write_text(json.dumps(ENTRY | {"account": str(service.rows("accounts")[0]["id"])}))
    without_yes = invoke(service.app, "data", "replay-erasures", "--ledger", str(file))
    assert without_yes.exit_code == 1
    assert "--yes" in without_yes.stderr
    file.unlink()
    replay_file = partial(error_of, service.app, "data", "replay-erasures", "--yes", "--ledger")
    assert f"{file}: there is no such file" in replay_file(str(file))
    assert "cannot be read as a ledger" in replay_file(str(tmp_path))
    for content, advice in {
        b"a,b\n1,2\n": "line 1 is no entry of a ledger",
        b"\x89PNG\r\n\xff": "cannot be read as a ledger",
        b'{"feedback": []}\n': "line 1 is no entry of a ledger",
        b"\n" + json.dumps(ENTRY | {"account": "nobody"}).encode(): "line 2 is no entry of a ledger",
        json.dumps(ENTRY | {"erased_at": "2099-01-01"}).encode(): "line 1 is no entry of a ledger",
        json.dumps(ENTRY | {"erased_at": 4}).encode(): "line 1 is no entry of a ledger",
    }.items():
        # A damaged last line without a line break was left by a crash.
        file.write_bytes(content + b"\n")
        assert replay_file(str(file)).startswith(f"Error: {file}: {advice}")
    assert addresses(service) == {ada.email}
