"""`tiles desk`: who may sign in at the data manager's desk. The shell is where trust begins."""

import click

from backend.accounts.fields import clean_email, clean_name
from backend.commands import console
from backend.config import settings
from backend.database.engine import AnyRow
from backend.desk import managers

ADDRESS = click.argument("address", type=console.checked(clean_email), metavar="ADDRESS")


@console.tiles.group("desk", cls=console.Group)
def desk() -> None:
    """Say who may sign in at the data manager's desk in the browser, /desk."""


@desk.command()
@ADDRESS
@click.option("--name", type=console.checked(clean_name), metavar="NAME", required=True, help="Whom the audit shows.")
def invite(address: str, name: str, *, as_json: bool) -> None:
    """Let somebody sign in at the desk with an email address.

    Tell them the page: /desk at the service's public URL. It emails them a link each time they sign in.
    """
    _show(managers.invite(address, name), as_json=as_json)
    if not settings().desk:
        click.echo("Note: TILES_DESK is off: there is no desk to sign in at.", err=True)
    elif not as_json:
        click.echo(f"They sign in at {settings().public_url}/desk", err=True)


def _show(manager: AnyRow, *, as_json: bool) -> None:
    console.show(manager._asdict(), as_json=as_json)


@desk.command("list")
def list_managers(*, as_json: bool) -> None:
    """Show who may sign in at the desk."""
    rows = [manager._asdict() for manager in managers.listed()]
    console.show_rows(rows, as_json=as_json, empty="Nobody may: see `tiles desk invite`.")


@desk.command()
@ADDRESS
def remove(address: str, *, as_json: bool) -> None:
    """Remove a data manager, who is signed out at once.

    What they did stays in the audit under their name, for as long as the audit is kept.
    """
    _show(managers.remove(address), as_json=as_json)
