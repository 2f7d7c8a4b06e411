"""Does the time of a response tell whether an address has an account? Known and unknown addresses are interleaved."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

from bench.comparing import EVEN, greatest_t, interleave
from bench.figures import Figure, Options
from bench.requests import Line, get, post, shown
from bench.stage import CHEAP_ARGON2, Stage, register, stage
from server_process import ServerProcess

from backend import clock
from backend.commands.console import progress
from backend.desk import holds, operations

# Every address has the same length, so that only what the service knows of it differs.
PEOPLE = 10
NOBODY = "nobdy"
KINDS = {"known": "open", "close": "closed", "holds": "under a legal hold", "erase": "erasure requested"}
CHEAP = "cheap"
ASKING: dict[str, tuple[str, dict[str, str]]] = {
    "register": ("/v1/registrations", {"name": "Ada Lovelace"}),
    "reset": ("/v1/password-resets", {}),
    "erasure": ("/v1/erasure-requests", {}),
    "sign-in": ("/v1/sessions", {"password": "a wrong but long password"}),
}
WARM_UP = 20
LEAKY = Path(__file__).with_name("leaky")
# A leak of so many microseconds has to be seen.
CONTROLS = {"reset": 100, "sign-in": 1000}
FAILURES = 20
LOCKING = ", ".join(
    f"{limit}=1000000/5 minutes"
    for limit in ("request/client", "sign-in/client", "sign-in/address+client", "sign-in/service")
)
# The worker looks for emails every 50 ms, and an email is sent in a few milliseconds.
WATCHED_SECONDS = 0.3
SLOW = 2

Tick = Callable[[], object]


class LeakyServer(ServerProcess):
    """A server that takes so many microseconds longer for an address that begins with "known"."""

    def __init__(self, folder: Path, *, microseconds: int, **settings: object) -> None:
        """Take how much it leaks."""
        super().__init__(folder, **settings)
        path = os.pathsep.join(filter(None, [str(LEAKY), self._environment.get("PYTHONPATH")]))
        self._environment |= {"PYTHONPATH": path, "BENCH_LEAK_MICROSECONDS": str(microseconds)}


def address(kind: str, number: int) -> str:
    """Return one of the addresses of a kind."""
    return f"{kind}{number % PEOPLE:03}@example.org"


def measure(options: Options) -> Iterator[Figure]:
    """Compare everything on each kind of database."""
    comparisons = len(ASKING) * (len(KINDS) + 1) + 1 + 2 + 1 + len(CONTROLS)
    for kind in options.databases:
        with stage(kind) as on, progress(comparisons * options.pairs, f"Equal work, {kind}") as bar:
            _have_people(on)
            tick = partial(bar.update, 1)
            for part in (_compare_all, _compare_locked, _compare_leaks):
                for name, t, has_same_responses in part(on, options.pairs, tick):
                    is_leak = "leak" in name
                    # Different responses tell more than any time.
                    yield Figure(
                        name=f"{kind}: {name}: t", value=t, unit="", bar=EVEN, at_most=not is_leak,
                        errors=int(not has_same_responses),
                    )  # fmt: skip


def _have_people(stage: Stage) -> None:
    """Register people of each kind."""
    cheap = stage.make_app(**CHEAP_ARGON2)
    for number in range(PEOPLE):
        for kind in KINDS:
            register(stage.app, address(kind, number))
        register(cheap, address(CHEAP, number))
        with stage.app.app_context():
            operations.close(address("close", number))
            operations.erase(address("erase", number))
            holds.place(address("holds", number), basis="Order 12/26", until=clock.now() + timedelta(days=30))


Compared = tuple[str, float, bool]
"""A name, the greatest t, and whether all responses were the same."""


class Bench:
    """Compares addresses on one running server."""

    def __init__(self, stage: Stage, line: Line, pairs: int, tick: Tick) -> None:
        """Take what to measure on, how often, and what to call after each pair."""
        self.stage, self.line, self.pairs, self.tick = stage, line, pairs, tick

    def compare(self, name: str, kind: str, *, upper: bool = False) -> Compared:
        """Compare one request for addresses of a kind with the same request for addresses of nobody."""
        path, rest = ASKING[name]
        seen: dict[str, set[bytes]] = {kind: set(), NOBODY: set()}

        def measure(who: str) -> Callable[[int], float]:
            emails = (address(who, number) for number in range(PEOPLE))
            requests = [post(path, email=email.upper() if upper else email, **rest) for email in emails]

            def ask(number: int) -> float:
                nanoseconds, response = self.line.ask(requests[number % PEOPLE])
                seen[who].add(shown(response))
                return nanoseconds / 1000

            return ask

        known, unknown = measure(kind), measure(NOBODY)
        interleave(known, unknown, WARM_UP, lambda: None)
        self.stage.wait_until_sent()
        series = interleave(known, unknown, self.pairs, self.tick)
        self.stage.wait_until_sent()
        described = "hash of lower parameters" if kind == CHEAP else KINDS[kind]
        label = f"{name}, {described}{', in upper case' if upper else ''}"
        return label, greatest_t(*series), seen[kind] == seen[NOBODY]

    def watch(self, name: str) -> Compared:
        """Compare what others lose while the worker handles an email to somebody, and one to nobody."""
        path, rest = ASKING[name]
        probe = get("/healthz")

        def measure(who: str) -> Callable[[int], float]:
            requests = [post(path, email=address(who, number), **rest) for number in range(PEOPLE)]

            def lost(number: int) -> float:
                self.line.ask(requests[number % PEOPLE])
                until, taken = time.perf_counter() + WATCHED_SECONDS, []
                while time.perf_counter() < until:
                    taken.append(self.line.ask(probe)[0] / 1000)
                usual = median(taken)
                return sum(each - usual for each in taken if each > SLOW * usual)

            return lost

        series = interleave(measure("known"), measure(NOBODY), self.pairs // 3, self.tick)
        return f"what others lose after {name}", greatest_t(*series), True


def _compare_all(stage: Stage, pairs: int, tick: Tick) -> Iterator[Compared]:
    """Compare every request for every kind of address."""
    with stage.server() as server, Line(server.url) as line:
        bench = Bench(stage, line, pairs, tick)
        for name in ASKING:
            for kind in KINDS:
                yield bench.compare(name, kind)
            yield bench.compare(name, "known", upper=True)
        yield bench.compare("sign-in", CHEAP)
        yield bench.watch("reset")
        yield bench.watch("register")


def _compare_locked(stage: Stage, pairs: int, tick: Tick) -> Iterator[Compared]:
    """Compare signing in after so many wrong passwords that both addresses are locked."""
    path, rest = ASKING["sign-in"]
    with stage.server(rate_limits=LOCKING) as server, Line(server.url) as line:
        for kind in ("known", NOBODY):
            for number in range(PEOPLE * FAILURES):
                line.ask(post(path, email=address(kind, number), **rest))
        _, t, has_same_responses = Bench(stage, line, pairs, tick).compare("sign-in", "known")
        yield "sign-in, open, both locked", t, has_same_responses


def _compare_leaks(stage: Stage, pairs: int, tick: Tick) -> Iterator[Compared]:
    """Compare on servers that leak. If that is not seen, the other comparisons say nothing."""
    for name, microseconds in CONTROLS.items():
        with stage.server(kind=LeakyServer, microseconds=microseconds) as server, Line(server.url) as line:
            _, t, has_same_responses = Bench(stage, line, pairs, tick).compare(name, "known")
            yield f"{name}, a leak of {microseconds} µs", t, has_same_responses
