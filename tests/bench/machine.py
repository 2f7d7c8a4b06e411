"""What the service is measured beside: the machine without it, and Flask without anything to do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from figures import Measure
from measure import Line, Load, get, load
from stage import ARGON2, Stage
from support import ServerProcess, free_port

CORES = len(os.sched_getaffinity(0))
THREADS = 8
CONNECTIONS = 16
HERE = Path(__file__).parent
HASH = ",".join(str(ARGON2[f"argon2_{name}"]) for name in ("memory_kib", "time_cost", "parallelism"))
COMMITS, BARE, HASHES = "durable commits", "bare Flask route", "raw Argon2id"

# Processes, and threads in each.
Writers = tuple[int, int]
ALONE: Writers = (1, 1)


def wide_server(folder: Path, **settings: object) -> ServerProcess:
    """Return a server with a process for each core."""
    return ServerProcess(folder, "--workers", str(CORES), "--threads", str(THREADS), **settings)


def environment_of(server: ServerProcess) -> dict[str, str]:
    """Return the environment in which a server was started."""
    pairs = Path(f"/proc/{server.pid}/environ").read_bytes().decode().split("\0")
    found = dict(pair.split("=", 1) for pair in pairs if pair)
    return found | {"BENCH_THREADS": str(THREADS)}


def raw(kind: str, target: str, writers: Writers, seconds: float, *, environment: dict[str, str] | None = None) -> Load:
    """Do something again and again without the service, in so many processes with so many threads each."""
    processes, threads = writers
    counts = ("--processes", str(processes), "--threads", str(threads), "--seconds", str(seconds))
    command = [sys.executable, str(HERE / "raw.py"), kind, target, *counts]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Load(**json.loads(told))


@contextmanager
def bare_server(server: ServerProcess, interface: str) -> Iterator[str]:
    """Run a bare Flask application on the service's HTTP server, behind its front (rsgi) or without (wsgi)."""
    port = free_port()
    words = [sys.executable, str(HERE / "bare.py"), interface, str(port), str(CORES)]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(words, env=environment_of(server), start_new_session=True)
    try:
        _wait_until_up(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(url: str) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with suppress(OSError), Line(url) as line:
            line.ask(get("/healthz"))
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing answers at {url}")


@dataclass
class Limits:
    """The limits of one stage, in the environment of its server."""

    stage: Stage
    environment: dict[str, str]
    bare_urls: dict[str, str]
    seconds: float
    _quickest: dict[str, object] = field(default_factory=dict)

    def commits(self) -> Load:
        """Commit single rows durably, with as many writers as the service has connections."""
        url = str(self.stage.settings["database_url"])
        kind = url.partition(":")[0]
        target = str(self.stage.folder / "limit.sqlite3") if kind == "sqlite" else url
        return raw(kind, target, (CORES, CONNECTIONS // CORES), self.seconds)

    def hashes(self) -> Load:
        """Hash on all cores, in threads or in processes: in what is quicker here."""
        ways = {"threads": lambda: self._hash((1, CORES)), "processes": lambda: self._hash((CORES, 1))}
        return self._best("hashes", ways)

    def _hash(self, writers: Writers) -> Load:
        return raw("argon2", HASH, writers, self.seconds, environment=self.environment)

    def bare(self) -> Load:
        """Ask for the bare route, behind the service's front or without: where it is quicker here."""
        return self._best("bare", {name: partial(self.bare_behind, name) for name in self.bare_urls})

    def bare_behind(self, interface: str) -> Load:
        """Ask for the bare route, by one of the server's doors."""
        return load(self.bare_urls[interface], get("/healthz"), connections=CONNECTIONS, seconds=self.seconds)

    def _best(self, name: str, ways: dict[str, Measure]) -> Load:
        """Measure in the way that was the quickest when all were tried."""
        if name not in self._quickest:
            tried = {way: measure() for way, measure in ways.items()}
            self._quickest[name] = max(tried, key=lambda way: tried[way].per_second)
        return ways[str(self._quickest[name])]()
