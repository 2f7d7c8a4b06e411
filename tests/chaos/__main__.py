"""Is anything lost? Every fault is done to the service under load, and what became of what it acknowledged is counted.

Run as `PYTHONPATH=tests .venv/bin/python -m chaos`; it exits 1 when something acknowledged was lost, or a token was
accepted twice. A small disk of its own is mounted where this user may; else the server's files are kept from growing.
"""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import click
from chaos.faults import FAULTS
from chaos.scene import Fault, Outcome, play, row_of

from backend.console import as_json_option, dump, progress, show_rows


def attempt(fault: Fault, database: str) -> Outcome:
    """Do a fault; one that ends in a way that none may end in lets the others go on."""
    try:
        return play(fault, database)
    except Exception as error:  # noqa: BLE001 - it is shown with the others, and counts as one that was not survived
        return Outcome(fault.name, database, left={f"{type(error).__name__}: {error}": 1})


def outcomes(only: str, processes: int) -> Iterator[Outcome]:
    """Do every fault whose name or database has a text in it, so many at a time."""
    chosen = [
        (fault, database) for fault in FAULTS for database in fault.databases if only in f"{fault.name} {database}"
    ]
    found: dict[int, Outcome] = {}
    with ThreadPoolExecutor(processes) as pool, progress(len(chosen), "Faults") as bar:
        places = {pool.submit(attempt, *pair): place for place, pair in enumerate(chosen)}
        try:
            for done in as_completed(places):
                found[places[done]] = done.result()
                bar.update(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    yield from (found[place] for place in sorted(found))


@click.command()
@click.option("--only", default="", help="Do only the faults whose name or database has this in it.")
@click.option(
    "--processes", default=4, show_default=True, type=click.IntRange(1), help="How many at a time; most only wait."
)
@as_json_option
def main(*, only: str, processes: int, as_json: bool) -> None:
    """Do every fault to the service under load, and count what was lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found = list(outcomes(only, processes))
    if as_json:
        click.echo(dump([vars(outcome) for outcome in found]))
    else:
        show_rows([row_of(outcome) for outcome in found], as_json=False, empty="no such fault")
        for outcome in found:
            for what, count in outcome.left.items():
                click.echo(f"\n{outcome.fault}, {outcome.database}: {count} of {what}")
    sys.exit(not all(outcome.is_good for outcome in found))


if __name__ == "__main__":
    main()
