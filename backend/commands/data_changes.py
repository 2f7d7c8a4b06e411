"""`tiles data`: the commands that correct an account, close it and open it again."""

from dataclasses import asdict

import click

from backend.accounts.fields import clean_email, clean_name
from backend.commands import console
from backend.commands.data import WHO, account_values, data
from backend.desk import operations


@data.command()
@WHO
@click.argument("name", type=console.checked(clean_name), required=False)
@click.option("--remove", is_flag=True, help="Instead: remove the name.")
def rename(who: str, name: str | None, *, remove: bool, as_json: bool) -> None:
    """Correct or remove the name of an account."""
    if remove == (name is not None):
        raise click.UsageError("give the correct name, or --remove")
    console.show(account_values(operations.rename(who, name)), as_json=as_json)


@data.command()
@WHO
def unsubscribe(who: str, *, as_json: bool) -> None:
    """Stop emails about TILES to an account.

    Emails about the account itself still go out.
    """
    console.show(account_values(operations.unsubscribe(who)), as_json=as_json)


@data.command()
@WHO
def subscribe(who: str, *, as_json: bool) -> None:
    """Send emails about TILES to an account again.

    Do it only if the person asks for it.
    """
    console.show(account_values(operations.subscribe(who)), as_json=as_json)


@data.command("change-email")
@WHO
@click.argument("new", type=console.checked(clean_email), metavar="NEW_ADDRESS")
def change_email(who: str, new: str, *, as_json: bool) -> None:
    """Email a link to a new address of an account.

    The address counts once somebody opens the link. Then the old address gets an email with a link that undoes it.
    """
    console.show(account_values(operations.request_email_change(who, new)), as_json=as_json)


@data.command()
@WHO
@console.yes_option
def reopen(who: str, *, yes: bool, as_json: bool) -> None:
    """Open a closed account again.

    It is as it was, and the person gets an email. An erasure that waits does not happen.
    """
    console.confirm(f"Open the account of {who} again?", yes=yes)
    console.show(account_values(operations.reopen(who)), as_json=as_json)


@data.command()
@WHO
@console.yes_option
def cancel(who: str, *, yes: bool, as_json: bool) -> None:
    """Cancel an erasure that waits, and open the account again.

    It does the same as the link in the email about the closed account. The person gets an email.
    """
    console.confirm(f"Cancel the erasure of {who}, and open the account again?", yes=yes)
    console.show(account_values(operations.reopen(who, erasure=True)), as_json=as_json)


@data.command()
@WHO
@console.yes_option
def close(who: str, *, yes: bool, as_json: bool) -> None:
    """Close an account, and keep it for now.

    Every session ends. It is erased after TILES_CLOSED_RETENTION_DAYS; until then the link in the email to the person
    opens it again.
    """
    console.confirm(f"Close the account of {who}?", yes=yes)
    console.show(asdict(operations.close(who)), as_json=as_json)
