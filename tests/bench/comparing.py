"""Two series of one measure: can anybody tell them apart? Welch's t, also of the quicker half, which sees finer."""

import gc
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, median, variance

# Fewer than one in a hundred of a thousand comparisons of equals exceed this.
EVEN = 4.5


@contextmanager
def without_collecting() -> Iterator[None]:
    """Keep the garbage collector out of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def greatest_t(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the greater t of the two whole series and of their values up to the common median."""
    limit = median([*first, *second])
    quick = [[value for value in series if value <= limit] for series in (first, second)]
    # Where nearly all of one series is slower than the other, there is nothing finer to see.
    pairs = [(first, second), quick] if min(map(len, quick)) > len(first) // 10 else [(first, second)]
    return max(abs(_welch(*pair)) for pair in pairs)


def _welch(first: Sequence[float], second: Sequence[float]) -> float:
    error = math.sqrt(variance(first) / len(first) + variance(second) / len(second))
    return (fmean(first) - fmean(second)) / (error or math.inf)


def interleave(
    first: Callable[[int], float], second: Callable[[int], float], pairs: int, tick: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """Take two measures in turn; a coin decides which of each pair comes first."""
    series: tuple[list[float], list[float]] = ([], [])
    with without_collecting():
        for number in range(pairs):
            order = [(first, series[0]), (second, series[1])]
            random.shuffle(order)
            for measure, into in order:
                into.append(measure(number))
            tick()
    return series
