"""Does an address tell by the time whether it has an account? Welch's t of known and unknown addresses, interleaved.

Run as `.venv/bin/python tests/bench/equal_work.py`; it exits 1 when something tells, or when it could not have seen it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from statistics import median
from typing import Any

import click
from measure import Comparison, Line, get, interleave, post, timeless
from stage import CHEAP_ARGON2, DATABASES, LeakyServer, Stage, register, stage

from backend import clock
from backend.commands.console import as_json_option, dump, progress, show_rows
from backend.desk import operations

# Every address has the same length: what is compared is what the service knows of it.
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
# A leak of so many microseconds has to be seen.
CONTROLS = {"reset": 100, "sign-in": 1000}
FAILURES = 20
LOCKING = ", ".join(
    f"{limit}=1000000/5 minutes"
    for limit in ("request/client", "sign-in/client", "sign-in/address+client", "sign-in/service")
)
# The worker looks for mails twice a second, and a mail is sent in a few milliseconds.
WATCHED_SECONDS = 0.7
SLOW = 2

Tick = Callable[[], None]


def address(kind: str, number: int) -> str:
    """Return one of the addresses of a kind."""
    return f"{kind}{number % PEOPLE:03}@example.org"


def settle(stage: Stage) -> None:
    """Have people of each kind."""
    cheap = stage.make_app(**CHEAP_ARGON2)
    for number in range(PEOPLE):
        for kind in KINDS:
            register(stage.app, address(kind, number))
        register(cheap, address(CHEAP, number))
        with stage.app.app_context():
            operations.close(address("close", number))
            operations.erase(address("erase", number))
            operations.hold(address("holds", number), basis="Order 12/26", until=clock.now() + timedelta(days=30))


class Bench:
    """Compares on one running server; counts the answers that differ."""

    def __init__(self, stage: Stage, line: Line, pairs: int, tick: Tick) -> None:
        """Take what to measure on, how often, and what to tell after each pair."""
        self.stage, self.line, self.pairs, self.tick = stage, line, pairs, tick
        self.answers: dict[str, set[bytes]] = {}

    def compare(self, name: str, kind: str, *, upper: bool = False) -> dict[str, Any]:
        """Compare one request for addresses of a kind with the same for addresses of nobody."""
        path, rest = ASKING[name]
        seen: dict[str, set[bytes]] = {kind: set(), NOBODY: set()}

        def measure(who: str) -> Callable[[int], float]:
            emails = (address(who, number) for number in range(PEOPLE))
            requests = [post(path, email=email.upper() if upper else email, **rest) for email in emails]

            def ask(number: int) -> float:
                nanoseconds, answer = self.line.ask(requests[number % PEOPLE])
                seen[who].add(timeless(answer))
                return nanoseconds / 1000

            return ask

        known, unknown = measure(kind), measure(NOBODY)
        interleave(known, unknown, WARM_UP, lambda: None)
        self.stage.wait_until_sent()
        series = interleave(known, unknown, self.pairs, self.tick)
        self.stage.wait_until_sent()
        described = f"{name}: {_described(kind)}{', in upper case' if upper else ''}"
        return _row(Comparison.of(described, *series), same=seen[kind] == seen[NOBODY])

    def watch(self, name: str) -> dict[str, Any]:
        """Compare what others lose while the worker is busy with a mail to somebody, and with one to nobody."""
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
        return _row(Comparison.of(f"after {name}: what others lose", *series), same=True)


def _described(kind: str) -> str:
    return "hash of lower parameters" if kind == CHEAP else KINDS[kind]


def _row(found: Comparison, *, same: bool) -> dict[str, Any]:
    told = {name: round(value, 1) if isinstance(value, float) else value for name, value in asdict(found).items()}
    return {**told, "same_answers": same, "verdict": "even" if found.is_even and same else "TELLS"}


def compare_all(stage: Stage, pairs: int, tick: Tick) -> Iterator[dict[str, Any]]:
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


def compare_locked(stage: Stage, pairs: int, tick: Tick) -> Iterator[dict[str, Any]]:
    """Compare signing in where so many failed that both addresses are locked."""
    path, rest = ASKING["sign-in"]
    with stage.server(rate_limits=LOCKING) as server, Line(server.url) as line:
        for kind in ("known", NOBODY):
            for number in range(PEOPLE * FAILURES):
                line.ask(post(path, email=address(kind, number), **rest))
        row = Bench(stage, line, pairs, tick).compare("sign-in", "known")
        yield row | {"name": "sign-in: open, both locked"}


def compare_leaks(stage: Stage, pairs: int, tick: Tick) -> Iterator[dict[str, Any]]:
    """Compare on servers that leak, which has to show: else nothing is said by the rest."""
    for name, microseconds in CONTROLS.items():
        with stage.server(LeakyServer, microseconds=microseconds) as server, Line(server.url) as line:
            row = Bench(stage, line, pairs, tick).compare(name, "known")
            seen = row["verdict"] != "even" and row["same_answers"]
            yield row | {"name": f"{name}: a leak of {microseconds} us", "verdict": "seen" if seen else "BLIND"}


def measure(kind: str, pairs: int, *, quiet: bool) -> dict[str, list[dict[str, Any]]]:
    """Compare everything on one kind of database."""
    comparisons = len(ASKING) * (len(KINDS) + 1) + 1 + 1 + len(CONTROLS)
    with stage(kind) as found, progress(comparisons * pairs + 2 * (pairs // 3), kind) as bar:
        bar.hidden |= quiet
        settle(found)

        def tick() -> None:
            bar.update(1)

        parts = (compare_all(found, pairs, tick), compare_locked(found, pairs, tick))
        return {
            "comparisons": [row for part in parts for row in part],
            "controls": list(compare_leaks(found, pairs, tick)),
        }


@click.command()
@click.option("--pairs", default=300, show_default=True, type=click.IntRange(30), help="Pairs of each comparison.")
@click.option("--database", default="both", show_default=True, type=click.Choice([*DATABASES, "both"]))
@as_json_option
def main(*, pairs: int, database: str, as_json: bool) -> None:
    """Compare known and unknown addresses by their answers and their times (microseconds); |t| under 4.5 is even."""
    kinds = DATABASES if database == "both" else (database,)
    found = {kind: measure(kind, pairs, quiet=as_json) for kind in kinds}
    if as_json:
        click.echo(dump(found))
    else:
        for kind, parts in found.items():
            for part, rows in parts.items():
                click.echo(f"\n{kind}: {part}")
                show_rows(rows, as_json=False, empty="nothing")
    verdicts = {row["verdict"] for parts in found.values() for part in parts.values() for row in part}
    if "BLIND" in verdicts:
        click.echo("Too much else goes on here to see a small leak: try again when it is quiet, or with more --pairs.",
                   err=True)  # fmt: skip
    sys.exit(bool(verdicts & {"TELLS", "BLIND"}))


if __name__ == "__main__":
    main()
