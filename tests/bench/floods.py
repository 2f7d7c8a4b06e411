"""What others notice of a flood: their times and errors meanwhile, the server's memory, and what the flood is answered.

Run as `.venv/bin/python tests/bench/floods.py`; it exits 1 when sixteen others, each on a connection that it keeps,
wait longer than twice their usual p99 under a flood of sign-ins, when anybody gets an error, or when the memory does
not stay bounded.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from typing import Any

import click
from flooding import FLOODS, flood
from measure import Line, Load, get, load, post, status_of
from stage import DATABASES, Stage, register, stage
from support import PASSWORD, ServerProcess

from backend import clock
from backend.accounts import sign_in
from backend.commands.console import as_json_option, dump, progress, show, show_rows
from backend.privacy import policy

EMAIL = "ada@example.org"
# Others may wait so many times longer than usual under a flood of sign-ins.
TWICE = 2.0
CROWD = 16
# What a process may grow by during a flood: bodies and headers of thousands of connections, and all hashes in work.
MEBIBYTE = 2**20
MOST_GROWTH = 256 * MEBIBYTE
# Nobody waits longer for an app.
PATIENCE_SECONDS = 5.0
PAUSE_SECONDS = 0.003
SAMPLE_SECONDS = 0.2
SERVED = 400


@dataclass
class Seen:
    """What somebody who is no part of a flood saw: times in milliseconds for each request, and errors."""

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)

    def percentile(self, name: str, percent: int) -> float:
        """Return how long a request took at most, but for the slowest."""
        times = self.times.get(name, [])
        return round(quantiles(times, n=100)[percent - 1], 1) if len(times) > 1 else float("inf")


def others(app_session: str) -> dict[str, bytes]:
    """Return what others ask for meanwhile; none of it needs a hash."""
    return {
        "GET /healthz": get("/healthz"),
        "GET /v1/policy": get("/v1/policy"),
        "GET /v1/account": get("/v1/account", Authorization=f"Bearer {app_session}"),
        "POST /v1/registrations": post("/v1/registrations", name="Eve", email="eve@example.org"),
    }


def watch(url: str, requests: dict[str, bytes], seconds: float) -> Seen:
    """Ask for everything in turns, each time on a connection of its own, as somebody who comes anew does."""
    seen, until = Seen(), time.monotonic() + seconds
    while time.monotonic() < until:
        for name, request in requests.items():
            begun = time.perf_counter()
            try:
                with Line(url, PATIENCE_SECONDS) as line:
                    status = status_of(line.ask(request)[1])
            except (OSError, ValueError) as error:
                seen.errors[f"{name}: {type(error).__name__}"] += 1
                continue
            seen.times.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
            if status >= SERVED:
                seen.errors[f"{name}: {status}"] += 1
            time.sleep(PAUSE_SECONDS)
    return seen


def memory_of(server: ServerProcess) -> int:
    """Return how many bytes of memory the server's processes have in use."""
    pages = 0
    for pid in server.processes():
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@contextmanager
def highest_memory(server: ServerProcess) -> Iterator[list[int]]:
    """Give what holds, at the end, the most memory that the server had meanwhile."""
    found, done = [memory_of(server)], Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            found[0] = max(found[0], memory_of(server))

    thread = Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


@contextmanager
def flooding(kind: str, port: int) -> Iterator[dict[str, int]]:
    """Flood from a process of its own; give what it was answered, known at the end."""
    context = get_context("spawn")
    stop, told = context.Event(), context.Queue()
    process = context.Process(target=flood, args=(kind, port, stop, told))
    answers: dict[str, int] = {}
    process.start()
    # Half of what comes in the first seconds is the flood's own beginning.
    told.get(timeout=60)
    try:
        yield answers
    finally:
        stop.set()
        answers.update(told.get(timeout=60))
        process.join()


def crowds(url: str, requests: dict[str, bytes], seconds: float) -> dict[str, Load]:
    """Ask for one thing after the other over many connections at once."""
    return {name: load(url, request, connections=CROWD, seconds=seconds) for name, request in requests.items()}


def crowded(stage: Stage, session: str, kind: str, seconds: float) -> list[dict[str, Any]]:
    """Measure what many others saw before a flood, and during it."""
    with stage.server() as server:
        requests = others(session)
        crowds(server.url, requests, 1)
        usual = crowds(server.url, requests, seconds)
        stage.wait_until_sent()
        with flooding(kind, server.port):
            during = crowds(server.url, requests, seconds)
    return [
        {"flood": kind, "sixteen ask": name, "usual/s": round(usual[name].per_second),
         "per s": round(during[name].per_second), "usual p50": round(usual[name].p50, 1),
         "p50": round(during[name].p50, 1), "usual p99": round(usual[name].p99, 1), "p99": round(during[name].p99, 1),
         "times": round(during[name].p99 / usual[name].p99, 1), "errors": during[name].errors}
        for name in requests if name != "GET /healthz"
    ]  # fmt: skip


def measure(stage: Stage, session: str, kind: str, seconds: float) -> dict[str, Any]:
    """Measure one flood on a server of its own: what others saw before it, and during it."""
    with stage.server() as server:
        requests = others(session)
        watch(server.url, requests, 1)
        before, usual = memory_of(server), watch(server.url, requests, seconds)
        with highest_memory(server) as highest, flooding(kind, server.port) as answers:
            during = watch(server.url, requests, seconds)
        time.sleep(2)
        after, later = memory_of(server), watch(server.url, requests, 2)
    many = crowded(stage, session, kind, seconds) if "sign-ins" in kind else []
    return _told(kind, (usual, during, later), many, answers, (before, highest[0], after))


def _told(
    kind: str,
    phases: tuple[Seen, Seen, Seen],
    many: list[dict[str, Any]],
    answers: dict[str, int],
    memory: tuple[int, int, int],
) -> dict[str, Any]:
    usual, during, later = phases
    rows: list[dict[str, Any]] = [
        {"flood": kind, "one asks": name, "usual p50": usual.percentile(name, 50), "p50": during.percentile(name, 50),
         "usual p99": usual.percentile(name, 99), "p99": during.percentile(name, 99),
         "later p99": later.percentile(name, 99), "asked": len(during.times.get(name, []))}
        for name in usual.times
    ]  # fmt: skip
    slower = max((row["times"] for row in many), default=0)
    bounded = memory[1] - memory[0] < MOST_GROWTH
    served = not during.errors + later.errors and not sum(row["errors"] for row in many) and slower <= TWICE
    before, highest, after = (f"{size / MEBIBYTE:.0f} MiB" for size in memory)
    return {
        "rows": rows,
        "many": many,
        "summary": {
            "flood": kind, "slower": slower, "errors": dict(during.errors + later.errors),
            "answers": answers, "memory": f"{before}, {highest} at most, {after} after",
            "verdict": "withstood" if served and bounded else "SUFFERED",
        },
    }  # fmt: skip


def prepare(stage: Stage) -> str:
    """Have somebody who is signed in, and a policy; return the token of the session."""
    register(stage.app, EMAIL)
    with stage.app.app_context():
        policy.publish(version="2026-01", effective_on=clock.now().date(), text="We store little.")
        return sign_in.authenticate(email=EMAIL, password=PASSWORD, client=None).session.token


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="How long to measure before and during each flood.")
@click.option("--only", multiple=True, type=click.Choice(list(FLOODS)), help="Only this flood; may be given again.")
@click.option("--database", default="sqlite", show_default=True, type=click.Choice(DATABASES))
@as_json_option
def main(*, seconds: float, only: tuple[str, ...], database: str, as_json: bool) -> None:
    """Flood a server in each of several ways, and tell what others noticed (milliseconds)."""
    found = []
    with stage(database) as prepared, progress(len(only or FLOODS), database) as bar:
        session = prepare(prepared)
        for kind in only or FLOODS:
            found.append(measure(prepared, session, kind, seconds))
            if not as_json:
                for rows in filter(None, (found[-1]["rows"], found[-1]["many"])):
                    show_rows(rows, as_json=False, empty="nothing")
                show(found[-1]["summary"], as_json=False)
            bar.update(1)
    if as_json:
        click.echo(dump(found))
    sys.exit(any(flood["summary"]["verdict"].isupper() for flood in found))


if __name__ == "__main__":
    main()
