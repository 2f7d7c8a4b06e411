"""What this machine does without the service: hashes, durable rows and mails, by so many writers at a time.

A program of its own, so that it runs in the environment of the server that it is compared with.
"""

import json
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

import click
import psycopg
from argon2 import PasswordHasher

from backend.security.hashing import keep_memory

Work = Callable[[], object]
# What to do, with what, and for how many seconds.
Given = tuple[str, str, float]

TABLE = (
    "CREATE TABLE IF NOT EXISTS bench_rows (id char(32) PRIMARY KEY, kind text, email text, name text, "
    "created_at text, due_at text, attempts integer)"
)
ROW = "registration", "ada@example.org", "Ada Lovelace", "2026-01-01 00:00:00.000000", "2026-01-01 00:00:00.000000", 0
BUSY_SECONDS = 10


def argon2(parameters: str) -> Work:
    """Return what verifies a password, with parameters such as `19456,2,1`."""
    memory, passes, lanes = map(int, parameters.split(","))
    keep_memory()
    hasher = PasswordHasher(time_cost=passes, memory_cost=memory, parallelism=lanes)
    encoded = hasher.hash("quiet lemon gravel piano")
    return lambda: hasher.verify(encoded, "quiet lemon gravel piano")


def sqlite(file: str) -> Work:
    """Return what commits one row durably, on a connection of its own."""
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO bench_rows VALUES (?, ?, ?, ?, ?, ?, ?)", (uuid.uuid4().hex, *ROW))
        connection.execute("COMMIT")

    return commit


def postgresql(url: str) -> Work:
    """Return what commits one row durably, on a connection of its own."""
    connection = psycopg.connect(url, autocommit=True)
    statement = "INSERT INTO bench_rows VALUES (%s, %s, %s, %s, %s, %s, %s)"
    return lambda: connection.execute(statement, (uuid.uuid4().hex, *ROW))


def smtp(target: str) -> Work:
    """Return what sends the mail in a file over one connection, for a target such as `2525:mail.eml`."""
    port, _, file = target.partition(":")
    connection, message = smtplib.SMTP("127.0.0.1", int(port)), Path(file).read_bytes()
    return lambda: connection.sendmail("tiles@example.org", ["ada@example.org"], message)


KINDS: dict[str, Callable[[str], Work]] = {
    "argon2": argon2, "sqlite": sqlite, "postgresql": postgresql, "smtp": smtp,
}  # fmt: skip


def prepare(kind: str, target: str) -> None:
    """Have the table that is written into."""
    if kind == "sqlite":
        with sqlite3.connect(target) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute(TABLE)
    elif kind == "postgresql":
        with psycopg.connect(target, autocommit=True) as server:
            server.execute(TABLE)
            server.execute("TRUNCATE bench_rows")


def _repeat(given: Given, together: Barrier, series: list[list[float]]) -> None:
    kind, target, seconds = given
    work, times = KINDS[kind](target), list[float]()
    work()
    together.wait()
    until = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        work()
        times.append((time.perf_counter() - begun) * 1000)
    series.append(times)


def _process(given: Given, threads: int, together: Barrier, told: "Queue[list[list[float]]]") -> None:
    series: list[list[float]] = []
    repeating = [Thread(target=_repeat, args=(given, together, series)) for _ in range(threads)]
    for thread in repeating:
        thread.start()
    for thread in repeating:
        thread.join()
    told.put(series)


def crowd(kind: str, target: str, processes: int, threads: int, seconds: float) -> dict[str, float]:
    """Do it again and again in so many threads of so many processes at once; times are in milliseconds."""
    prepare(kind, target)
    context = get_context("spawn")
    together, told = context.Barrier(processes * threads), context.Queue()
    given = ((kind, target, seconds), threads, together, told)
    running = [context.Process(target=_process, args=given) for _ in range(processes)]
    for process in running:
        process.start()
    series = [times for _ in running for times in told.get(timeout=120)]
    for process in running:
        process.join()
    # Each writer's own rate: the last one's work ends after the time is over.
    per_second = sum(len(times) / (sum(times) / 1000) for times in series if times)
    percentiles = quantiles([each for times in series for each in times], n=100)
    return {"per_second": per_second, "p50": percentiles[49], "p99": percentiles[98], "errors": 0}


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("target")
@click.option("--processes", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
def main(*, kind: str, target: str, processes: int, threads: int, seconds: float) -> None:
    """Print how often a second something is done, and how long it takes, as JSON."""
    click.echo(json.dumps(crowd(kind, target, processes, threads, seconds)))


if __name__ == "__main__":
    main()
