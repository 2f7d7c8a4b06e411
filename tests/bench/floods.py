"""What others notice of a flood: how long they wait, whether they get errors, and what it costs in memory."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import quantiles

from bench.figures import Figure, Options, at_most
from bench.flooding import FLOODS, flood
from bench.memory import MEBIBYTE, highest_memory
from bench.requests import Line, get, post, status_of
from bench.stage import Stage, stage

# Bodies and headers of thousands of connections, and all hashes in work.
MOST_GROWTH = 256.0
# Nobody waits longer for an app.
PATIENCE_SECONDS = 5.0
PAUSE_SECONDS = 0.003
REFUSED = 400


@dataclass
class Seen:
    """What somebody saw who is no part of a flood: milliseconds for each request, and errors."""

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)

    def p99(self, name: str) -> float:
        """Return how long a request took, apart from the slowest hundredth."""
        times = self.times.get(name, [])
        return quantiles(times, n=100)[98] if len(times) > 1 else float("inf")


def others(session: str) -> dict[str, bytes]:
    """Return what others ask for meanwhile; none of it needs a hash."""
    return {
        "GET /healthz": get("/healthz"),
        "GET /v1/policy": get("/v1/policy"),
        "GET /v1/account": get("/v1/account", Authorization=f"Bearer {session}"),
        "POST /v1/registrations": post("/v1/registrations", name="Eve", email="eve@example.org"),
    }


def measure(options: Options) -> Iterator[Figure]:
    """Do each flood to a server of its own."""
    with stage() as on:
        session = on.have_ada()
        for kind in FLOODS:
            yield from _flooded(on, session, kind, options.seconds)


def _flooded(on: Stage, session: str, kind: str, seconds: float) -> Iterator[Figure]:
    with on.server() as server:
        requests = others(session)
        usual = _watch(server.url, requests, seconds)
        with highest_memory(server) as memory, flooding(kind, server.port):
            during = _watch(server.url, requests, seconds)
        later = _watch(server.url, requests, 1)
    on.forget_mails()
    name = max(requests, key=lambda name: during.p99(name) / usual.p99(name))
    yield Figure(
        name=f"{kind}: p99 of one other, worst at {name}", value=during.p99(name), unit="ms",
        beside="without the flood", beside_value=usual.p99(name), ratio=during.p99(name) / usual.p99(name),
        at_most=True, errors=sum((during.errors + later.errors).values()),
    )  # fmt: skip
    yield at_most(f"{kind}: more memory", (memory[0] - memory[1]) / MEBIBYTE, "MiB", MOST_GROWTH)


def _watch(url: str, requests: dict[str, bytes], seconds: float) -> Seen:
    """Send everything in turn, each request on a connection of its own, as somebody does who comes anew."""
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
            if status >= REFUSED:
                seen.errors[f"{name}: {status}"] += 1
            time.sleep(PAUSE_SECONDS)
    return seen


@contextmanager
def flooding(kind: str, port: int) -> Iterator[None]:
    """Flood from a process of its own; begin the block when the flood has begun."""
    context = get_context("spawn")
    begun, stop = context.Event(), context.Event()
    process = context.Process(target=flood, args=(kind, port, begun, stop))
    process.start()
    begun.wait(60)
    try:
        yield
    finally:
        stop.set()
        process.join()
