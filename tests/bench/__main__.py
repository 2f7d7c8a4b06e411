"""How fast is the service, beside PocketBase and beside what this machine can do? `make bench` writes the report.

A part that is measured alone (`--only`) replaces its own rows of the report. Exits with 1 if a bar is missed.
"""

import signal
import sys
import traceback
from pathlib import Path

import click
from bench import emails, equal_work, floods, growth, memory, peers, person, processes, sign_in, start
from bench.figures import Figure, Options, Part
from bench.report import HEAD, Report, row
from bench.stage import DATABASES

from backend.commands.console import progress

PARTS: dict[str, Part] = {
    "peers": peers.measure,
    "processes": processes.measure,
    "person": person.measure,
    "emails": emails.measure,
    "sign-in": sign_in.measure,
    "growth": growth.measure,
    "memory": memory.measure,
    "start": start.measure,
    "floods": floods.measure,
    "equal-work": equal_work.measure,
}
HERE = Path(__file__).parent


def attempt(name: str, options: Options) -> list[Figure]:
    """Measure a part; one that fails lets the others go on, and misses its bar."""
    figures: list[Figure] = []
    try:
        for figure in PARTS[name](options):
            click.echo(row(name, figure))
            figures.append(figure)
    except Exception:  # noqa: BLE001 - it is shown, and counts as missed
        traceback.print_exc()
        figures.append(Figure(name="did not finish", value=0, unit="", bar=1))
    return figures


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Only this part; may be repeated.")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1), help="Length of a measurement.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds of each figure.")
@click.option("--accounts", default=5_000_000, show_default=True, type=click.IntRange(1000), help="For the growth.")
@click.option("--pairs", default=300, show_default=True, type=click.IntRange(30), help="Pairs of equal-work.")
@click.option("--database", default="both", show_default=True, type=click.Choice([*DATABASES, "both"]))
@click.option("--output", default=HERE, type=click.Path(file_okay=False, path_type=Path), help="Folder of the report.")
def main(  # noqa: PLR0913 - options
    *, only: tuple[str, ...], seconds: float, rounds: int, accounts: int, pairs: int, database: str, output: Path
) -> None:
    """Measure the parts, and write report.md and report.png."""
    # A bench that is told to end takes what it started along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names, report = [name for name in PARTS if not only or name in only], Report(output)
    kinds = DATABASES if database == "both" else (database,)
    options = Options(seconds=seconds, rounds=rounds, accounts=accounts, pairs=pairs, databases=kinds, folder=output)
    click.echo(HEAD)
    with progress(len(names), "Parts") as bar:
        for name in names:
            run = f"{rounds} rounds of {seconds:g} s" + (f", {accounts:,} accounts" if name == "growth" else "")
            report.add(name, run, attempt(name, options))
            report.write(list(PARTS))
            bar.update(1)
    sys.exit(not all(figure.is_met for name in names for figure in report.figures(name)))


if __name__ == "__main__":
    main()
