"""`tiles data requests`: the register of requests about personal data, and the erasures that wait."""

import sys
import uuid
from dataclasses import asdict
from datetime import datetime

import click
from flask.cli import with_appcontext

from backend.commands import console
from backend.commands.data import data
from backend.desk import requests

ID = click.argument("request_id", type=click.UUID, metavar="ID")
NAMELESS = "one line without the person's name or address"


@data.group("requests", cls=console.Group, invoke_without_command=True)
@click.option("--overdue", is_flag=True, help="Show only what is late; exit with 1 if anything is.")
@console.as_json_option
@click.pass_context
@with_appcontext
def requests_group(context: click.Context, *, overdue: bool, as_json: bool) -> None:
    """Show what waits for an answer, and when it is due.

    It lists the requests of the register, and the erasures that people asked for by themselves. The law gives a month
    (GDPR Art. 12(3)). A legal hold delays an erasure. If an erasure is late, the service does not run or cannot write
    its ledger.
    """
    if context.invoked_subcommand:
        return
    rows = [asdict(request) for request in requests.waiting(overdue=overdue)]
    console.show_rows(
        rows, as_json=as_json, empty="Nothing is late." if overdue else "No erasure and no request waits."
    )
    if overdue and rows:
        if any(row["id"] is None for row in rows):
            click.echo("See that `tiles serve` or `tiles mail work` runs, and what it logs.", err=True)
        sys.exit(1)


@requests_group.command()
@click.argument("who", type=console.account_reference, metavar="[ADDRESS|ID]", required=False)
@click.option(
    "--kind",
    required=True,
    type=click.Choice(requests.KINDS),
    metavar="KIND",
    help="What is asked for: " + ", ".join(requests.KINDS) + ".",
)
@click.option(
    "--way",
    required=True,
    type=click.Choice(requests.WAYS),
    metavar="WAY",
    help="How it came: " + ", ".join(requests.WAYS) + ".",
)
@click.option("--received", required=True, type=console.day, metavar="YYYY-MM-DD", help="The day on which it came.")
@click.option("--identity", required=True, help=f"How you checked who asks: {NAMELESS}.")
def add(  # noqa: PLR0913 - its options
    who: str | None, kind: str, way: str, received: datetime, identity: str, *, as_json: bool
) -> None:
    """Enter a request about personal data in the register.

    It came by email, letter, phone, in the app or in person. It is due one month after the day on which it came. Leave
    the address out if the person has no account.
    """
    request_id = requests.record(who, kind=kind, way=way, identity=identity, received_on=received.date())
    show(request_id, as_json=as_json)


@requests_group.command()
@ID
@click.option("--reason", required=True, help=f"Why it takes longer: {NAMELESS}.")
def extend(request_id: uuid.UUID, reason: str, *, as_json: bool) -> None:
    """Put a request off by two months, once, before it is due.

    Tell the person, with the reason, within the first month (GDPR Art. 12(3)): no email does it for you.
    """
    requests.extend(request_id, reason=reason)
    show(request_id, as_json=as_json)


@requests_group.command()
@ID
@click.option("--outcome", required=True, help=f"How you answered: {NAMELESS}.")
def done(request_id: uuid.UUID, outcome: str, *, as_json: bool) -> None:
    """Note that a request was answered today."""
    requests.finish(request_id, outcome=outcome)
    show(request_id, as_json=as_json)


@requests_group.command("show")
@ID
def show_request(request_id: uuid.UUID, *, as_json: bool) -> None:
    """Show one request, waiting or answered."""
    show(request_id, as_json=as_json)


@requests_group.command()
def answered(*, as_json: bool) -> None:
    """Show the answered requests, the last answered first."""
    page = requests.answered()
    rows = list(page.rows)
    while page.after:
        page = requests.answered(page.after)
        rows += page.rows
    console.show_rows([row._asdict() for row in rows], as_json=as_json, empty="No request was answered.")


def show(request_id: uuid.UUID, *, as_json: bool) -> None:
    """Print a request as the register has it."""
    console.show(requests.find(request_id)._asdict(), as_json=as_json)
