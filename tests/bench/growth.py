"""How the service fares as its tables grow: the same requests, in turns, of servers that hold ever more accounts."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from figures import Figure
from machine import CONNECTIONS, CORES, wide_server
from measure import Line, Load, get, load, post
from seeding import address, seed, sign_in
from stage import Stage, stage
from support import PASSWORD

AT_MOST = 1.5
# So many people are asked about, in an order of chance.
ASKED = 5000
# A server tidies after its start: it is done with that when nobody waited long for so many seconds.
QUIET_SECONDS = 4.0
LONG = 500.0
PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Grown:
    """A server on a database with so many accounts, and what is asked of it."""

    accounts: int
    stage: Stage
    url: str
    requests: dict[str, list[bytes]]
    bytes_each: float
    longest_wait: float

    def load(self, name: str, seconds: float) -> Load:
        """Ask about people whom chance picks; those who sign in are as many as there are cores."""
        connections = CORES if name == "sign in" else CONNECTIONS
        found = load(self.url, *self.requests[name], connections=connections, seconds=seconds)
        self.stage.forget_mails()
        return found


@dataclass(frozen=True, slots=True)
class Growth:
    """What each request took at each number of accounts, in each round; and what each account takes of the disk."""

    loads: dict[str, dict[int, list[Load]]]
    bytes_each: dict[int, float]
    longest_waits: dict[int, float]

    def figures(self) -> Iterator[Figure]:
        """Compare the p99 at the most accounts with that at the fewest."""
        for name, sizes in self.loads.items():
            few, many = sizes[min(sizes)], sizes[max(sizes)]
            series = tuple((one.p99, other.p99) for one, other in zip(many, few, strict=True))
            own, limit = (median(column) for column in zip(*series, strict=True))
            yield Figure(
                f"{name}: p99 at {max(sizes):,} accounts", own, "ms", f"at {min(sizes):,}", limit,
                median(one / other for one, other in series), AT_MOST, at_most=True,
                p50=median(load.p50 for load in many), p99=own, errors=sum(load.errors for load in many), series=series,
            )  # fmt: skip

    def rows(self) -> list[dict[str, object]]:
        """Return one row for each request and number of accounts."""
        return [
            {"request": name, "accounts": size, "per_second": round(median(load.per_second for load in loads), 1),
             "p50": round(median(load.p50 for load in loads), 2), "p99": round(median(load.p99 for load in loads), 2)}
            for name, sizes in self.loads.items() for size, loads in sizes.items()
        ]  # fmt: skip


def grow(kind: str, sizes: list[int], rounds: int, seconds: float, tick: Callable[[], None]) -> Growth:
    """Measure every request at every number of accounts."""
    with ExitStack() as held:
        grown = []
        for size in sizes:
            grown.append(held.enter_context(_grown(kind, size)))
            tick()
        found: dict[str, dict[int, list[Load]]] = {name: {size: [] for size in sizes} for name in grown[0].requests}
        for turn in range(rounds):
            for name, loads in found.items():
                for each in reversed(grown) if turn % 2 else grown:
                    loads[each.accounts].append(each.load(name, seconds))
            tick()
        return Growth(
            found, {each.accounts: each.bytes_each for each in grown},
            {each.accounts: each.longest_wait for each in grown},
        )  # fmt: skip


@contextmanager
def _grown(kind: str, accounts: int) -> Iterator[Grown]:
    with stage(kind) as found:
        bytes_each = seed(found, accounts)
        requests = _requests(found, accounts)
        with found.server(wide_server) as server:
            longest = _longest_wait(server.url)
            yield Grown(accounts, found, server.url, requests, bytes_each, longest)


def _requests(stage: Stage, accounts: int) -> dict[str, list[bytes]]:
    """Return what is asked: each time of somebody else."""
    known = [address(random.randrange(accounts)) for _ in range(ASKED)]
    tokens = sign_in(stage, accounts, ASKED)
    return {
        "register": [post("/v1/registrations", name="Ada Lovelace", email=f"new{email}") for email in known],
        "reset": [post("/v1/password-resets", email=email) for email in known],
        "sign in": [post("/v1/sessions", email=email, password=PASSWORD) for email in known],
        "own account": [get("/v1/account", Authorization=f"Bearer {token}") for token in tokens],
        "feedback": [post("/v1/feedback", message="The plan of the interview is what I needed.")],
    }


def _longest_wait(url: str) -> float:
    """Return the milliseconds that somebody who comes right after the start waits at most to be written down."""
    request, until, longest = post("/v1/feedback", message="Is it so slow?"), time.monotonic() + QUIET_SECONDS, 0.0
    with Line(url) as line:
        while time.monotonic() < until:
            waited = line.ask(request)[0] / 1e6
            longest = max(longest, waited)
            if waited > LONG:
                until = time.monotonic() + QUIET_SECONDS
            time.sleep(PAUSE_SECONDS)
    return longest
