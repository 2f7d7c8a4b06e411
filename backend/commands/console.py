"""Shared by all commands: the root command `tiles`, options, arguments, questions and output."""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from flask.cli import AppGroup, ScriptInfo, routes_command, run_command, shell_command

from backend import clock, create_app
from backend.errors import Impossible
from backend.logs import configure

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

# C1 controls and bidirectional controls (UAX 9). json.dumps escapes the other controls.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

Function = Callable[..., Any]
T = TypeVar("T")

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask whether you are sure.")


class Group(AppGroup):
    """A group whose commands run in the application's context and take `--json`, unless declared without it."""

    def command(  # type: ignore[override]
        self, *args: Any, as_json: bool = True, **kwargs: Any
    ) -> Callable[[Function], click.Command]:
        """Return the decorator that makes a function a command of this group."""
        make = super().command(*args, **kwargs)
        return lambda function: make(as_json_option(function) if as_json else function)


# `tiles --help` lists the commands by who uses them.
READERS = {
    "Run the service": ("serve", "check", "mail", "db", "backup", "restore", "keys"),
    "Look after people's data": ("data", "policy", "announce", "feedback", "desk"),
    "Develop and audit": ("inventory",),
}
FLASK = {"routes": routes_command, "run": run_command, "shell": shell_command}
"""Flask's own commands, for a developer. They work, and `tiles --help` does not list them."""


class _Root(Group):
    """The group of all commands. They make the application only when they run: help needs no valid settings."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        # A command that may create the instance folder and its key calls `make_folder` or `keys.make` itself.
        create = partial(create_app, make_instance=False)
        obj = ScriptInfo(create_app=create, load_dotenv_defaults=False)
        return super().make_context(info_name, args, parent, **({"obj": obj} | extra))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command of ours or of Flask."""
        return super().get_command(ctx, cmd_name) or FLASK.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        width = max(map(len, self.commands))
        for reader, names in READERS.items():
            with formatter.section(reader):
                formatter.write_dl(
                    [(f"{name:<{width}}", self.commands[name].get_short_help_str(limit=200)) for name in names]
                )

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        try:
            return super().invoke(ctx)
        except Impossible as error:
            # These two exit with 2, as they do for a wrong setting.
            if ctx.invoked_subcommand in {"serve", "mail"}:
                raise
            raise click.ClickException(str(error)) from None


@click.group(cls=_Root)
def tiles() -> None:
    """TILES accounts: a name and an email address, and nothing else.

    Settings come from the environment (TILES_...) or from config.toml in the instance folder. docs/settings.md lists
    them.
    """
    configure()


def checked(clean: Callable[[str], T]) -> Callable[[str], T]:
    """Return the type of an argument that a rule of the product cleans."""

    def convert(value: str) -> T:
        try:
            return clean(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


day = checked(lambda value: datetime.combine(clock.day(value), time.min, UTC))
"""The start of a day in UTC."""


def account_reference(value: str) -> str:
    """Return an account's email address or id; for `-`, read it from standard input and ask for it at a terminal."""
    if value != "-" or click.get_current_context().resilient_parsing:
        return value
    if sys.stdin.isatty():
        click.echo("Address or id: ", nl=False, err=True)
    # Read bytes, so that the next line still answers a question. Bytes that are not UTF-8 match no account.
    line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape").strip()
    if not line:
        raise click.BadParameter("the first line of standard input is empty: write an email address or an id there")
    return line


def new_file(value: str) -> Path | None:
    """Return a file that can be written, before any work is done; None is the terminal."""
    if value == "-":
        return None
    file = Path(value)
    # A path may be too long, or in a folder that may not be read.
    with suppress(OSError):
        if not file.is_dir() and os.access(file if file.exists() else file.parent, os.W_OK):
            return file
    raise click.BadParameter(f"'{file}' cannot be written: name a file in an existing folder")


output_option = click.option(
    "--output", type=new_file, default="-", metavar="FILE", help="Write to this file, not to the terminal."
)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation, unless the command line has `--yes`.

    Raises:
        click.ClickException: the answer is no, or nobody can answer.
    """
    try:
        if yes or click.confirm(question, err=True):
            return
    except click.Abort:
        # End the line of the question.
        click.echo(err=True)
        raise click.ClickException("nothing was done: where nobody can be asked, give --yes") from None
    raise click.ClickException("nothing was done")


def dump(document: object, **options: Any) -> str:
    """Return JSON in which characters that control a terminal or change the text's direction are escaped."""
    return visible(json.dumps(document, default=clock.plain, ensure_ascii=False, **options))


def visible(text: str) -> str:
    """Return a text in which characters that control a terminal or change the text's direction are escaped."""
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write(document: object, output: Path | None, *, as_json: bool) -> None:
    """Write a JSON document to a file or to the terminal: indented, or on one line for a script."""
    write_text(dump(document, indent=None if as_json else 2) + "\n", output)


def write_text(text: str, output: Path | None) -> None:
    """Write text to a file or to the terminal."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise click.ClickException(f"'{output}' cannot be written: {error.strerror}") from None


def show(values: dict[str, Any], *, as_json: bool) -> None:
    """Print one line for each value, and one for each entry of a list."""
    if as_json:
        click.echo(dump(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        label = name.replace("_", " ")
        for line in [_text(entry) for entry in value] or ["none"] if isinstance(value, list) else [_text(value)]:
            indented = line.replace("\n", "\n" + " " * (width + 2))
            click.echo(f"{label:<{width}}  {indented}")
            label = ""


def show_rows(rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print rows as a table without its empty columns, or a sentence if there are none."""
    if as_json:
        click.echo(dump(rows))
        return
    if not rows:
        click.echo(empty)
        return
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    lines = [[name.replace("_", " ") for name in names], *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {_text(part)}" for name, part in value.items())
        case list():
            return "; ".join(map(_text, value))
        case _:
            return visible(str(clock.plain(value)))


def progress(length: int, label: str) -> "ProgressBar[int]":
    """Return a progress bar, which is shown on a terminal only."""
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())
