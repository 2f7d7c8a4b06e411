"""One fault, from the first request to the last email: real processes under load, and the outcome."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from chaos.load import Load
from chaos.manager import MailWork, Manager
from chaos.peers import Between, Postbox, Postgres
from peers import RedisServer, wait_for
from server_process import ServerProcess
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from backend.config import Settings

OWN_CLOCK = Path(__file__).with_name("own_clock")
SETTLE_SECONDS = 150
POLL_SECONDS = 0.2
# A response within this time of a fault may belong to a request from before.
NOTICE_SECONDS = 1.0
SECRET_KEY = "a key of chaos and of nothing else"


@dataclass(frozen=True)
class Fault:
    """A fault of a scene. It lasts as long as the context `does`."""

    name: str
    does: Callable[["Scene"], AbstractContextManager[object]]
    lasts: float = 0.0
    databases: tuple[str, ...] = ("sqlite", "postgresql")
    ready: bool | None = None
    """Whether `/readyz` must say ready during the fault; None if the server is gone, or if both are true."""
    needs: AbstractSet[str] = frozenset()
    workers: int = 1
    settings: dict[str, object] = field(default_factory=dict)
    waits: bool = False
    """Whether emails stay claimed by a killed worker or wait for a retry; a quick run moves the clock."""


@dataclass
class Outcome:
    """The outcome of a fault."""

    fault: str
    database: str
    acknowledged: int = 0
    lost: int = 0
    given_up: int = 0
    sent_twice: int = 0
    accepted_twice: int = 0
    untrue_readyz: int = 0
    seconds_to_answer: float | None = None
    """Time until it was ready and accepted a request; None if it never did."""
    seconds_to_mail: float | None = None
    """Time until every email that had been acknowledged by then arrived."""
    answers: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return self.seconds_to_answer is not None and not (self.lost or self.accepted_twice)


class Watch(threading.Thread):
    """Polls `/readyz`, and keeps each status with its time."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self.stop = url, threading.Event()
        self.polls: list[tuple[float, float, int | None]] = []

    def run(self) -> None:
        while not self.stop.wait(POLL_SECONDS):
            begun, status = time.monotonic(), None
            with suppress(httpx2.TransportError):
                status = httpx2.get(f"{self._url}/readyz", timeout=3).status_code
            self.polls.append((begun, time.monotonic(), status))

    def untrue(self, since: float, until: float, *, ready: bool) -> int:
        """Count the wrong statuses within a time."""
        statuses = [status for begun, ended, status in self.polls if begun > since + NOTICE_SECONDS and ended < until]
        return sum((status == 200) is not ready for status in statuses)

    def ready_since(self, moment: float) -> float | None:
        """Return the time of the first 200 after a moment."""
        return next((ended for begun, ended, status in self.polls if begun >= moment and status == 200), None)


class Scene:
    """The service with its peers and its clients."""

    def __init__(self, stack: ExitStack, fault: Fault, database: str, *, restart_seconds: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tiles-chaos-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.instance = self.folder / "instance"
        self.instance.mkdir(mode=0o700)
        if "small disk" in fault.needs:
            self.has_small_disk = stack.enter_context(small_disk(self.instance))
        self.postbox = stack.enter_context(Postbox())
        self.mail_way = stack.enter_context(Between(self.postbox.port))
        self.ready = fault.ready
        self.postgres: list[Postgres] = []
        self.redis: RedisServer | None = None
        settings = self._settings(stack, fault, database)
        self.database_url = Settings(database_url=str(settings["database_url"])).database
        self.server = ServerProcess(self.folder, "--workers", str(fault.workers), **settings)
        self._ahead = self.folder / "seconds ahead"
        self.move_clock(0)
        path = os.pathsep.join(filter(None, [str(OWN_CLOCK), os.environ.get("PYTHONPATH")]))
        self.server._environment |= {"PYTHONPATH": path, "CHAOS_SECONDS_AHEAD": str(self._ahead)}  # noqa: SLF001
        self.watch: Watch | None = None
        self.manager = Manager(restart_seconds)
        stack.callback(self._end)
        stack.enter_context(self.server)
        self.manager.runs = [self.server]
        if "mail work" in fault.needs:
            sender = MailWork(self.server._environment)  # noqa: SLF001
            self.manager.runs.append(sender)
            sender.wait_until_ready()
        self.manager.start()
        self.watch, self.load = Watch(self.server.url), Load(self.server.url, self.postbox)
        self.watch.start()

    def _settings(self, stack: ExitStack, fault: Fault, database: str) -> dict[str, object]:
        settings: dict[str, object] = {
            "database_url": f"sqlite:///{self.instance / 'tiles.sqlite3'}",
            "mail_server": "127.0.0.1", "mail_port": self.mail_way.port,
            "rate_limits": "off", "secret_keys": SECRET_KEY, **fault.settings,
        }  # fmt: skip
        if database == "postgresql":
            self.postgres = [stack.enter_context(Postgres())]
            hosts = [self.postgres[0].host]
            if "standby" in fault.needs:
                self.postgres.append(stack.enter_context(Postgres(self.postgres[0])))
                hosts.append(self.postgres[1].host)
            if "way" in fault.needs:
                self.way = stack.enter_context(Between(self.postgres[0].port))
                hosts = [f"127.0.0.1:{self.way.port}"]
            settings["database_url"] = f"postgresql://postgres@{','.join(hosts)}/tiles"
        if "redis" in fault.needs:
            program = shutil.which("redis-server")
            assert program, "install redis-server (apt-get install redis-server) for this fault"
            self.redis = stack.enter_context(RedisServer(program, self.folder))
            settings["redis_url"] = self.redis.url
        return settings

    def _end(self) -> None:
        self.manager.stop.set()
        if self.manager.is_alive():
            self.manager.join()
        if self.watch and self.watch.is_alive():
            self.watch.stop.set()
            self.watch.join()
        for run in self.manager.runs:
            run.kill_all()

    def move_clock(self, seconds: float) -> None:
        """Set the clock of the service's processes ahead by some seconds."""
        draft = self._ahead.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self._ahead)

    def rows(self, query: str) -> list[str]:
        """Return the first column of a query's result."""
        engine = create_engine(self.database_url, poolclass=NullPool)
        with engine.connect() as connection:
            return [row[0] for row in connection.execute(text(query))]

    def given_up(self) -> set[str]:
        """Return the recipients of abandoned emails, which the operator sees and can retry."""
        return set(
            self.rows(
                "SELECT coalesce(mails.email, accounts.email) FROM mails "
                "LEFT JOIN accounts ON accounts.id = mails.account_id WHERE abandoned_at IS NOT NULL"
            )
        )

    def unsent(self) -> list[tuple[str, str]]:
        """Return the owed emails that did not arrive and were not abandoned."""
        given_up = self.given_up()
        return [(purpose, address) for purpose, address in self.load.unsent() if address not in given_up]

    def everything_is_mailed(self) -> bool:
        return not self.unsent() and not self.rows("SELECT id FROM mails WHERE abandoned_at IS NULL")


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk on a folder; yield False if this user may not."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", folder]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def play(fault: Fault, database: str, *, quick: bool = False) -> Outcome:
    """Cause a fault under load, and return its outcome."""
    before, after = (0.7, 0.3) if quick else (2.0, 2.0)
    with ExitStack() as stack:
        scene = Scene(stack, fault, database, restart_seconds=0.2 if quick else 2.0)
        scene.load.start()
        time.sleep(before)
        lifted, untrue = _done(fault, scene)
        owed = scene.load.all_owed()
        answering = _answering(scene, lifted)
        time.sleep(after)
        scene.load.stop()
        if quick and fault.waits:
            scene.move_clock(60)
        with suppress(AssertionError):
            wait_for(scene.everything_is_mailed, SETTLE_SECONDS)
        scene.watch.stop.set()
        scene.load.redeem_again()
        missing = [*scene.unsent(), *(("stored", kind) for kind in scene.load.misstored(scene.rows))]
        return Outcome(
            fault=fault.name,
            database=database,
            acknowledged=scene.load.acknowledged,
            lost=len(missing),
            given_up=len(scene.given_up()),
            sent_twice=scene.load.sent_twice(),
            accepted_twice=scene.load.accepted_twice,
            untrue_readyz=untrue,
            seconds_to_answer=answering and round(answering - lifted, 1),
            seconds_to_mail=round(max(scene.load.mailed_by(owed) - lifted, 0), 1),
            answers={str(answer): count for answer, count in scene.load.answers.items()},
            left=dict(Counter(kind for kind, _ in missing)),
        )


def _done(fault: Fault, scene: Scene) -> tuple[float, int]:
    """Cause the fault; return when the service can begin to recover, and how often `/readyz` was wrong."""
    begun = time.monotonic()
    with fault.does(scene):
        since = time.monotonic()
        time.sleep(fault.lasts)
        until = time.monotonic()
    untrue = 0 if scene.ready is None else scene.watch.untrue(since, until, ready=scene.ready)
    # A fault without a duration, such as a signal, is over when it begins.
    return until if fault.lasts else begun, untrue


def _answering(scene: Scene, lifted: float) -> float | None:
    """Return when the service was ready and accepted a request again, after a fault was lifted."""

    def answered_at() -> float | None:
        ready, written = scene.watch.ready_since(lifted), scene.load.written_since(lifted)
        return max(ready, written) if ready and written else None

    with suppress(AssertionError):
        return wait_for(answered_at, SETTLE_SECONDS)
    return None


def row_of(outcome: Outcome) -> dict[str, Any]:
    """Return a line of the table."""
    row = asdict(outcome)
    for name in ("answers", "left"):
        del row[name]
    return row
