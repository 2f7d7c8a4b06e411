"""Cause every fault under load, and count how many acknowledged requests are lost.

Run as `PYTHONPATH=tests .venv/bin/python -m chaos`; it exits 1 when something acknowledged was lost, or a token was
accepted twice. A small disk is mounted if this user may; otherwise the server's files cannot grow.
"""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click
from chaos.faults import FAULTS
from chaos.scene import Fault, Outcome, play, row_of

from backend.commands.console import as_json_option, dump, progress, show_rows


def attempt(fault: Fault, database: str) -> Outcome:
    """Cause a fault; an exception becomes its outcome, so that the others continue."""
    try:
        return play(fault, database)
    except Exception as error:  # noqa: BLE001 - it is shown as a fault that was not survived
        return Outcome(fault.name, database, left={f"{type(error).__name__}: {error}": 1})


def outcomes(only: str, processes: int) -> Iterator[Outcome]:
    """Cause every fault whose name or database contains a text, some at a time."""
    chosen = [
        (fault, database) for fault in FAULTS for database in fault.databases if only in f"{fault.name} {database}"
    ]
    by_place: dict[int, Outcome] = {}
    with ThreadPoolExecutor(processes) as pool, progress(len(chosen), "Faults") as bar:
        places = {pool.submit(attempt, *pair): place for place, pair in enumerate(chosen)}
        try:
            for done in as_completed(places):
                by_place[places[done]] = done.result()
                bar.update(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    yield from (by_place[place] for place in sorted(by_place))


HEAD = "acknowledged | lost | a token twice | a mail twice | answers again, s | all is mailed, s |"
LINE = "|--:|--:|--:|--:|--:|--:|"
COUNTS = "acknowledged", "lost", "accepted_twice", "sent_twice"
TIMES = "seconds_to_answer", "seconds_to_mail"
# Prefixes of the faults' names, and the group that they belong to.
PARTS = {
    ("server", "one of", "mail worker"): "server, worker or both killed, or told to stop",
    ("PostgreSQL",): "PostgreSQL restarted, stopped, killed, frozen, out of reach",
    ("failover",): "failover from PostgreSQL's primary to its standby",
    ("Redis",): "Redis gone",
    ("mail server",): "mail server refuses, hangs, breaks off, is away for an hour",
    ("disk", "SQLite", "clock"): "disk full, SQLite locked, clock half an hour off",
}


def report(results: list[Outcome]) -> str:
    """Return the outcomes as Markdown: first the sums of each kind of fault, then each fault."""
    parts = [
        f"| {part} ({len(runs)}) | {_cells(runs)} |"
        for names, part in PARTS.items()
        if (runs := [outcome for outcome in results if outcome.fault.startswith(names)])
    ]
    rows = [f"| {outcome.fault} | {outcome.database} | {_cells([outcome])} |" for outcome in results]
    return "\n".join([
        "# What faults did", "",
        "Each was really done to the service under load (`make chaos`). In a line: runs, longest times.", "",
        f"| faults | {HEAD}", f"|---{LINE}", *parts, "",
        f"| fault | database | {HEAD}", f"|---|---{LINE}", *rows, "",
    ])  # fmt: skip


def _cells(runs: list[Outcome]) -> str:
    counts = [f"{sum(getattr(run, name) for run in runs):,}" for name in COUNTS]
    times = [[seconds for run in runs if (seconds := getattr(run, name)) is not None] for name in TIMES]
    return " | ".join([*counts, *(str(max(seconds)) if seconds else "never" for seconds in times)])


@click.command()
@click.option("--only", default="", help="Do only the faults whose name or database has this in it.")
@click.option(
    "--processes", default=4, show_default=True, type=click.IntRange(1), help="How many at a time; most only wait."
)
@click.option("--report", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there.")
@as_json_option
def main(*, only: str, processes: int, file: Path | None, as_json: bool) -> None:
    """Cause every fault in the service under load, and count the losses."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = list(outcomes(only, processes))
    if file:
        file.write_text(report(results), "utf-8")
    if as_json:
        click.echo(dump([vars(outcome) for outcome in results]))
    else:
        show_rows([row_of(outcome) for outcome in results], as_json=False, empty="no such fault")
        for outcome in results:
            for kind, count in outcome.left.items():
                click.echo(f"\n{outcome.fault}, {outcome.database}: {count} of {kind}")
    sys.exit(not all(outcome.is_good for outcome in results))


if __name__ == "__main__":
    main()
