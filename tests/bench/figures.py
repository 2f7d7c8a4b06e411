"""A figure and the limit that was measured beside it, in rounds in which now one comes first and now the other."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from measure import Load

Measure = Callable[[], Load]


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, and what it has to be. `ratio` is that of value and limit, the median of all rounds'.

    Without a bar it is only told. `series` has the value and the limit of each round.
    """

    name: str
    value: float
    unit: str
    limit: str
    limit_value: float
    ratio: float
    bar: float | None = None
    at_most: bool = False
    p50: float | None = None
    p99: float | None = None
    errors: int = 0
    series: tuple[tuple[float, float], ...] = ()

    @property
    def is_met(self) -> bool:
        """Tell whether it is as good as it has to be, and nobody got an error meanwhile."""
        if self.bar is None:
            return not self.errors
        return not self.errors and (self.ratio <= self.bar if self.at_most else self.ratio >= self.bar)


@dataclass(frozen=True, slots=True)
class Rounds:
    """What each round measured: the loads of the figure, and those of each of its limits."""

    own: list[Load]
    limits: dict[str, list[Load]]

    @property
    def lowest(self) -> str:
        """The limit that is the lowest: no other can be reached."""
        return min(self.limits, key=lambda name: middle(self.limits[name]))

    def figure(self, name: str, bar: float | None) -> Figure:
        """Compare with the lowest limit."""
        limits = self.limits[self.lowest]
        series = tuple((load.per_second, limit.per_second) for load, limit in zip(self.own, limits, strict=True))
        return Figure(
            name, middle(self.own), "/s", self.lowest, middle(limits), median(own / limit for own, limit in series),
            bar, series=series, **times(self.own),
        )  # fmt: skip


def in_rounds(number: int, own: Measure, limits: dict[str, Measure]) -> Rounds:
    """Measure something and its limits, close in time: this machine is not always equally fast."""
    found = Rounds([], {name: [] for name in limits})
    for turn in range(number):
        taking = [(measure, found.limits[name]) for name, measure in limits.items()] + [(own, found.own)]
        for measure, into in reversed(taking) if turn % 2 else taking:
            into.append(measure())
    return found


def middle(loads: list[Load]) -> float:
    """Return the median of what was done a second."""
    return median(load.per_second for load in loads)


def times(loads: list[Load]) -> dict[str, float | int]:
    """Return the median times of some loads, and how many errors there were in all."""
    return {
        "p50": median(load.p50 for load in loads),
        "p99": median(load.p99 for load in loads),
        "errors": sum(load.errors for load in loads),
    }


def against(name: str, loads: list[Load], limit: str, limit_value: float, bar: float | None) -> Figure:
    """Compare what was done a second with a number."""
    value = middle(loads)
    series = tuple((load.per_second, limit_value) for load in loads)
    return Figure(name, value, "/s", limit, limit_value, value / limit_value, bar, series=series, **times(loads))


def bounded(name: str, values: list[float], unit: str, limit: str, limit_value: float) -> Figure:
    """Compare the median of some values with what it may be at most."""
    value = median(values)
    series = tuple((each, limit_value) for each in values)
    return Figure(name, value, unit, limit, limit_value, value / limit_value, 1.0, at_most=True, series=series)
