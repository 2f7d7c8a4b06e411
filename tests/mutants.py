"""Does a test fail when a protection is removed? Each mutant removes one, and the tests that it names have to fail.

Run as `.venv/bin/python tests/mutants.py`; it exits 1 when a mutant survives. What is mutated is a copy. The mutants
are in `tests/mutants/*.toml`: add one by writing what it is called, which text of which file becomes which, and
which tests show it. One whose text is not there exactly once, or whose tests fail anyway, counts as one that survived.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click

from backend.console import as_json_option, dump, progress, show_rows

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "tests" / "mutants"
PASSED = re.compile(r"^PASSED (tests/\w+\.py::\w+)", re.MULTILINE)
FAILED = re.compile(r"^FAILED (tests/\w+\.py::\w+)", re.MULTILINE)
# A protection holds on both databases; one is enough to see that it is missing.
SQLITE = "not postgresql"
TESTS_FAILED = 1


@dataclass(frozen=True, slots=True)
class Mutant:
    """A protection that is removed: `was` becomes `becomes` in a file, and each of the tests `shows` has to fail.

    A test is named alone, or as `test_file.py::test_name` where several files have one of this name. `databases` is
    true where only PostgreSQL shows it. Where what is missing is an end, `hangs` says after how many seconds it is sure
    that the tests come to none.
    """

    name: str
    protects: str
    file: str
    was: str
    becomes: str
    shows: tuple[str, ...]
    databases: bool = False
    hangs: float | None = None

    @classmethod
    def of(cls, protects: str, row: dict[str, Any]) -> "Mutant":
        """Read a row of a table."""
        shows = [row["shows"]] if isinstance(row["shows"], str) else row["shows"]
        return cls(**{"protects": protects, **row, "shows": tuple(map(_located, shows))})

    def fits(self, folder: Path = ROOT) -> bool:
        """Tell whether it can be made in a tree, and in one place only."""
        return self.was != self.becomes and (folder / self.file).read_text("utf-8").count(self.was) == 1

    @property
    def selection(self) -> tuple[str, ...]:
        """What pytest is told to run."""
        return self.shows if self.databases else ("-k", SQLITE, *self.shows)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a mutant."""

    name: str
    protects: str
    verdict: str
    seconds: float
    shows: str


@cache
def _places() -> dict[str, list[str]]:
    """Return in which files there is a test of which name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.setdefault(node.name, []).append(f"tests/{path.name}")
    return found


def _located(shown: str) -> str:
    """Return a test as pytest names it."""
    file, _, name = shown.rpartition("::")
    places = [place for place in _places().get(name, []) if not file or place == f"tests/{file}"]
    if len(places) != 1:
        raise click.ClickException(f"{shown}: {'several files have' if places else 'there is no'} such test")
    return f"{places[0]}::{name}"


def read_tables(only: str) -> list[Mutant]:
    """Return the mutants whose name or protection has a text in it; complain of every name that is there twice."""
    rows = [(path.stem, row) for path in sorted(TABLES.glob("*.toml")) for row in _rows(path)]
    found = [Mutant.of(stem.replace("_", " "), row) for stem, row in rows]
    repeated = [name for name, count in Counter(mutant.name for mutant in found).items() if count > 1]
    if repeated:
        raise click.ClickException(f"there are two mutants of one name: {', '.join(repeated)}")
    return [mutant for mutant in found if only in f"{mutant.protects} {mutant.name}"]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))["mutant"]
    return rows


class Copy:
    """A copy of the tree, in which one mutant after the other lives; it is a checkout without what git ignores."""

    def __init__(self, folder: Path, seconds: float) -> None:
        """Make it, and be sure that its code and no other is imported in it."""
        self.folder, self.seconds = folder, seconds
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        shown = self._run("-c", "import backend, tiles_client; print(backend.__file__, tiles_client.__file__)").stdout
        if not all(file.startswith(str(folder)) for file in shown.split()):
            raise click.ClickException(f"the copy is not what is imported in it, but {shown}")

    def _run(self, *arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder), str(self.folder / "client_sdk")])
        # Of two versions of a file that are written within a second, Python would take the older one's bytecode.
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=environment, timeout=seconds or self.seconds,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test(self, *selection: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run tests."""
        quiet = ["-q", "-rpfE", "--tb=line", "--show-capture=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return self._run("-m", "pytest", *quiet, *selection, seconds=seconds)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Remove a protection meanwhile."""
        file = self.folder / mutant.file
        text = file.read_text("utf-8")
        file.write_text(text.replace(mutant.was, mutant.becomes), "utf-8")
        try:
            yield
        finally:
            file.write_text(text, "utf-8")

    def verdict(self, mutant: Mutant) -> str:
        """Return what the tests say about a mutant: killed, survived, or that it does not run at all."""
        if not mutant.fits(self.folder):
            return "DOES NOT FIT"
        try:
            with self.mutated(mutant):
                done = self.test(*mutant.selection, seconds=mutant.hangs)
        except subprocess.TimeoutExpired:
            return "killed" if mutant.hangs else "TIMED OUT"
        if set(mutant.shows) <= _named(FAILED, done.stdout):
            return "killed"
        return "SURVIVED" if done.returncode in {0, TESTS_FAILED} and " error" not in done.stdout[-200:] else "BROKEN"


def _named(outcome: re.Pattern[str], report: str) -> set[str]:
    """Return the tests that a report says have come out so, with whichever of their parameters."""
    return set(outcome.findall(report))


def passing(copy: Copy, mutants: Sequence[Mutant]) -> set[str]:
    """Return which of all the tests that shall fail pass without a mutant."""
    found: set[str] = set()
    for databases in (False, True):
        shows = sorted({name for mutant in mutants if mutant.databases is databases for name in mutant.shows})
        if shows:
            done = copy.test(*(() if databases else ("-k", SQLITE)), *shows)
            found |= _named(PASSED, done.stdout) - _named(FAILED, done.stdout)
    return found


def judge(mutants: Sequence[Mutant], copies: Sequence[Copy], good: set[str]) -> Iterator[Outcome]:
    """Try every mutant, as many at a time as there are copies; a copy is used by one at a time.

    A test that is not `good`, as it fails without a mutant, shows nothing.
    """
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def attempt(mutant: Mutant) -> Outcome:
        copy, begun = free.get(), time.monotonic()
        try:
            verdict = copy.verdict(mutant) if set(mutant.shows) <= good else "FAILS ANYWAY"
        finally:
            free.put(copy)
        shown = ", ".join(name.rpartition("::")[2] for name in mutant.shows)
        return Outcome(mutant.name, mutant.protects, verdict, round(time.monotonic() - begun, 1), shown)

    with ThreadPoolExecutor(len(copies)) as pool:
        yield from pool.map(attempt, mutants)


@click.command()
@click.option("--only", default="", help="Try only the mutants whose name or protection has this in it.")
@click.option("--processes", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1))
@click.option("--timeout", default=240.0, show_default=True, help="Seconds for one mutant; for all tests four times.")
@as_json_option
def main(*, only: str, processes: int, timeout: float, as_json: bool) -> None:
    """Remove one protection after the other from a copy of the tree, and see the tests fail that show it."""
    mutants = read_tables(only)
    with tempfile.TemporaryDirectory(prefix="tiles-mutants-") as folder:
        copies = [Copy(Path(folder, str(number)), timeout * 4) for number in range(processes)]
        good = passing(copies[0], mutants)
        for copy in copies:
            copy.seconds = timeout
        outcomes = []
        with progress(len(mutants), "Mutants") as bar:
            for outcome in judge(mutants, copies, good):
                outcomes.append(outcome)
                bar.update(1)
    rows = [asdict(outcome) for outcome in outcomes]
    if as_json:
        click.echo(dump(rows))
    else:
        show_rows(rows, as_json=False, empty="no such mutant")
        counts = Counter(outcome.verdict for outcome in outcomes)
        click.echo("\n" + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    sys.exit(any(outcome.verdict != "killed" for outcome in outcomes))


if __name__ == "__main__":
    main()
