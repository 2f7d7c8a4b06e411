"""What commands share: they print for a person or for a script, ask before they destroy, show progress."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from click._termui_impl import ProgressBar

from backend import clock
from backend.errors import Impossible

# C1 controls, and what turns the direction of text (UAX 9); JSON itself escapes the other controls.
CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Command(click.Command):
    """Says in one line why something cannot be done."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Impossible as error:
            raise click.ClickException(str(error)) from None


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


class Day(click.ParamType[datetime]):
    """A day, as the moment in which it begins in UTC."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Read what was typed."""
        try:
            return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            self.fail("write a day such as 2026-12-31", param, ctx)


class Who(click.ParamType[str]):
    """An account's address or id; `-` reads it from standard input, and asks for it at a terminal."""

    name = "ADDRESS|ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Read what was typed."""
        if value != "-" or (ctx and ctx.resilient_parsing):
            return str(value)
        if sys.stdin.isatty():
            click.echo("Address or id: ", nl=False, err=True)
        # From the buffer, so that the next line still answers a question. Bytes that are not UTF-8 name no account.
        line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape").strip()
        return line or self.fail("the first line of standard input names no account", param, ctx)


def stopped_by(*numbers: signal.Signals) -> threading.Event:
    """Return an event that is set when one of these signals comes, instead of what it would do otherwise.

    It is set by a thread of its own: the signal may come while the one that waits for the event holds its lock.
    """
    stop = threading.Event()
    for number in numbers:
        signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())
    return stop


class NewFile(click.ParamType[Path | None]):
    """A file to write; None is the terminal. It is looked at before anything is done, and written at the end."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | None:  # noqa: ANN401
        """Read what was typed."""
        if value == "-":
            return None
        file = Path(value)
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            self.fail(f"'{file}' cannot be written: name a file in a folder that is there", param, ctx)
        return file


def output_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command that writes a document `--output`."""
    return click.option("--output", type=NewFile(), default="-", help="Write to this file, not to the terminal.")(
        function
    )


def as_json_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def yes_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command that destroys something `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask whether you are sure.")(function)


def sure(question: str, *, yes: bool) -> None:
    """Go on only with somebody's word for it."""
    try:
        if yes or click.confirm(question, err=True):
            return
    except click.Abort:
        # The line of the question is still open.
        click.echo(err=True)
        raise click.ClickException("nothing was done: where nobody can be asked, give --yes") from None
    raise click.ClickException("nothing was done")


def plain(value: object) -> object:
    """Return a value as JSON has it: times in RFC 3339, ids as text."""
    match value:
        case datetime():
            return clock.rfc3339(value)
        case date() | UUID():
            return str(value)
        case _:
            return value


def dump(found: object, **options: Any) -> str:
    """Return JSON in which what would control a terminal, or turn the order of what it shows, is escaped."""
    text = json.dumps(found, default=plain, ensure_ascii=False, **options)
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write(found: object, output: Path | None, *, as_json: bool) -> None:
    """Write one JSON document to a file or to the terminal: for a person to read, or in one line for a script."""
    text = dump(found, indent=None if as_json else 2) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise click.ClickException(f"'{output}' cannot be written: {error.strerror}") from None


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print one thing, a line for each of its parts, or more where a part is a list."""
    if as_json:
        click.echo(dump(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        label = name.replace("_", " ")
        for line in [_told(part) for part in value] or ["none"] if isinstance(value, list) else [_told(value)]:
            click.echo(f"{label:<{width}}  {line}")
            label = ""


def show_rows(found: Sequence[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print many things as a table, or what it means that there are none."""
    if as_json:
        click.echo(dump(found))
        return
    if not found:
        click.echo(empty)
        return
    lines = [[name.replace("_", " ") for name in found[0]], *([_told(cell) for cell in row.values()] for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _told(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {_told(part)}" for name, part in value.items())
        case list():
            return "; ".join(map(_told, value))
        case _:
            return str(plain(value))


def progress(length: int, label: str) -> ProgressBar[int]:
    """Return a progress bar that is seen on a terminal only."""
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())
