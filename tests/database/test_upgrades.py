"""Upgrades: every migration keeps what is stored, up and down, and nobody has to stop while it runs."""

import io
import json
import re
import subprocess
import sys
import tarfile
import threading
import tomllib
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import support
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from conftest import KEY, dispose, make_app, make_settings
from flask import Flask
from sqlalchemy import Column, Connection, MetaData, Table, select, text
from support import (
    PASSWORD,
    MailServer,
    ServerProcess,
    Service,
    assert_problem,
    bearer,
    empty_database,
    run_tiles,
    token_of,
    wait_for,
)

from backend.database import engine, schema
from backend.errors import Impossible

ROOT = Path(__file__).parents[2]
ROWS = 7
# The release of this schema is the first that calls itself ready on a later one.
TAKES_LATER_SCHEMAS = "0005"
Rows = dict[str, list[dict[str, Any]]]


def alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


REVISIONS = [script.revision for script in reversed(list(ScriptDirectory.from_config(alembic()).walk_revisions()))]


def test_versions_are_numbers_that_count_up_one_after_the_other() -> None:
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


# What is stored


def migrate(app: Flask, change: Callable[[Config, str], object], revision: str) -> None:
    """Run Alembic as the service does, on a connection that it is handed."""
    config = alembic()
    with app.app_context(), engine.db.engine.begin() as connection:
        config.attributes["connection"] = connection
        change(config, revision)


def tables_of(connection: Connection) -> dict[str, Table]:
    """Return the tables that the database has now, what others refer to first."""
    found = MetaData()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*expression-based index")
        found.reflect(connection)
    return {table.name: table for table in found.sorted_tables if table.name != "alembic_version"}


def stored(app: Flask) -> Rows:
    """Return every row of every table, as it is."""
    with app.app_context(), engine.db.engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for name, table in tables_of(connection).items()
        }


def value_of(column: Column[Any], number: int, parents: Rows) -> object:
    """Return what a column may hold."""
    for key in column.foreign_keys:
        return parents[key.column.table.name][number][key.column.name]
    if column.name == "taken_back_at":
        # An account that was taken back loses its hash on purpose, which test_email_change_thief shows.
        return None
    if column.name == "password_hash":
        return f"$argon2id$v=19$m={number + 8},t=1,p=1$" + "s" * 22 + "$" + "d" * 43
    made = uuid.uuid4()
    values = {str: made.hex[:20], uuid.UUID: made, bytes: made.bytes, bool: True, int: number,
              datetime: datetime.now(UTC), date: date(2026, 1, 1), object: {"number": number}}  # fmt: skip
    return values[column.type.python_type]


def fill(app: Flask) -> None:
    """Put rows into every table, with something in every column."""
    rows: Rows = {}
    with app.app_context(), engine.db.engine.begin() as connection:
        for name, table in tables_of(connection).items():
            rows[name] = [{c.name: value_of(c, number, rows) for c in table.columns} for number in range(ROWS)]
            connection.execute(table.insert(), rows[name])


def assert_kept(before: Rows, after: Rows) -> None:
    """Check that every row is there, and unchanged in the columns that there were and still are."""
    for name in before.keys() & after.keys():
        columns = before[name][0].keys() & after[name][0].keys()
        kept = [{column: row[column] for column in columns} for row in after[name]]
        assert all({column: row[column] for column in columns} in kept for row in before[name]), name


@empty_database
def test_every_migration_keeps_every_row_up_and_down(app: Flask) -> None:
    with app.app_context():
        engine.db.engine.dispose()
    for revision in REVISIONS:
        before = stored(app)
        migrate(app, command.upgrade, revision)
        assert_kept(before, stored(app))
        fill(app)
    for revision in reversed(["base", *REVISIONS[:-1]]):
        before = stored(app)
        assert all(len(rows) >= ROWS for rows in before.values())
        migrate(app, command.downgrade, revision)
        assert_kept(before, after := stored(app))
        assert after.keys() == before.keys() or after.keys() < before.keys()
    assert stored(app) == {}


@empty_database
def test_the_costs_of_hashes_that_were_there_are_noted(app: Flask) -> None:
    migrate(app, command.upgrade, "0003")
    fill(app)
    migrate(app, command.upgrade, "0004")
    assert {row["cost"] for row in stored(app)["password_costs"]} == {f"m={n + 8},t=1,p=1" for n in range(ROWS)}


# While others use it


@pytest.fixture
def behind(empty_postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """A service on PostgreSQL whose schema is some versions behind; migrations wait for little."""
    monkeypatch.setattr(schema, "MIGRATION_LOCK_TIMEOUT", "100ms")
    app = make_app(make_settings(tmp_path, empty_postgresql_url))
    migrate(app, command.upgrade, "0002")
    fill(app)
    yield app
    dispose(app)


def upgraded(app: Flask) -> tuple[str | None, str | None]:
    with app.app_context():
        return schema.upgrade()


def test_a_migration_that_waits_for_a_long_transaction_holds_up_nobody(
    behind: Flask, empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema, "MIGRATION_PAUSES", [0.05] * 400)
    reader, long = (psycopg.connect(empty_postgresql_url) for _ in range(2))
    with ThreadPoolExecutor() as pool, reader, long:
        reader.execute("SET lock_timeout = '5s'")
        reader.commit()
        long.execute("SELECT count(*) FROM accounts")
        upgrading = pool.submit(upgraded, behind)
        while caplog.text.count("a table is in use") < 5:
            assert reader.execute("SELECT count(*) FROM accounts").fetchone() == (ROWS,)
            reader.rollback()
        long.rollback()
        assert upgrading.result(20) == ("0002", REVISIONS[-1])


def test_a_migration_gives_up_when_a_transaction_never_ends_and_has_changed_nothing(
    behind: Flask, empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATION_PAUSES", [0.05])
    before = stored(behind)
    with ThreadPoolExecutor() as pool, psycopg.connect(empty_postgresql_url) as long:
        long.execute("SELECT count(*) FROM accounts")
        with pytest.raises(Impossible, match="pg_stat_activity"):
            pool.submit(upgraded, behind).result(20)
    assert stored(behind) == before
    assert upgraded(behind) == ("0002", REVISIONS[-1])


def test_whoever_comes_while_another_migrates_waits_as_long_as_that_takes(
    behind: Flask, empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATION_PAUSES", [])
    monkeypatch.setattr(
        engine, "POSTGRESQL_BEGIN", "BEGIN; SET LOCAL lock_timeout = '50ms'; SET LOCAL statement_timeout = '50ms'"
    )
    with ThreadPoolExecutor() as pool, psycopg.connect(empty_postgresql_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [schema.POSTGRESQL_MIGRATION_LOCK])
        upgrading = pool.submit(upgraded, behind)
        with pytest.raises(TimeoutError):
            upgrading.result(0.5)
        other.rollback()
        assert upgrading.result(20) == ("0002", REVISIONS[-1])


# A release beside the next


def of_the_future(service: Service) -> None:
    """Make the schema that of a later release: a column, a table and a number more."""
    with service.app.app_context(), engine.transaction() as session:
        session.execute(text("ALTER TABLE accounts ADD COLUMN colour VARCHAR(20)"))
        session.execute(text("CREATE TABLE colours (name VARCHAR(20) PRIMARY KEY)"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))


def test_this_release_serves_on_the_schema_of_a_later_one(service: Service) -> None:
    of_the_future(service)
    assert service.http.get("/readyz").status_code == 200
    ada = service.register()
    assert service.account(ada.headers).status_code == 200
    assert upgraded(service.app) == ("9999", "9999")


def test_this_release_starts_on_the_schema_of_a_later_one(service: Service, tmp_path: Path, database_url: str) -> None:
    of_the_future(service)
    with ServerProcess(tmp_path, database_url=database_url) as server:
        assert server.terminate() == 0


def test_on_the_schema_of_an_older_release_it_is_not_ready(service: Service) -> None:
    with service.app.app_context(), engine.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :older"), {"older": REVISIONS[-2]})
    assert_problem(service.http.get("/readyz"), 503, "overloaded")


# The release before, really


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it was before the newest schema version came."""
    newest = re.compile(rf"/versions/{REVISIONS[-1]}_", re.ASCII)
    for commit in git("rev-list", "--first-parent", "HEAD").decode().split():
        if not newest.search(git("ls-tree", "-r", "--name-only", commit, "backend").decode()):
            break
    tree = git("archive", commit, "backend", "pyproject.toml")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        archive.extractall(folder, filter="data")
    # The installed `tiles` starts this release: the one before may begin in another module.
    script = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["tiles"]
    module, _, function = script.partition(":")
    tiles = folder / "tiles"
    tiles.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n", "utf-8")
    tiles.chmod(0o755)
    return folder


def git(*arguments: str) -> bytes:
    """Run git, and return what it shows; an archive of one release has no release before."""
    done = subprocess.run(["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", *arguments],
                          capture_output=True, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"this test runs the release before: it needs a clone with its history ({done.stderr!r})")
    return done.stdout


def run_tiles_of(tree: Path | None, folder: Path, *arguments: str, **settings: object) -> dict[str, Any]:
    """Run a command of a tree's code, or of this one's, and return what it shows."""
    with code_of(tree):
        done = run_tiles(folder, *arguments, "--json", **settings)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def code_of(tree: Path | None) -> Iterator[None]:
    """Let what is started meanwhile be a tree's code."""
    with pytest.MonkeyPatch.context() as patch:
        if tree:
            patch.setenv("PYTHONPATH", str(tree))
            patch.setattr(support, "TILES", tree / "tiles")
        yield


class Load(threading.Thread):
    """Somebody signed in who uses a server without a pause; notes each answer that is not the right one."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self.url, self.headers = url, bearer(token)
        self.gone, self.answered, self.wrong, self.registered = threading.Event(), 0, [], []

    def run(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=30) as http:
            while not self.gone.is_set():
                address = f"{uuid.uuid4().hex}@example.org"
                self._note(202, http.post("/v1/registrations", json={"name": "Eve", "email": address}))
                self.registered.append(address)
                self._note(200, http.get("/v1/account", headers=self.headers))
                self._note(201, http.post("/v1/feedback", json={"message": address}, headers=self.headers))
                self._note(201, http.post("/v1/sessions", json={"email": "ada@example.org", "password": PASSWORD}))

    def _note(self, right: int, answer: httpx2.Response) -> None:
        self.answered += 1
        if answer.status_code != right:
            self.wrong.append(f"{answer.request.url}: {answer.status_code} {answer.text}")


def signed_up(url: str, mail_server: MailServer) -> str:
    """Register somebody at a server, and return the token of the session."""
    assert httpx2.post(f"{url}/v1/registrations", json={"name": "Ada", "email": "ada@example.org"}).status_code == 202
    wait_for(lambda: mail_server.messages)
    body = {"token": token_of(mail_server.messages[0]), "password": PASSWORD}
    token: str = httpx2.post(f"{url}/v1/registrations/confirm", json=body).json()["session"]["token"]
    return token


def used(load: Load, times: int = 40) -> None:
    """Wait until a server has answered so many requests more."""
    enough = load.answered + times
    wait_for(lambda: load.answered >= enough or not load.is_alive(), 40)
    assert load.is_alive(), load.wrong


@empty_database
def test_the_release_before_goes_on_serving_while_the_next_schema_and_the_next_release_come(
    release_before: Path, tmp_path: Path, database_url: str, mail_server: MailServer
) -> None:
    settings = {"database_url": database_url, "mail_server": mail_server.host, "mail_port": mail_server.port,
                "rate_limits": "off", "secret_keys": KEY}  # fmt: skip
    made = run_tiles_of(release_before, tmp_path / "instance", "db", "upgrade", **settings)
    before = made["to"]
    assert (made["from"], before < REVISIONS[-1]) == (None, True)
    (tmp_path / "new").mkdir()
    with code_of(release_before):
        old = ServerProcess(tmp_path, **settings)
    new = ServerProcess(tmp_path / "new", **settings)
    with old, ExitStack() as stack:
        token = signed_up(old.url, mail_server)
        loads = [Load(old.url, token), Load(new.url, token)]
        stack.callback(lambda: [load.gone.set() or load.join() for load in loads if load.ident])
        loads[0].start()
        used(loads[0])
        upgraded = run_tiles_of(None, tmp_path / "instance", "db", "upgrade", **settings)
        assert upgraded == {"from": before, "to": REVISIONS[-1]}
        used(loads[0])
        assert httpx2.get(f"{old.url}/readyz").status_code == (200 if before >= TAKES_LATER_SCHEMAS else 503)
        with new:
            loads[1].start()
            for load in loads:
                used(load)
                load.gone.set()
                load.join()
            assert [load.wrong for load in loads] == [[], []]
            wanted = {address for load in loads for address in load.registered}
            wait_for(lambda: wanted <= {str(message["To"]) for message in list(mail_server.messages)}, 40)
            assert new.terminate() == 0
        assert old.terminate() == 0
