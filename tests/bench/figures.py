"""A figure, and what is measured beside it: in rounds, now one first and now the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Load:
    """What some connections got that send again as soon as they are answered. Times are milliseconds."""

    per_second: float
    p50: float = 0.0
    p99: float = 0.0
    errors: int = 0
    per_processor_second: float = 0.0


Measure = Callable[[], Load]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, what stands beside it, and its bar: for the ratio of both or, without a ratio, for the value.

    A figure without a bar is only reported.
    """

    name: str
    value: float
    unit: str
    beside: str = ""
    beside_value: float | None = None
    ratio: float | None = None
    bar: float | None = None
    at_most: bool = False
    p99: float | None = None
    errors: int = 0

    @property
    def is_met(self) -> bool:
        """Whether the bar is met without an error."""
        compared = self.value if self.ratio is None else self.ratio
        in_bounds = self.bar is None or (compared <= self.bar if self.at_most else compared >= self.bar)
        return in_bounds and not self.errors


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long, how often and how much to measure."""

    seconds: float
    rounds: int
    accounts: int
    pairs: int
    databases: tuple[str, ...]
    folder: Path


Part = Callable[[Options], Iterator[Figure]]


def in_rounds(rounds: int, measures: Mapping[str, Measure]) -> dict[str, list[Load]]:
    """Measure everything in turn, and in the opposite order in every other round: this machine's speed varies."""
    loads: dict[str, list[Load]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in reversed(measures) if number % 2 else measures:
            loads[name].append(measures[name]())
    return loads


def beside(  # noqa: PLR0913 - what a figure is made of
    name: str, own: list[Load], other_name: str, other: list[Load], *, bar: float | None = None, column: str = ""
) -> Figure:
    """Compare the rounds of two measures: by requests a second, or by another column of theirs."""
    pairs = [(getattr(a, column or "per_second"), getattr(b, column or "per_second"))
             for a, b in zip(own, other, strict=True)]  # fmt: skip
    value, beside_value = (median(side) for side in zip(*pairs, strict=True))
    return Figure(
        name=name, value=value, unit="/processor second" if column else "/s", beside=other_name,
        beside_value=beside_value, ratio=median(a / b if b else inf for a, b in pairs), bar=bar,
        p99=None if column else median(load.p99 for load in own), errors=sum(load.errors for load in own),
    )  # fmt: skip


def rate(name: str, loads: list[Load], **others: float) -> Figure:
    """Report how many requests a second there were."""
    return Figure(
        name=name, value=median(load.per_second for load in loads), unit="/s",
        p99=median(load.p99 for load in loads) or None, errors=sum(load.errors for load in loads), **others,
    )  # fmt: skip


def at_most(name: str, value: float, unit: str, bar: float | None) -> Figure:
    """Report a value that must not exceed its bar."""
    return Figure(name=name, value=value, unit=unit, bar=bar, at_most=True)
