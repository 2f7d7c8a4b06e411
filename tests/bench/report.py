"""The report of the last run of each part: a Markdown table, and a chart."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from math import log10
from pathlib import Path

from bench.figures import Figure
from playwright.sync_api import sync_playwright

CPU_INFO = Path("/proc/cpuinfo")
HEAD = (
    "| part | figure | value | p99, ms | beside | its value | ratio | bar | met |\n"
    "|---|---|--:|--:|---|--:|--:|--:|---|"
)
HUNDRED, TEN = 100, 10
COLOURS = {"TILES": "#1c5d99", "PocketBase, equally durable": "#c8553d", "PocketBase, its default": "#e8b4a8"}
PAGE = """<body style="margin:12px;width:760px;font:14px sans-serif"><b>Requests a second, {note}</b>
<svg width="760" height="{height}" font-size="12">{bars}</svg>"""


class Report:
    """The figures of each part, and when they were measured. They are stored beside the report, one part at a time."""

    def __init__(self, folder: Path) -> None:
        """Read the figures of earlier runs."""
        self.folder, self._store = folder, folder / "report.json"
        self.parts: dict[str, dict[str, object]] = json.loads(self._store.read_text()) if self._store.exists() else {}

    def add(self, part: str, run: str, figures: list[Figure]) -> None:
        """Replace the figures of a part, and write all parts."""
        at = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        self.parts[part] = {"at": at, "run": run, "figures": [asdict(figure) for figure in figures]}
        self._store.parent.mkdir(parents=True, exist_ok=True)
        self._store.write_text(json.dumps(self.parts, indent=1) + "\n")

    def figures(self, part: str) -> list[Figure]:
        """Return the figures of a part."""
        stored = self.parts.get(part, {}).get("figures", [])
        assert isinstance(stored, list)
        return [Figure(**figure) for figure in stored]

    def write(self, names: list[str]) -> None:
        """Write the table, with its parts in this order, and the chart."""
        (self.folder / "report.md").write_text("\n".join(self._lines(names)) + "\n", "utf-8")
        if peers := self.figures("peers"):
            draw(peers, self.folder / "report.png")

    def _lines(self, names: list[str]) -> Iterator[str]:
        barred = [figure for name in names for figure in self.figures(name) if figure.bar is not None]
        met = sum(figure.is_met for figure in barred)
        yield f"# Report of `make bench`\n\n{met} of {len(barred)} bars are met. {_machine()}.\n"
        yield "![Requests a second of TILES and of PocketBase](report.png)\n"
        yield from (f"- {name}: {part['at']} (UTC), {part['run']}" for name in names if (part := self.parts.get(name)))
        yield f"\n{HEAD}"
        for name in names:
            yield from (row(name, figure) for figure in self.figures(name))


def row(part: str, figure: Figure) -> str:
    """Return a figure as a row of the table."""
    sign, met = "≤" if figure.at_most else "≥", "yes" if figure.is_met else "**no**"
    cells = [
        part, figure.name, f"{number(figure.value)}{'' if figure.unit[:1] in {'/', ''} else ' '}{figure.unit}",
        _or_empty(figure.p99), figure.beside, _or_empty(figure.beside_value),
        "" if figure.ratio is None else f"{figure.ratio:.2f}", "" if figure.bar is None else f"{sign} {figure.bar:g}",
        "" if figure.bar is None and not figure.errors else f"{met}, {figure.errors} errors" if figure.errors else met,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _or_empty(value: float | None) -> str:
    return "" if value is None else number(value)


def number(value: float) -> str:
    """Return a number with as many digits as it deserves."""
    if value >= HUNDRED:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= TEN else f"{value:.2f}"


def _machine() -> str:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores ({model}), Python {platform.python_version()} on {sys.platform}"


def draw(figures: list[Figure], file: Path) -> None:
    """Draw the requests a second of each operation, on a logarithmic scale."""
    of_operation: dict[str, dict[str, float]] = {}
    for figure in figures:
        if figure.beside in COLOURS and figure.unit == "/s":
            rates = of_operation.setdefault(figure.name, {"TILES": figure.value})
            rates[figure.beside] = figure.beside_value or 0
    bars, top = [], 0
    for name, rates in of_operation.items():
        bars.append(f'<text x="0" y="{top + 28}">{escape(name)}</text>')
        for kind, rate in rates.items():
            width = 120 * log10(max(rate, 1))
            bars.append(
                f'<rect x="130" y="{top}" width="{width}" height="14" fill="{COLOURS[kind]}"/>'
                f'<text x="{width + 135}" y="{top + 12}">{number(rate)}</text>'
            )
            top += 16
        top += 10
    key = " ".join(f'<span style="color:{colour}">■</span> {kind}' for kind, colour in COLOURS.items())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 784, "height": top + 60})
        page.set_content(PAGE.format(note=f"logarithmic: {key}", height=top, bars="".join(bars)))
        page.screenshot(path=file)
        browser.close()
