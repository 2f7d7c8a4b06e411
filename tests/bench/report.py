"""The report of a run: Markdown tables, and every round's numbers as JSON."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from figures import Figure

CPU_INFO = Path("/proc/cpuinfo")
HEAD = ("figure", "value", "p50 ms", "p99 ms", "errors", "beside", "its value", "ratio", "bar", "met")
PEER_HEAD = ("job, times a second", "TILES", "PocketBase", "ratio")
HUNDRED, TEN = 100, 10


@dataclass
class Report:
    """What was found on one kind of database: figures by the names of their jobs."""

    database: str
    rounds: int
    seconds: float
    jobs: dict[str, list[Figure]] = field(default_factory=dict)

    @property
    def barred(self) -> list[Figure]:
        """Every figure that has to be something."""
        return [figure for figures in self.jobs.values() for figure in figures if figure.bar is not None]

    def markdown(self) -> str:
        """Return the whole report."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        missed = [figure.name for figure in self.barred if not figure.is_met]
        yield (
            f"{_machine()}; {self.database}. Medians of {self.rounds} rounds of {self.seconds:g} s, each figure right "
            "before or after its limit; the ratio is the median of the rounds' own. 16 kept connections, mails "
            "to a real SMTP peer, production's Argon2id, limits off. "
            f"{len(self.barred) - len(missed)} of {len(self.barred)} bars are met."
        )
        main = [figure for job, figures in self.jobs.items() if job != "peer" for figure in figures]
        yield from _rows("What has to be", HEAD, map(_row, main))
        yield from _rows("Beside PocketBase", PEER_HEAD, map(_peer_row, self.jobs.get("peer", [])))

    def write(self, folder: Path) -> None:
        """Write `report.md` and `report.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text("# As fast as the machine allows\n\n" + self.markdown(), "utf-8")
        (folder / "report.json").write_text(json.dumps(self.raw(), indent=1) + "\n", "utf-8")

    def raw(self) -> dict[str, object]:
        """Return everything that was measured."""
        return {
            "machine": _machine(), "database": self.database, "rounds": self.rounds, "seconds": self.seconds,
            "jobs": {job: [asdict(figure) | {"met": figure.is_met} for figure in figures]
                     for job, figures in self.jobs.items()},
        }  # fmt: skip


def _machine() -> str:
    named = [line.partition(": ")[2] for line in _cpu_lines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({(named or [platform.machine()])[0]}), Python {platform.python_version()} on {sys.platform}"


def _cpu_lines() -> list[str]:
    return CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []


def _rows(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if lines:
        yield from (
            "",
            f"## {title}",
            "",
            f"| {' | '.join(head)} |",
            f"|{'|'.join(['---'] + ['--:'] * (len(head) - 1))}|",
        )
        yield from lines


def _row(figure: Figure) -> list[str]:
    beside = [figure.limit, number(figure.limit_value), f"{figure.ratio:.2f}"] if figure.limit else ["", "", ""]
    sign = "≤" if figure.at_most else "≥"
    bar, met = (f"{sign} {figure.bar:g}", "yes" if figure.is_met else "**no**") if figure.bar is not None else ("", "")
    value = f"{number(figure.value)}{figure.unit if figure.unit.startswith('/') else f' {figure.unit}'}"
    return [figure.name, value, *_times(figure), *beside, bar, met]


def _times(figure: Figure) -> list[str]:
    if figure.p50 is None or figure.p99 is None:
        return ["", "", ""]
    return [number(figure.p50), number(figure.p99), str(figure.errors)]


def _peer_row(figure: Figure) -> list[str]:
    return [figure.name, number(figure.value), number(figure.limit_value), f"{figure.ratio:.2f}"]


def number(value: float) -> str:
    """Return a number with as many digits as it deserves."""
    if value >= HUNDRED:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= TEN else f"{value:.2f}"
