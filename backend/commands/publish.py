"""Commands about what is public or was written to us: policy, announcements, inventory, feedback."""

import signal
import unicodedata
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click
from flask.cli import with_appcontext

from backend import clock
from backend.accounts import feedback
from backend.commands.console import (
    Command,
    Day,
    Group,
    as_json_option,
    dump,
    output_option,
    plain,
    progress,
    show,
    show_rows,
    stopped_by,
    sure,
    write,
    yes_option,
)
from backend.database.inventory import inventory
from backend.errors import Impossible
from backend.privacy import announcements, policy

SHOWN = 80
# A byte order mark, as some editors write it, is not part of the text.
TEXT = click.File(encoding="utf-8-sig")


def _read(file: IO[str]) -> str:
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise Impossible("the file is not text in UTF-8") from None
    if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in text):
        raise Impossible("the file is not plain text: it holds control characters other than line breaks and tabs")
    return text


@click.group("policy", cls=Group)
def policy_group() -> None:
    """The privacy policy."""


@policy_group.command("publish")
@click.argument("file", type=TEXT)
@click.option("--version", required=True, help="What the version is called, such as 2026-11.")
@click.option("--effective", required=True, type=Day(), help="From which day (UTC) it counts.")
@yes_option
@as_json_option
@with_appcontext
def policy_publish(file: IO[str], version: str, effective: datetime, *, yes: bool, as_json: bool) -> None:
    """Publish a version of the privacy policy.

    FILE (- is standard input) holds it as plain text in UTF-8, with empty lines between paragraphs. It is shown at
    /privacy, and from its day on, today or later, it is the one in force, which GET /v1/policy names. It cannot be
    changed afterwards, only withdrawn before its day; publishing the same again changes nothing. You are asked first;
    with FILE from standard input, give --yes. To tell people by mail too: `tiles announce --policy VERSION`.
    """
    day, text = effective.date(), _read(file)
    if policy.check(version=version, effective_on=day, text=text):
        today = ", which is today: it cannot be withdrawn" if day == clock.now().date() else ""
        sure(f"Publish version {version}, in force from {day}{today}?", yes=yes)
    show(asdict(policy.publish(version=version, effective_on=day, text=text)), as_json=as_json)


@policy_group.command("withdraw")
@click.argument("version")
@yes_option
@as_json_option
@with_appcontext
def policy_withdraw(version: str, *, yes: bool, as_json: bool) -> None:
    """Withdraw a version before the day from which it counts.

    It leaves /privacy, and nobody can accept it any more. Its name stays taken, as the version may have been announced
    or accepted: `tiles policy show` keeps its text, and who accepted it shows so until they accept another. Mails
    announcing it that have not left are not sent. Tell who has read of it: `tiles announce FILE`. From its day on a
    version cannot be withdrawn: publish another in its place.
    """
    found = policy.check_withdrawal(version)
    sure(f"Withdraw version {version}, which would be in force from {found.effective_on}?", yes=yes)
    policy.withdraw(version)
    show(_listed(policy.find(version)), as_json=as_json)


@policy_group.command("list")
@as_json_option
@with_appcontext
def policy_list(*, as_json: bool) -> None:
    """Show every version that was published, and how it stands today."""
    rows = [_listed(version) for version in policy.versions()]
    show_rows(rows, as_json=as_json, empty="No version was published.")


@policy_group.command("show")
@click.argument("version")
@as_json_option
@with_appcontext
def policy_show(version: str, *, as_json: bool) -> None:
    """Show one version with its text."""
    found = policy.find(version)
    show(asdict(found) if as_json else _listed(found), as_json=as_json)
    if not as_json:
        click.echo(f"\n{found.text.rstrip()}")


def _listed(version: policy.Version) -> dict[str, Any]:
    return {name: value for name, value in asdict(version).items() if name != "text"}


@click.command("announce", cls=Command)
@click.argument("file", type=TEXT, required=False)
@click.option("--subject", help="The mail's subject.")
@click.option("--policy", "version", metavar="VERSION", help="Instead of FILE: a published version of the policy.")
@click.option("--follow", is_flag=True, help="Show how far it has come until all mails are made; Ctrl-C stops showing.")
@as_json_option
@with_appcontext
def announce(file: IO[str] | None, subject: str | None, version: str | None, *, follow: bool, as_json: bool) -> None:
    """Mail a text, or a policy version, to all who want mails.

    FILE (- is standard input) holds plain text in UTF-8, with empty lines between paragraphs. Each mail has a link to
    unsubscribe. Nobody is asked whether you are sure, and what was announced cannot be taken back.

    The service (`tiles serve` or `tiles mail work`) makes the mails batch by batch, so that no reset waits behind them,
    and goes on after an interruption where it was. The same subject and text again is the same announcement: nobody
    gets it twice, and how far it has come is shown. Who wants no mails gets none about a policy either.
    """
    if (file is None) == (version is None) or (file is None) != (subject is None):
        raise click.UsageError("give FILE and --subject, or --policy alone")
    if version is not None:
        begun = announcements.announce_policy(version)
    else:
        assert file is not None
        assert subject is not None
        begun = announcements.announce(subject=subject, text=_read(file))
    show(asdict(_follow(begun) if follow else begun), as_json=as_json)


def _follow(begun: announcements.Progress) -> announcements.Progress:
    stop = stopped_by(signal.SIGINT)
    seen = announcements.progress(begun.announcement)
    with progress(seen.recipients, "Announcing") as bar:
        bar.update(seen.queued)
        while not (seen.finished or stop.wait(1)):
            seen = announcements.progress(begun.announcement)
            bar.update(seen.queued - bar.pos)
    if not seen.finished:
        click.echo("The service goes on with it.", err=True)
    return seen


@click.command("inventory")
@as_json_option
@with_appcontext
def show_inventory(*, as_json: bool) -> None:
    """Show every column that is stored, and what is declared of it.

    What it is, what for, for how long, and what erasing the account does to it. It is drawn from the same declarations
    as the privacy page, the export and the erasure.
    """
    found = inventory()
    if as_json:
        click.echo(dump([asdict(table) for table in found]))
        return
    for table in found:
        click.echo(f"{table.name}: {table.purpose}")
        show_rows([asdict(column) for column in table.columns], as_json=False, empty="")
        click.echo()


@click.group("feedback", cls=Group)
def feedback_group() -> None:
    """What people wrote from the app."""


def _feedback() -> list[dict[str, Any]]:
    return [row._asdict() for row in feedback.listed()]


@feedback_group.command("list")
@as_json_option
@with_appcontext
def feedback_list(*, as_json: bool) -> None:
    """Show the messages, the newest first.

    Each with the beginning of what it says; --json shows it whole. No message tells who wrote it.
    """
    found = _feedback()
    if as_json:
        click.echo(dump(found))
        return
    for entry in found:
        signed_in = "signed in" if entry["signed_in"] else "anonymous"
        click.echo(f"{plain(entry['received_at'])}  {signed_in:<9}  {_beginning(entry['message'])}")
    if not found:
        click.echo("Nobody has written yet.", err=True)


def _beginning(message: str) -> str:
    # Some characters that are never seen change the order of those that are.
    seen = "".join(c if c.isprintable() else " " for c in message[: 2 * SHOWN])
    line = " ".join(seen.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"


@feedback_group.command("export")
@output_option
@as_json_option
@with_appcontext
def feedback_export(output: Path | None, *, as_json: bool) -> None:
    """Write all messages, whole, as one JSON document."""
    write({"feedback": _feedback()}, output, as_json=as_json)


commands = (policy_group, announce, show_inventory, feedback_group)
