"""Emails: one worker beside smtplib alone, and several workers beside a peer that is no bottleneck."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

from bench.figures import Figure, Load, Options, beside, in_rounds, rate
from bench.raw import Job, raw
from bench.requests import processor_seconds
from bench.stage import EMAIL, FAST_PEER, REAL_PEER, Stage, stage

from backend import clock
from backend.mail.messages import draft, render

EMAILS, WORKERS = 2000, (1, 2, 4)
OF_SMTPLIB, IN_ALL = 0.7, 2000.0
PROBE_SECONDS = 0.05
SMTPLIB = "smtplib, one connection"


def measure(options: Options) -> Iterator[Figure]:
    """Measure on each kind of database."""
    for kind in options.databases:
        with stage(kind, REAL_PEER) as on:
            yield from _beside_smtplib(options, on, f"{kind}: one worker")
        with stage(kind, FAST_PEER) as on:
            yield from _beside_smtplib(options, on, f"{kind}: one worker, discarding peer", bar=None)
            for number in WORKERS[1:]:
                loads = in_rounds(options.rounds, {"": partial(_work, on, number)})[""]
                bar = IN_ALL if number == WORKERS[-1] else None
                yield replace(rate(f"{kind}: {number} workers, discarding peer", loads), bar=bar)
                yield _cost(f"{kind}: {number} workers, discarding peer", loads)


def _beside_smtplib(options: Options, on: Stage, name: str, bar: float | None = OF_SMTPLIB) -> Iterator[Figure]:
    file = on.folder / "mail.eml"
    on.have_ada()
    file.write_bytes(_written(on))
    alone = partial(raw, Job("smtp", f"{on.settings['mail_port']}:{file}", options.seconds))
    loads = in_rounds(options.rounds, {name: partial(_work, on, 1), SMTPLIB: alone})
    yield replace(beside(name, loads[name], SMTPLIB, loads[SMTPLIB], bar=bar), p99=None)
    yield _cost(name, loads[name])


def _cost(name: str, loads: list[Load]) -> Figure:
    costs = sorted(1000 / load.per_processor_second for load in loads)
    return Figure(name=f"{name}: processor time of an email", value=costs[len(costs) // 2], unit="ms")


def _written(on: Stage) -> bytes:
    """Return an email as it is sent."""
    row = SimpleNamespace(id=uuid.uuid4(), kind="password_reset", email=EMAIL, created_at=clock.now())
    with on.app.app_context():
        drafted = draft(row)  # type: ignore[arg-type]
        assert drafted
        return render(drafted, row.id).content


def _work(on: Stage, number: int) -> Load:
    """Have workers send a full queue, half of it links to register; their start is not counted."""
    on.enqueue(EMAILS // 2, kind="registration", email="new@example.org", name="Ada Lovelace")
    on.enqueue(EMAILS // 2, kind="password_reset", email=EMAIL)
    with on.workers(number) as processes:
        first = _wait_for_fewer(on, EMAILS * 19 // 20)
        before, begun = processor_seconds(processes), time.perf_counter()
        last = _wait_for_fewer(on, EMAILS // 20)
        seconds, spent = time.perf_counter() - begun, processor_seconds(processes) - before
        _wait_for_fewer(on, 1)
    return Load((first - last) / seconds, per_processor_second=(first - last) / spent)


def _wait_for_fewer(on: Stage, number: int) -> int:
    """Return how many emails wait as soon as they are fewer than so many."""
    while (waiting := on.waiting()) >= number:
        time.sleep(PROBE_SECONDS)
    return waiting
