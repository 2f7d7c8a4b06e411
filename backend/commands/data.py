"""`tiles data`: the data manager's commands about accounts. Each parses, calls one function and prints."""

import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click
from sqlalchemy.exc import OperationalError

from backend import clock
from backend.commands import console
from backend.config import settings
from backend.database import scrub
from backend.database.engine import AnyRow
from backend.desk import disclosures, holds, operations
from backend.errors import InvalidToken
from backend.privacy import erasure, ledger
from backend.security import tokens

WHO = click.argument("who", type=console.account_reference, metavar="ADDRESS|ID")
MAYBE_WHO = click.argument("who", type=console.account_reference, metavar="[ADDRESS|ID]", required=False)
BASIS = click.option(
    "--basis", required=True, help="The law or the order, such as its file number; not the person's name or address."
)
COLUMNS = ("id", "name", "email", "email_updates", "accepted_policy", "created_at", "closed_at",
           "erasure_requested_at", "erase_after", "held_until", "erasing_since")  # fmt: skip
# Between two batches of erasures other writers get SQLite's write lock.
PAUSE_SECONDS = 0.05


@console.tiles.group("data", cls=console.Group)
def data() -> None:
    """Do what people and authorities ask of the data manager.

    \b
    a person asks what is held      find, export
    a person wants it corrected     rename, change-email
    a person wants fewer emails     unsubscribe, subscribe
    a person wants to leave         close, erase; `requests` shows the erasures that wait
    a person wants to come back     cancel (an erasure), reopen
    the law forbids to erase it     hold, release
    an authority gets data          disclose
    a request came by letter        requests add, extend, done
    is anything late                requests --overdue
    what was done, and the proof    audit, verify-receipt
    a backup was restored           replay-erasures (`tiles serve` does it by itself)

    Name an account by its email address or by its id, which `find` shows. With - the command asks for it, or
    reads it from standard input, so that it stays out of the shell's history and the list of processes.

    A command exits with 0 if it did what it says, with 1 if that is impossible, and with 2 if it was called wrongly.
    """  # noqa: D301 - click's sign for lines that it must not wrap


def account_values(account: AnyRow) -> dict[str, object]:
    """Return the columns of an account that the commands print."""
    return {name: getattr(account, name) for name in COLUMNS}


@data.command()
@WHO
def find(who: str, *, as_json: bool) -> None:
    """Show the accounts, open and closed, of an address.

    It shows what waits for each, and finds no account by an address that it had before a change. Times are in UTC. It
    exits with 1 when there is none.
    """
    rows = [account_values(account) for account in operations.find(who)]
    if as_json:
        click.echo(console.dump(rows))
    for number, row in enumerate(rows if not as_json else ()):
        click.echo("\n" if number else "", nl=False)
        console.show(row, as_json=False)
    if not rows:
        raise click.ClickException("there is no account with this address or id; erased ones are not known any more")


@data.command()
@WHO
@console.output_option
def export(who: str, output: Path | None, *, as_json: bool) -> None:
    """Write a copy of everything that is held about an account.

    It is the same JSON document that the person can get in the app. Give it to this person only: verify who asks before
    you send it. Erasing the account does not erase the file: delete it yourself.
    """
    console.write(asdict(operations.export(who)), output, as_json=as_json)


@data.command()
@MAYBE_WHO
@click.option("--now", is_flag=True, help="Without the grace period: it cannot be undone.")
@click.option("--due", is_flag=True, help="Instead: erase every account that is due, as the service does.")
@console.yes_option
def erase(who: str | None, *, now: bool, due: bool, yes: bool, as_json: bool) -> None:
    """Close an account, and erase it after the grace period.

    The person gets an email with a link that undoes it until then, and a signed receipt afterwards. A legal hold delays
    it. The service erases by itself what is due: use --due only while it does not run.
    """
    if due == (who is not None) or (due and now):
        raise click.UsageError("name an account, with --now or without, or use --due alone")
    if who is None:
        console.confirm(f"Erase for good what is due ({erasure.count_due()} accounts)?", yes=yes)
        console.show({"erased": _erase_due()}, as_json=as_json)
        return
    grace = settings().erasure_grace_days
    ending = "have it erased for good, now" if now or not grace else f"have it erased after {grace} days"
    console.confirm(f"Close the account of {who} and {ending}?", yes=yes)
    closed = operations.erase(who, at_once=now)
    if closed.erase_after and closed.erase_after <= clock.now():
        _erase_due()
        later = "it is erased as soon as the service can: see `tiles data requests --overdue`"
        click.echo(f"Note: {later if erasure.count_due() else 'it is erased, and the receipt is emailed'}", err=True)
    console.show(asdict(closed), as_json=as_json)


def _erase_due() -> int:
    erased = 0
    try:
        with console.progress(erasure.count_due(), "Erasing") as bar:
            while done := erasure.erase_due():
                erased += done
                bar.update(done)
                time.sleep(PAUSE_SECONDS)
    except OSError as error:
        msg = f"{ledger.path()}: the ledger cannot be written ({error.strerror}), and nothing is erased until it can be"
        raise click.ClickException(msg) from None
    _compact()
    return erased


def _compact() -> None:
    """Rewrite SQLite's file after erasures. While it is locked or there is no space, leave that to the service."""
    try:
        if scrub.has_remains():
            scrub.compact()
    except OperationalError:
        click.echo("Note: the database's file cannot be rewritten now; the service does it later", err=True)


@data.command()
@WHO
@BASIS
@click.option(
    "--until", required=True, type=console.day, metavar="YYYY-MM-DD", help="The hold ends when this day begins (UTC)."
)
def hold(who: str, basis: str, until: datetime, *, as_json: bool) -> None:
    """Keep an account from being erased: a legal hold.

    The person sees it in the copy of their data, and gets an email if it delays an erasure. Of several holds the last
    to end counts.
    """
    console.show({"hold": holds.place(who, basis=basis, until=until), "until": until}, as_json=as_json)


@data.command()
@WHO
@console.yes_option
def release(who: str, *, yes: bool, as_json: bool) -> None:
    """Lift every legal hold on an account.

    An overdue erasure is done at once; you are asked first.
    """
    if holds.is_late_but_for_a_hold(who):
        console.confirm(f"Release the account of {who}, and have it erased for good, now?", yes=yes)
    console.show({"released": holds.release(who)}, as_json=as_json)


@data.command()
@WHO
@click.option("--authority", required=True, help="The recipient of the data, such as an office and its place.")
@BASIS
@click.option(
    "--field", "fields", type=click.Choice(disclosures.DISCLOSED), multiple=True, default=disclosures.DISCLOSED,
    help="Disclose only this; both are the most that the policy allows.",
)  # fmt: skip
@console.output_option
def disclose(  # noqa: PLR0913 - its options
    who: str, authority: str, basis: str, fields: tuple[str, ...], output: Path | None, *, as_json: bool
) -> None:
    """Record a disclosure, and write what to hand over.

    It holds the name and the email address at most.

    Use it when an authority may lawfully have the data. The record is kept for 3 years, even if the account is erased,
    and names the account by its random id only. The person sees it in the copy of their data.
    """
    disclosed = disclosures.disclose(who, authority=authority, basis=basis, fields=fields)
    try:
        console.write(asdict(disclosed), output, as_json=as_json)
    except click.ClickException as error:
        msg = f"{error.message}; the disclosure is recorded: read the data with `tiles data find`"
        raise click.ClickException(msg) from None


@data.command("replay-erasures")
@click.option(
    "--ledger", "file", type=click.Path(path_type=Path), metavar="FILE", help="A ledger other than the instance's."
)
@console.yes_option
def replay_erasures(file: Path | None, *, yes: bool, as_json: bool) -> None:
    """Erase again the accounts that a backup brought back.

    `tiles serve` does it at each start with the ledger in its instance folder. If several machines had a ledger each,
    run this with the others too; twice is as good as once. The restore loses what people asked for after the backup,
    such as closing an account: tell them.
    """
    if file:
        console.confirm(f"Erase for good every account that {file} names?", yes=yes)
    replayed = erasure.replay(file)
    _compact()
    if not replayed.in_ledger:
        click.echo(f"Note: {file or ledger.path()} names no erasure; is it the right one?", err=True)
    console.show(asdict(replayed), as_json=as_json)


@data.command("verify-receipt")
@click.argument("file", type=click.File(encoding="utf-8-sig"))
def verify_receipt(file: IO[str], *, as_json: bool) -> None:
    """Show what the receipt of an erasure says.

    FILE (- is standard input) holds the receipt alone, without the email around it; line breaks do no harm. It exits
    with 1 when the receipt is not genuine.
    """
    try:
        receipt = tokens.redeem(tokens.Purpose.RECEIPT, file.read())
    except (InvalidToken, UnicodeDecodeError):
        msg = "this is no receipt of this service, or it was altered; give the receipt alone, not the email around it"
        raise click.ClickException(msg) from None
    if not as_json:
        receipt |= {part: [_in_words(store) for store in receipt[part]] for part in ("removed", "kept")}
    console.show(receipt, as_json=as_json)


def _in_words(store: dict[str, Any]) -> str:
    return f"{store['store']}: {store['rows']}" + (f", for {store['basis']}" if "basis" in store else "")


@data.command("audit")
@MAYBE_WHO
def audit_trail(who: str | None, *, as_json: bool) -> None:
    """Show what was done with one account, or with all.

    The newest entries are first, at most 1,000. Find the entries of an erased account by its random id.
    """
    rows = [entry._asdict() for entry in operations.audit_trail(who)]
    if not as_json:
        rows = [row | {"details": _summary(row["details"])} for row in rows]
    console.show_rows(
        rows, as_json=as_json, empty="There is no entry. Those of an erased account are found by its id only."
    )


def _summary(details: dict[str, Any]) -> dict[str, Any]:
    """Return an entry's details for a table: the stores of an erasure become the number of their rows."""
    return {
        name: f"{sum(store['rows'] for store in part)} rows" if name in {"removed", "kept"} else part
        for name, part in details.items()
    }
