"""Figures of processes that have the machine to themselves: sending mails, memory, the start, the SDK."""

import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

from figures import Figure, bounded, in_rounds
from floods import EMAIL, MEBIBYTE, prepare
from machine import ALONE, CONNECTIONS, raw
from measure import Line, Load, get, load, post, status_of
from sqlalchemy import func, select
from stage import Stage
from support import PASSWORD, TILES, ServerProcess, environment

from backend import clock
from backend.database.engine import db, transaction
from backend.database.models import Mail
from backend.mail import queue
from backend.mail.messages import draft, render

MAILS = 2000
OF_SMTP = 0.7
MOST_MEMORY, MOST_START, MOST_IMPORT = 160.0, 1.5, 100.0
SAMPLE_SECONDS = 0.1
STARTS, IMPORTS = 5, 7
PROBE_SECONDS = 0.01


def delivery(stage: Stage, rounds: int, seconds: float) -> list[Figure]:
    """Measure how many mails a worker sends, beside as many that are sent with nothing to be done before."""
    prepare(stage)
    file = stage.folder / "mail.eml"
    file.write_bytes(_written(stage))
    target = f"{stage.settings['mail_port']}:{file}"
    limits = {"raw smtplib, one connection": partial(raw, "smtp", target, ALONE, seconds)}
    found = in_rounds(rounds, lambda: _work(stage), limits).figure("mails sent by one worker", OF_SMTP)
    return [replace(found, p50=None, p99=None)]


def _written(stage: Stage) -> bytes:
    """Return a mail as it is sent."""
    row = SimpleNamespace(id=uuid.uuid4(), kind="password_reset", email=EMAIL, name=None, account_id=None, about=None,
                          created_at=clock.now(), attempts=0)  # fmt: skip
    with stage.app.app_context():
        drafted = draft(row)  # type: ignore[arg-type]
        assert drafted is not None
        return render(drafted, row.id).content


def _work(stage: Stage) -> Load:
    """Have a worker send a full queue; its start is not counted."""
    with stage.app.app_context(), transaction():
        for number in range(MAILS // 2):
            queue.enqueue("registration", name="Ada Lovelace", email=f"new{number}@example.org")
            queue.enqueue("password_reset", email=EMAIL)
    with _worker(stage):
        first = _wait_for_fewer(stage, MAILS)
        begun = time.perf_counter()
        while _wait_for_fewer(stage, 1):
            pass
        per_second = first / (time.perf_counter() - begun)
    return Load(per_second, 0, 0, 0)


def _wait_for_fewer(stage: Stage, number: int) -> int:
    """Return how many mails wait as soon as they are fewer than so many."""
    with stage.app.app_context():
        while True:
            with db.engine.connect() as connection:
                waiting: int = connection.scalar(select(func.count()).select_from(Mail)) or 0
            if waiting < number:
                return waiting
            time.sleep(PROBE_SECONDS)


@contextmanager
def _worker(stage: Stage) -> Iterator[None]:
    given = environment(stage.folder / "instance", **stage.settings)
    process = subprocess.Popen([TILES, "mail", "work"], env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def memory(stage: Stage, _rounds: int, seconds: float) -> list[Figure]:
    """Measure the memory of all processes of a server that nobody told anything, under load."""
    session = prepare(stage)
    requests = [
        post("/v1/registrations", name="Ada Lovelace", email=EMAIL),
        post("/v1/sessions", email=EMAIL, password=PASSWORD),
        get("/v1/account", Authorization=f"Bearer {session}"),
    ]
    with stage.server() as server, _sampled(server) as samples:
        for asked in (requests, *([request] for request in requests)):
            load(server.url, *asked, connections=CONNECTIONS, seconds=seconds)
    return [bounded("memory under load (PSS)", [max(samples) / MEBIBYTE], "MiB", "allowed", MOST_MEMORY)]


@contextmanager
def _sampled(server: ServerProcess) -> Iterator[list[int]]:
    """Give what holds, at the end, how much memory the server had every now and then."""
    found, done = [_memory_of(server)], Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            found.append(_memory_of(server))

    thread = Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _memory_of(server: ServerProcess) -> int:
    """Return the bytes that a server's processes use. Each of n processes that share a page counts an n-th (PSS)."""
    found = 0
    for pid in server.processes():
        with suppress(OSError):
            found += (
                int(re.findall(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0]) * 1024
            )
    return found


def start(stage: Stage, _rounds: int, _seconds: float) -> list[Figure]:
    """Measure how long a server takes until it says that it is ready, the database being up to date."""
    return [bounded("start to ready", [_start(stage) for _ in range(STARTS)], "s", "allowed", MOST_START)]


def _start(stage: Stage) -> float:
    server = ServerProcess(stage.folder, **stage.settings)
    begun = time.perf_counter()
    server.start()
    try:
        while not _is_ready(server):
            time.sleep(PROBE_SECONDS)
        return time.perf_counter() - begun
    finally:
        server.terminate()


def _is_ready(server: ServerProcess) -> bool:
    with suppress(OSError), Line(server.url, 5) as line:
        return status_of(line.ask(get("/readyz"))[1]) == 200
    return False


def sdk_import(_stage: Stage, _rounds: int, _seconds: float) -> list[Figure]:
    """Measure how much longer Python takes with the SDK than without."""
    _python("import tiles_client")
    taken = [_python("import tiles_client") - _python("pass") for _ in range(IMPORTS)]
    return [bounded("import tiles_client", taken, "ms", "allowed", MOST_IMPORT)]


def _python(program: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return (time.perf_counter() - begun) * 1000


JOBS: dict[str, Callable[[Stage, int, float], list[Figure]]] = {
    "mail delivery": delivery,
    "memory": memory,
    "start-up": start,
    "sdk import": sdk_import,
}
