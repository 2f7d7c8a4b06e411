"""`tiles data`: the data manager's commands about accounts. Each parses, calls one function, prints."""

import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click
from flask.cli import with_appcontext

from backend import clock
from backend.commands.console import (
    Day,
    Group,
    Who,
    as_json_option,
    dump,
    output_option,
    progress,
    show,
    show_rows,
    sure,
    write,
    yes_option,
)
from backend.config import settings
from backend.database import scrub
from backend.desk import operations
from backend.errors import InvalidToken
from backend.privacy import erasure, ledger
from backend.security import tokens

WHO = click.argument("who", type=Who(), metavar="ADDRESS|ID")
BASIS = click.option(
    "--basis", required=True, help="The law or the order, such as its file number; not the person's name or address."
)


# Others write meanwhile; on SQLite they would else wait until all is done.
PAUSE_SECONDS = 0.05


@click.group("data", cls=Group)
def data() -> None:
    """Answer what people and authorities ask of the data manager.

    \b
    somebody asks what is held    find, export
    somebody wants to be erased   erase, then requests: what waits, and until when
    the law wants it kept         hold, release
    an authority gets data        disclose
    is anything late              requests --overdue
    what was done, and proven     audit, verify-receipt
    a backup was restored         replay-erasures (`tiles serve` does it by itself)

    An account is named by its email address or, where several had the address, by its id; `find` shows both. With -
    the command asks for it, or reads it from standard input: a shell keeps what it runs, and the list of processes
    shows it to others. Each act leaves an entry that `audit` shows. The person is told by mail when the account is
    closed or is to be erased.

    A command exits 0 when it did what it says, 1 when that cannot be done, 2 when it was called wrongly.
    """  # noqa: D301 - click's own sign for lines that stay as they are


@data.command("find")
@WHO
@as_json_option
@with_appcontext
def find(who: str, *, as_json: bool) -> None:
    """Show the accounts that have or had an address.

    Open and closed ones, with what waits for each. Times are in UTC. Exits 1 when there is none; an erased account is
    not known any more.
    """
    shown = ("id", "name", "email", "email_updates", "accepted_policy", "created_at", "closed_at",
             "erasure_requested_at", "erase_after", "held_until", "erasing_since")  # fmt: skip
    found = [{name: getattr(account, name) for name in shown} for account in operations.find(who)]
    if as_json:
        click.echo(dump(found))
    for number, account in enumerate(found if not as_json else ()):
        click.echo("\n" if number else "", nl=False)
        show(account, as_json=False)
    if not found:
        raise click.ClickException("there is no account with this address or id; erased ones are not known any more")


@data.command("export")
@WHO
@output_option
@as_json_option
@with_appcontext
def export(who: str, output: Path | None, *, as_json: bool) -> None:
    """Write a copy of everything that is held about an account.

    It is one JSON document, the same that the person can take in the app. Hand it to nobody but the person: be sure who
    asks before you send it. A file is not erased with the account: delete it yourself.
    """
    write(asdict(operations.export(who)), output, as_json=as_json)


@data.command("close")
@WHO
@yes_option
@as_json_option
@with_appcontext
def close(who: str, *, yes: bool, as_json: bool) -> None:
    """Close an account, and keep it for now.

    Nobody can sign in to it any more, and every session ends. It is erased after TILES_CLOSED_RETENTION_DAYS. Until
    then the link in the mail that the person gets opens it again.
    """
    sure(f"Close the account of {who}?", yes=yes)
    show(asdict(operations.close(who)), as_json=as_json)


@data.command("erase")
@click.argument("who", type=Who(), metavar="[ADDRESS|ID]", required=False)
@click.option("--now", is_flag=True, help="Without the grace period: it cannot be taken back.")
@click.option("--due", is_flag=True, help="Instead: erase every account whose time has come, as the service does.")
@yes_option
@as_json_option
@with_appcontext
def erase(who: str | None, *, now: bool, due: bool, yes: bool, as_json: bool) -> None:
    """Close an account, and erase it after the grace period.

    The person is told by mail, with a link that takes it back until then (TILES_ERASURE_GRACE_DAYS), and gets a signed
    receipt when it is done. A legal hold delays it until the hold has ended. The service erases by itself what is due,
    so --due is only for when it does not run; when it is interrupted, run it again.
    """
    if due == (who is not None) or (due and now):
        raise click.UsageError("name an account, with --now or without, or use --due alone")
    if due:
        sure(f"Erase for good what is due ({erasure.count_due()} accounts)?", yes=yes)
        show({"erased": _erase_due()}, as_json=as_json)
        return
    assert who is not None
    grace = settings().erasure_grace_days
    ending = "have it erased for good, now" if now or not grace else f"have it erased after {grace} days"
    sure(f"Close the account of {who} and {ending}?", yes=yes)
    closed = operations.erase(who, at_once=now)
    if closed.erase_after and closed.erase_after <= clock.now():
        _erase_due()
        rest = "it is erased as soon as the service can: see `tiles data requests --overdue`"
        click.echo(f"Note: {rest if erasure.count_due() else 'it is erased, and the receipt is mailed'}", err=True)
    show(asdict(closed), as_json=as_json)


def _erase_due() -> int:
    erased = 0
    try:
        with progress(erasure.count_due(), "Erasing") as bar:
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
    if scrub.has_remains():
        scrub.compact()


@data.command("hold")
@WHO
@BASIS
@click.option("--until", required=True, type=Day(), help="It ends by itself when this day begins (UTC).")
@as_json_option
@with_appcontext
def hold(who: str, basis: str, until: datetime, *, as_json: bool) -> None:
    """Keep an account from being erased: a legal hold.

    It ends by itself, and an erasure that waits is done then. The person sees it in the copy of their data, and is told
    by mail where an erasure waits. Several may lie on one account: the last to end counts.
    """
    show({"hold": operations.hold(who, basis=basis, until=until), "until": until}, as_json=as_json)


@data.command("release")
@WHO
@yes_option
@as_json_option
@with_appcontext
def release(who: str, *, yes: bool, as_json: bool) -> None:
    """Lift every legal hold on an account.

    An erasure that waited is done when it is due: at once, if its day is over; then you are asked first.
    """
    if operations.is_late_but_for_a_hold(who):
        sure(f"Release the account of {who}, and have it erased for good, now?", yes=yes)
    show({"released": operations.release(who)}, as_json=as_json)


@data.command("disclose")
@WHO
@click.option("--authority", required=True, help="Who is given the data, such as an office and its place.")
@BASIS
@output_option
@as_json_option
@with_appcontext
def disclose(who: str, authority: str, basis: str, output: Path | None, *, as_json: bool) -> None:
    """Record a disclosure, and write what is handed over.

    For when an authority may lawfully have the data. All that is held is written, as JSON. The record is kept for 3
    years, also when the account is erased, and names the account by its random id only. The person sees it in the copy
    of their data.
    """
    found = operations.disclose(who, authority=authority, basis=basis)
    try:
        write(asdict(found), output, as_json=as_json)
    except click.ClickException as error:
        msg = f"{error.message}; the disclosure is recorded: write the data with `tiles data export`"
        raise click.ClickException(msg) from None


@data.command("requests")
@click.option("--overdue", is_flag=True, help="Only what is late; exits 1 when something is.")
@as_json_option
@with_appcontext
def requests(*, overdue: bool, as_json: bool) -> None:
    """Show the erasures that wait: their age, and when due.

    The law gives a month (GDPR Art. 12(3)). The service erases by itself what is due, so when something is late, it
    does not run or cannot write its ledger. A legal hold puts the day off.
    """
    found = [asdict(request) for request in operations.requests(overdue=overdue)]
    show_rows(found, as_json=as_json, empty="Nothing is late." if overdue else "No erasure waits.")
    if overdue and found:
        click.echo("See that `tiles serve` or `tiles mail work` runs, and what it logs.", err=True)
        sys.exit(1)


@data.command("replay-erasures")
@click.option("--ledger", "file", type=click.Path(path_type=Path), metavar="FILE", help="Another than the instance's.")
@yes_option
@as_json_option
@with_appcontext
def replay_erasures(file: Path | None, *, yes: bool, as_json: bool) -> None:
    """Erase again whoever a restored backup brought back.

    `tiles serve` does it at each start with the ledger in its instance folder. Where several machines had one each, run
    this with the others' too. Doing it twice changes nothing, and nobody is mailed again. What people asked for after
    the backup was made and what had not been done, such as closing an account, is lost with the restore: tell them.
    """
    if file:
        sure(f"Erase for good every account that {file} names?", yes=yes)
    found = erasure.replay(file)
    _compact()
    if not found.in_ledger:
        click.echo(f"Note: {file or ledger.path()} names no erasure; is it the right one?", err=True)
    show(asdict(found), as_json=as_json)


@data.command("verify-receipt")
@click.argument("file", type=click.File(encoding="utf-8-sig"))
@as_json_option
@with_appcontext
def verify_receipt(file: IO[str], *, as_json: bool) -> None:
    """Show what the receipt of an erasure says.

    FILE (- is standard input) holds the receipt alone, not the mail that it came with; line breaks do no harm. Exits 1
    when it is not genuine.
    """
    try:
        found = tokens.verify_receipt(file.read())
    except (InvalidToken, UnicodeDecodeError):
        msg = "this is no receipt of this service, or it was altered; give the receipt alone, not the mail around it"
        raise click.ClickException(msg) from None
    if not as_json:
        found |= {part: [_in_words(store) for store in found[part]] for part in ("removed", "kept")}
    show(found, as_json=as_json)


def _in_words(store: dict[str, Any]) -> str:
    return f"{store['store']}: {store['rows']}" + (f", for {store['basis']}" if "basis" in store else "")


@data.command("audit")
@click.argument("who", type=Who(), metavar="[ADDRESS|ID]", required=False)
@as_json_option
@with_appcontext
def audit_trail(who: str | None, *, as_json: bool) -> None:
    """Show what was done with an account, or with all.

    The newest first, 1,000 entries at most. Of an erased account only the random id is left: by it, not by the address,
    its entries are still found.
    """
    found = [entry._asdict() for entry in operations.audit_trail(who)]
    if not as_json:
        found = [entry | {"details": _summary(entry["details"])} for entry in found]
    show_rows(found, as_json=as_json, empty="There is no entry. Those of an erased account are found by its id only.")


def _summary(details: dict[str, Any]) -> dict[str, Any]:
    """Return an entry's details as a table has room for them: of several stores, how many rows they are together."""
    return {
        name: f"{sum(store['rows'] for store in part)} rows" if isinstance(part, list) else part
        for name, part in details.items()
    }
