"""`tiles feedback`: read feedback, reply to it, mark it as done, delete it."""

import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

import click

from backend import clock
from backend.accounts.feedback import clean_message
from backend.commands import console
from backend.desk import feedback
from backend.errors import Impossible
from backend.privacy.texts import plain_text

LIST_WIDTH = 80
ID = click.argument("feedback_id", type=click.UUID, metavar="ID")


@console.tiles.group("feedback", cls=console.Group)
def feedback_group() -> None:
    """Read and export feedback from the app, reply to it, and delete it."""


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which messages to return."""
    day: dict[str, Any] = {"type": console.day, "metavar": "YYYY-MM-DD"}
    for option in (
        click.option("--to", "last", help="Only messages of this day (UTC) or earlier.", **day),
        click.option("--from", "first", help="Only messages of this day (UTC) or later.", **day),
        click.option("--state", type=click.Choice(("open", "done")), help="Only open messages, or only done ones."),
    ):
        function = option(function)
    return function


def _filter(state: Literal["open", "done"] | None, first: datetime | None, last: datetime | None) -> feedback.Filter:
    return feedback.Filter(state, first and first.date(), last and last.date())


@feedback_group.command("list")
@filter_options
def feedback_list(*, as_json: bool, **filters: Any) -> None:
    """Show the beginning of each message, the newest first, and no author; --json shows whole messages."""
    rows = feedback.listed(_filter(**filters))
    if as_json:
        click.echo(console.dump([row._asdict() for row in rows]))
        return
    for row in rows:
        signed_in, state = "signed in" if row.signed_in else "anonymous", "done" if row.done_at else "open"
        click.echo(f"{row.id}  {clock.plain(row.received_at)}  {signed_in}  {state}  {_beginning(row.message)}")
    if not rows:
        click.echo("There is no such message." if any(filters.values()) else "Nobody has written yet.", err=True)


def _beginning(message: str) -> str:
    # Invisible characters may change the direction of the text.
    printable = "".join(c if c.isprintable() else " " for c in message[: 2 * LIST_WIDTH])
    line = " ".join(printable.split())
    return line if len(line) <= LIST_WIDTH else f"{line[: LIST_WIDTH - 1]}…"


@feedback_group.command("show")
@ID
def feedback_show(feedback_id: uuid.UUID, *, as_json: bool) -> None:
    """Show one message with its replies."""
    message = feedback.read(feedback_id)
    values = {name: getattr(message, name) for name in message.__slots__}
    console.show(values | {"replies": [reply._asdict() for reply in message.replies]}, as_json=as_json)


@feedback_group.command("export")
@filter_options
@click.option("--csv", "as_csv", is_flag=True, help="Write a table for a spreadsheet program.")
@console.output_option
def feedback_export(output: Path | None, *, as_csv: bool, as_json: bool, **filters: Any) -> None:
    """Write all messages as one JSON document, or as CSV.

    In CSV, an apostrophe precedes what a spreadsheet program could take for a formula.
    """
    rows = feedback.exported(_filter(**filters))
    if as_csv:
        console.write_text(feedback.spreadsheet(rows), output)
    else:
        console.write({"feedback": rows}, output, as_json=as_json)


@feedback_group.command("reply")
@ID
@click.argument("file", type=click.File("rb"))
@console.yes_option
def feedback_reply(feedback_id: uuid.UUID, file: IO[bytes], *, yes: bool, as_json: bool) -> None:
    """Email a reply to the writer of a message.

    FILE (- is standard input, with --yes) holds plain text in UTF-8, with empty lines between paragraphs. It goes to an
    open account that wants emails about TILES.
    """
    try:
        text = clean_message(plain_text(file.read()))
    except ValueError as error:
        raise Impossible(str(error)) from None
    sent = len(feedback.read(feedback_id).replies)
    console.confirm(f"Email this reply to the writer ({sent} were sent before)?", yes=yes)
    feedback.reply(feedback_id, message=text, after=sent)
    console.show({"replies": sent + 1}, as_json=as_json)


@feedback_group.command("done")
@ID
def feedback_done(feedback_id: uuid.UUID, *, as_json: bool) -> None:
    """Mark a message as done."""
    feedback.finish(feedback_id)
    console.show({"state": "done"}, as_json=as_json)


@feedback_group.command("reopen")
@ID
def feedback_reopen(feedback_id: uuid.UUID, *, as_json: bool) -> None:
    """Mark a message as open again."""
    feedback.reopen(feedback_id)
    console.show({"state": "open"}, as_json=as_json)


@feedback_group.command("delete")
@ID
@console.yes_option
def feedback_delete(feedback_id: uuid.UUID, *, yes: bool, as_json: bool) -> None:
    """Delete a message and its replies for good."""
    console.confirm("Delete this message and its replies for good?", yes=yes)
    feedback.remove(feedback_id)
    console.show({"deleted": feedback_id}, as_json=as_json)
