"""Commands about the policy, announcements and the inventory."""

import time
import unicodedata
from dataclasses import asdict
from datetime import datetime
from typing import IO, Any

import click

from backend import clock
from backend.commands import console
from backend.database.inventory import inventory
from backend.errors import Impossible
from backend.privacy import announcements, policy

# Some editors write a byte order mark.
TEXT = click.File(encoding="utf-8-sig")


def _read(file: IO[str]) -> str:
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise Impossible("the file is not text in UTF-8") from None
    if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in text):
        raise Impossible("the file is not plain text: it holds control characters other than line breaks and tabs")
    return text


@console.tiles.group("policy", cls=console.Group)
def policy_group() -> None:
    """Publish, withdraw and show versions of the privacy policy."""


@policy_group.command("publish")
@click.argument("file", type=TEXT)
@click.option("--version", required=True, help="The version's name, such as 2026-11.")
@click.option(
    "--effective",
    required=True,
    type=console.day,
    metavar="YYYY-MM-DD",
    help="The day (UTC) on which it comes into force.",
)
@console.yes_option
def policy_publish(file: IO[str], version: str, effective: datetime, *, yes: bool, as_json: bool) -> None:
    """Publish a version of the privacy policy.

    FILE (- is standard input, with --yes) holds Markdown in UTF-8: headings, lists, tables and links, no images and no
    HTML. /privacy shows it at once, and /privacy/VERSION for good. It comes into force on its day, today or later, and
    can be withdrawn before. Publishing the same again changes nothing. To tell people by email: `tiles announce
    --policy VERSION`.
    """
    effective_on, text = effective.date(), _read(file)
    if policy.check(version=version, effective_on=effective_on, text=text):
        today = ", which is today: it cannot be withdrawn" if effective_on == clock.now().date() else ""
        console.sure(f"Publish version {version}, in force from {effective_on}{today}?", yes=yes)
    console.show(asdict(policy.publish(version=version, effective_on=effective_on, text=text)), as_json=as_json)


@policy_group.command("withdraw")
@click.argument("version")
@console.yes_option
def policy_withdraw(version: str, *, yes: bool, as_json: bool) -> None:
    """Withdraw a version before the day on which it comes into force.

    It leaves /privacy, and nobody can accept it any more. Its name stays taken, because it may have been accepted.
    Emails that announce it and have not left are not sent. Tell the others: `tiles announce FILE`.
    """
    upcoming = policy.check_withdrawal(version)
    console.sure(f"Withdraw version {version}, which would be in force from {upcoming.effective_on}?", yes=yes)
    policy.withdraw(version)
    console.show(_without_text(policy.find(version)), as_json=as_json)


@policy_group.command("list")
def policy_list(*, as_json: bool) -> None:
    """Show every version that was published, and its present state."""
    rows = [_without_text(version) for version in policy.versions()]
    console.show_rows(rows, as_json=as_json, empty="No version was published.")


@policy_group.command("show")
@click.argument("version")
def policy_show(version: str, *, as_json: bool) -> None:
    """Show one version with its text."""
    shown = policy.find(version)
    console.show(asdict(shown) if as_json else _without_text(shown), as_json=as_json)
    if not as_json:
        click.echo(f"\n{shown.text.rstrip()}")


def _without_text(version: policy.Version) -> dict[str, Any]:
    return {name: value for name, value in asdict(version).items() if name != "text"}


@console.tiles.command("announce")
@click.argument("file", type=TEXT, required=False)
@click.option("--subject", help="The email's subject.")
@click.option("--policy", "version", metavar="VERSION", help="Instead of FILE: a published version of the policy.")
@click.option("--summary", type=TEXT, help="With --policy: a file with plain text that says what changes.")
@click.option("--material", is_flag=True, help="With --policy: everybody with an account gets it, with the summary.")
@click.option("--follow", is_flag=True, help="Show progress until all emails are made; Ctrl-C ends only the showing.")
def announce(  # noqa: PLR0913 - its options
    file: IO[str] | None, subject: str | None, version: str | None, summary: IO[str] | None,
    *, material: bool, follow: bool, as_json: bool,
) -> None:  # fmt: skip
    """Email a text, or a policy version, to everybody who wants such emails.

    FILE (- is standard input) holds plain text in UTF-8, with empty lines between paragraphs. You are not asked first,
    and an announcement cannot be undone. The service makes the emails in batches, so that no reset waits for them. The
    same subject and text again is the same announcement: nobody gets it twice, and the command shows its progress.

    A material change of the policy concerns everybody: with --material those who switched such emails off get it too.
    """
    if version is not None and file is None and subject is None:
        told = _read(summary) if summary else None
        progressed = announcements.announce_policy(version, summary=told, material=material)
    elif version is None and file is not None and subject is not None and not (summary or material):
        progressed = announcements.announce(subject=subject, text=_read(file))
    else:
        raise click.UsageError("give FILE and --subject, or --policy alone (with --summary and --material)")
    console.show(asdict(_follow(progressed) if follow else progressed), as_json=as_json)


def _follow(begun: announcements.Progress) -> announcements.Progress:
    latest = announcements.progress(begun.announcement)
    with console.progress(latest.recipients, "Announcing") as bar:
        try:
            bar.update(latest.queued)
            while not latest.finished:
                time.sleep(1)
                latest = announcements.progress(begun.announcement)
                bar.update(latest.queued - bar.pos)
        except KeyboardInterrupt:
            click.echo("The service goes on with it.", err=True)
    return latest


@console.tiles.command("inventory")
def show_inventory(*, as_json: bool) -> None:
    """Show every stored column with its category, its purpose, how long it is kept and what erasure does to it.

    The privacy page, the export and the erasure use the same declarations.
    """
    stored = inventory()
    if as_json:
        click.echo(console.dump([asdict(table) for table in stored]))
        return
    for table in stored:
        click.echo(f"{table.name}: {table.purpose}")
        console.show_rows([asdict(column) for column in table.columns], as_json=False, empty="")
        click.echo()
