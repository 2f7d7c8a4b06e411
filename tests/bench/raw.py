"""What this machine does without the service: hashes, durable rows and emails, by so many writers at a time."""

import smtplib
import sqlite3
import time
import uuid
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import quantiles
from threading import Thread
from typing import NamedTuple

import psycopg
from argon2 import PasswordHasher
from bench.figures import Load

from backend.security.hashing import keep_memory

Work = Callable[[], object]
TABLE = (
    "CREATE TABLE IF NOT EXISTS bench_rows (id char(32) PRIMARY KEY, kind text, email text, name text, "
    "created_at text, due_at text, attempts integer)"
)
ROW = "registration", "ada@example.org", "Ada Lovelace", "2026-01-01 00:00:00.000000", "2026-01-01 00:00:00.000000", 0
BUSY_SECONDS = 10


class Job(NamedTuple):
    """What to repeat, on what, and for how many seconds."""

    kind: str
    target: str
    seconds: float


def argon2(parameters: str) -> Work:
    """Return a call that verifies a password, with parameters such as `19456,2,1`."""
    memory, passes, lanes = map(int, parameters.split(","))
    keep_memory()
    hasher = PasswordHasher(time_cost=passes, memory_cost=memory, parallelism=lanes)
    encoded = hasher.hash("quiet lemon gravel piano")
    return lambda: hasher.verify(encoded, "quiet lemon gravel piano")


def sqlite(file: str) -> Work:
    """Return a call that commits one row durably, on a connection of its own."""
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(TABLE)

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO bench_rows VALUES (?, ?, ?, ?, ?, ?, ?)", (uuid.uuid4().hex, *ROW))
        connection.execute("COMMIT")

    return commit


def postgresql(url: str) -> Work:
    """Return a call that commits one row durably, on a connection of its own."""
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("SELECT pg_advisory_lock(1)")
    connection.execute(TABLE)
    connection.execute("SELECT pg_advisory_unlock(1)")
    statement = "INSERT INTO bench_rows VALUES (%s, %s, %s, %s, %s, %s, %s)"
    return lambda: connection.execute(statement, (uuid.uuid4().hex, *ROW))


def smtp(target: str) -> Work:
    """Return a call that sends the email in a file over one connection, for a target such as `2525:mail.eml`."""
    port, _, file = target.partition(":")
    connection, message = smtplib.SMTP("127.0.0.1", int(port)), Path(file).read_bytes()
    return lambda: connection.sendmail("tiles@example.org", ["ada@example.org"], message)


KINDS: dict[str, Callable[[str], Work]] = {
    "argon2": argon2, "sqlite": sqlite, "postgresql": postgresql, "smtp": smtp,
}  # fmt: skip


def _repeat(job: Job, together: Barrier, series: list[list[float]]) -> None:
    work, times = KINDS[job.kind](job.target), list[float]()
    work()
    together.wait()
    until = time.perf_counter() + job.seconds
    while (begun := time.perf_counter()) < until:
        work()
        times.append((time.perf_counter() - begun) * 1000)
    series.append(times)


def _process(job: Job, threads: int, together: Barrier, results: "Queue[list[list[float]]]") -> None:
    series: list[list[float]] = []
    repeating = [Thread(target=_repeat, args=(job, together, series)) for _ in range(threads)]
    for thread in repeating:
        thread.start()
    for thread in repeating:
        thread.join()
    results.put(series)


def raw(job: Job, *, processes: int = 1, threads: int = 1) -> Load:
    """Repeat a job in so many threads of so many processes at once."""
    context = get_context("spawn")
    together, results = context.Barrier(processes * threads), context.Queue()
    running = [context.Process(target=_process, args=(job, threads, together, results)) for _ in range(processes)]
    for process in running:
        process.start()
    series = [times for _ in running for times in results.get(timeout=120)]
    for process in running:
        process.join()
    # Each writer's own rate, because the last one's work ends after the time is over.
    per_second = sum(len(times) / (sum(times) / 1000) for times in series if times)
    percentiles = quantiles([each for times in series for each in times], n=100)
    return Load(per_second, percentiles[49], percentiles[98])
