"""Commands about the policy, announcements and the inventory."""

import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import IO, Any
from uuid import UUID

import click

from backend import clock
from backend.commands import console
from backend.database.engine import AnyRow
from backend.database.inventory import inventory
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.privacy.texts import plain_text

NOTHING = "Nothing was announced."
TEXT = click.File("rb")


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
def policy_publish(file: IO[bytes], version: str, effective: datetime, *, yes: bool, as_json: bool) -> None:
    """Publish a version of the privacy policy.

    FILE (- is standard input, with --yes) holds Markdown in UTF-8: headings, lists, tables and links, no images and no
    HTML. /privacy shows it at once, and /privacy/VERSION for good. It comes into force on its day, today or later, and
    can be withdrawn before. Publishing the same again changes nothing. To tell people by email: `tiles announce
    --policy VERSION`.
    """
    effective_on, text = effective.date(), plain_text(file.read())
    if policy.check(version=version, effective_on=effective_on, text=text):
        today = ", which is today: it cannot be withdrawn" if effective_on == clock.now().date() else ""
        console.confirm(f"Publish version {version}, in force from {effective_on}{today}?", yes=yes)
    published = policy.publish(version=version, effective_on=effective_on, text=text)
    console.show(_without_text(published), as_json=as_json)


@policy_group.command("withdraw")
@click.argument("version")
@console.yes_option
def policy_withdraw(version: str, *, yes: bool, as_json: bool) -> None:
    """Withdraw a version before the day on which it comes into force.

    It leaves /privacy, and nobody can accept it any more. Its name stays taken, because it may have been accepted.
    Emails that announce it and have not left are not sent. Tell the others: `tiles announce FILE`.
    """
    upcoming = policy.check_withdrawal(version)
    console.confirm(f"Withdraw version {version}, which would be in force from {upcoming.effective_on}?", yes=yes)
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
    published = policy.find(version)
    console.show(asdict(published) if as_json else _without_text(published), as_json=as_json)
    if not as_json:
        click.echo(f"\n{published.text.rstrip()}")


def _without_text(version: policy.Version) -> dict[str, Any]:
    return {name: value for name, value in asdict(version).items() if name != "text"}


@console.tiles.command("announce")
@click.argument("file", type=TEXT, required=False)
@click.option("--subject", help="The email's subject.")
@click.option("--policy", "version", metavar="VERSION", help="Instead of FILE: a published version of the policy.")
@click.option("--summary", type=TEXT, help="With --policy: a file with plain text that says what changes.")
@click.option("--material", is_flag=True, help="With --policy: everybody with an account gets it, with the summary.")
@click.option("--test", metavar="ADDRESS", help="Send it to this address only, as people would get it.")
@click.option("--list", "listing", is_flag=True, help="Instead: show the last 50 announcements, the newest first.")
@click.option("--stop", type=click.UUID, metavar="ID", help="Instead: stop this announcement, which --list shows.")
@click.option("--follow", is_flag=True, help="Show progress until all emails are made; Ctrl-C ends only the showing.")
@console.yes_option
def announce(  # noqa: PLR0913 - its options
    *, test: str | None, listing: bool, stop: UUID | None, follow: bool, yes: bool, as_json: bool, **words: Any
) -> None:
    """Email a text, or a policy version, to everybody who wants such emails.

    FILE (- is standard input) holds plain text in UTF-8, with empty lines between paragraphs. At a terminal you are
    asked first, with the number of people. The service makes the emails in batches, so that no reset waits for them.
    The same subject and text again is the same announcement: nobody gets it twice, and the command shows its progress.

    An email that has left cannot be taken back. --stop ends an announcement: no email is made any more, and those that
    wait are not sent.

    A material change of the policy concerns everybody: with --material those who switched such emails off get it too.
    """
    if listing:
        console.show_rows(
            [_announcement_values(row) for row in announcements.listed().rows], as_json=as_json, empty=NOTHING
        )
    elif stop:
        console.show(_stop(stop, yes=yes), as_json=as_json)
    elif test:
        announcements.send_test(_news(**words), test)
        console.show({"queued": 1, "recipient": test}, as_json=as_json)
    else:
        begun = _announce(_news(**words), yes=yes)
        console.show(asdict(_follow(begun) if follow else begun), as_json=as_json)


def _news(
    file: IO[bytes] | None, subject: str | None, version: str | None, summary: IO[bytes] | None, *, material: bool
) -> News:
    if version is not None and file is None and subject is None:
        return News(version=version, text=plain_text(summary.read()) if summary else None, material=material)
    if version is None and file is not None and subject is not None and not (summary or material):
        return News(subject, plain_text(file.read()))
    raise click.UsageError("give FILE and --subject, or --policy alone (with --summary and --material)")


def _announce(news: News, *, yes: bool) -> announcements.Progress:
    if begun := announcements.earlier(news):
        return begun
    number = announcements.count_recipients(everybody=news.material)
    # A script that announces was written before there was a question.
    console.confirm(
        f"Email this to {number} {'person' if number == 1 else 'people'}?", yes=yes or not sys.stdin.isatty()
    )
    return announcements.announce(news)


def _stop(announcement: UUID, *, yes: bool) -> dict[str, Any]:
    row = announcements.find(announcement)
    console.confirm(f"Stop the announcement of {row.created_at:%Y-%m-%d}, “{_title(row)}”?", yes=yes)
    return {"announcement": announcement, "not_sent": announcements.stop(announcement)}


def _title(row: AnyRow) -> str:
    return f"Policy version {row.policy_version}" if row.policy_version else row.subject


def _announcement_values(row: AnyRow) -> dict[str, Any]:
    state = "stopped" if row.stopped_at else "finished" if row.finished_at else "running"
    return {"announcement": row.id, "begun": row.created_at, "queued": row.queued, "state": state, "title": _title(row)}


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
