"""How near is the service to what this machine can do? Each figure beside its limit, measured in the same run.

Run as `.venv/bin/python tests/bench/speed.py`; it exits 1 when a bar is missed. `--only` measures some of it: the names
of the jobs are told by `--help`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import alone
import click
import served
from figures import Figure
from report import Report
from stage import DATABASES, stage

from backend.commands.console import as_json_option, dump, progress

NAMES = [*served.JOBS, *alone.JOBS]

Tick = Callable[[], None]


def chosen(only: tuple[str, ...]) -> set[str]:
    """Return the names that contain one of these, or all."""
    return {name for name in NAMES if not only or any(part in name for part in only)}


def measure(report: Report, names: set[str], tick: Tick) -> None:
    """Measure what was chosen."""
    asked = [name for name in served.JOBS if name in names]
    if asked:
        with served.served(report.database, report.rounds, report.seconds) as on:
            for name in asked:
                report.jobs[name] = served.JOBS[name](on)
                tick()
    for name in alone.JOBS:
        if name in names:
            report.jobs[name] = _alone(report, name)
            tick()


def _alone(report: Report, name: str) -> list[Figure]:
    with stage(report.database) as found:
        return alone.JOBS[name](found, report.rounds, report.seconds)


@click.command(epilog=f"Jobs: {', '.join(NAMES)}.")
@click.option("--only", multiple=True, metavar="NAME", help="Only jobs with this in their name; may be given again.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1), help="Length of a measurement.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds of each figure.")
@click.option("--database", default="sqlite", show_default=True, type=click.Choice(DATABASES))
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for report.md and .json; a whole run writes beside this program.")  # fmt: skip
@as_json_option
def main(  # noqa: PLR0913 - options
    *, only: tuple[str, ...], seconds: float, rounds: int, database: str, output: Path | None, as_json: bool
) -> None:
    """Measure the service beside what this machine does without it, and say whether each bar is met."""
    names, report = chosen(only), Report(database, rounds, seconds)
    if not names:
        raise click.BadParameter(f"none of {', '.join(NAMES)}", param_hint="--only")
    with progress(len(names), database) as bar:
        measure(report, names, lambda: bar.update(1))
    click.echo(dump(report.raw()) if as_json else report.markdown(), nl=as_json)
    # Part of the figures must not pass for the whole report.
    if folder := output or (None if only else Path(__file__).parent):
        report.write(folder)
    sys.exit(not all(figure.is_met for figure in report.barred))


if __name__ == "__main__":
    main()
