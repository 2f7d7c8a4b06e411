"""The plot of a report: each figure as a share of its limit with its bar, and what grows with the accounts."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from figures import Figure
from growth import Growth
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import LogLocator

MET, MISSED, INK, PALE = "#2a78b5", "#d9722e", "#222222", "#c9c9c9"
# Inches, and shares of the width.
WIDTH, ROW, GROWTH, AROUND, BELOW = 9.0, 0.26, 2.2, 0.72, 0.35
EDGE, LEFT, RIGHT = 0.015, 0.38, 0.97
PEERS = ("PocketBase", "best peer's reset")
LINES = ("#2a78b5", "#d9722e", "#3a923a", "#8a5ab5", "#555555")


def draw(figures: Sequence[Figure], growth: Growth | None, file: Path) -> None:
    """Draw figures that have a bar."""
    panels = {
        "Share of what the machine does without the service; the mark is what it has to be":
            [each for each in figures if not each.at_most and each.limit not in PEERS],
        "Times as fast as the peer; the mark is what it has to be":
            [each for each in figures if not each.at_most and each.limit in PEERS],
        "Times as much as usual or as allowed; the mark is what it may be":
            [each for each in figures if each.at_most],
    }  # fmt: skip
    shown = {title: rows for title, rows in panels.items() if rows}
    heights = [len(rows) * ROW for rows in shown.values()] + [GROWTH] * bool(growth)
    rcParams.update({"font.size": 9, "axes.titlesize": 9.5, "axes.edgecolor": PALE, "text.color": INK})
    height = sum(heights) + AROUND * len(heights)
    sheet = Sheet(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(sheet)
    axes, top = [], height
    for each in heights:
        top -= each + AROUND
        axes.append(sheet.add_axes((LEFT, (top + BELOW) / height, RIGHT - LEFT, each / height)))
    for panel, (title, rows) in zip(axes, shown.items(), strict=False):
        _bars(panel, title, rows)
    if growth:
        _lines(axes[-1], growth)
    sheet.savefig(file, dpi=200)


def _plain(panel: Axes, title: str) -> None:
    panel.set_title(title, loc="left", fontweight="bold", x=-(LEFT - EDGE) / (RIGHT - LEFT))
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0, labelcolor=INK)


def _bars(panel: Axes, title: str, rows: Sequence[Figure]) -> None:
    _plain(panel, title)
    places = range(len(rows))
    panel.barh(places, [row.ratio for row in rows], height=0.62, color=[MET if row.is_met else MISSED for row in rows])
    widest = max(max(row.ratio, row.bar or 0) for row in rows)
    for place, row in zip(places, rows, strict=True):
        bar = row.bar or 0
        panel.plot([bar, bar], [place - 0.42, place + 0.42], color=INK, linewidth=2, solid_capstyle="butt")
        panel.text(max(row.ratio, bar) + widest * 0.012, place, f"{row.ratio:.2f}", va="center", fontsize=8.5)
    panel.set_yticks(places, [row.name for row in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(0, widest * 1.08)


def _lines(panel: Axes, growth: Growth) -> None:
    _plain(panel, "p99 in milliseconds by the number of accounts")
    for color, (name, sizes) in zip(LINES, growth.loads.items(), strict=False):
        values = [median(load.p99 for load in loads) for loads in sizes.values()]
        panel.plot(list(sizes), values, marker="o", markersize=4, color=color, label=name)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(list(growth.bytes_each), [f"{size:,}" for size in growth.bytes_each])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.grid(axis="y", color=PALE, linewidth=0.5)
    panel.legend(loc="center right", bbox_to_anchor=(-0.1, 0.5), frameon=False)
