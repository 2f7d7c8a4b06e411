"""The command line: `tiles`, for the operator and the data manager. It parses, calls one function, prints."""

import errno
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click
from flask import current_app
from flask.cli import FlaskGroup, with_appcontext
from sqlalchemy.exc import DBAPIError

from backend import create_app, db, feedback, mail, policy, worker
from backend.config import OWNER_ONLY, SettingsError, settings
from backend.hashing import LINE
from backend.logs import configure
from backend.models import Mail
from backend.throttle import OFF
from backend.transport import MAILBOX, ServerUnavailable

GRACE_SECONDS = 20
SHOWN = 80


def main() -> None:
    """Run a command; what an operator can mend is said in a line, not in a traceback."""
    os.umask(OWNER_ONLY)
    try:
        tiles.main()
    except SettingsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except DBAPIError as error:
        click.echo(
            "Error: TILES_DATABASE_URL: the database cannot be used; see that it is there, lets this user in, and was "
            f"brought up to date with `tiles db upgrade` ({type(error).__name__})",
            err=True,
        )
        sys.exit(1)


class _Group(FlaskGroup):
    """Flask's group, but knowing its commands without the application: help needs no settings and makes nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(self.commands)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        return self.commands.get(name)


@click.group(cls=_Group, create_app=create_app, add_version_option=False)
def tiles() -> None:
    """TILES accounts: a name and an email address, and nothing else.

    Settings come from the environment (TILES_...) or from config.toml in the instance folder; README.md lists them.
    """
    configure()


def _as_json(function: Callable[..., None]) -> Callable[..., None]:
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
    return option(function)


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {'none' if value is None else value}")


@tiles.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes.")
@click.option(
    "--threads", default=2 * LINE, show_default=True, type=click.IntRange(1, 256), help="Threads in each process."
)
@with_appcontext
def serve(host: str, port: int, workers: int, threads: int) -> None:
    """Migrate the database, start the HTTP server and the mail worker, and print the address.

    SIGTERM and Ctrl-C let requests and the mail in hand finish.
    """
    address = _free_address(host, port)
    db.upgrade()
    given = settings()
    if given.mail_server is None:
        click.echo("No mail server is set (TILES_MAIL_SERVER): mails go to this terminal and to")
        click.echo(f"{given.instance_path / MAILBOX}")
    if given.rate_limits == OFF:
        click.echo("Limits are OFF (TILES_RATE_LIMITS): for load tests only.", err=True)
    if workers > 1 and given.redis_url is None:
        click.echo("TILES_REDIS_URL is not set: each of the processes counts limits for itself.", err=True)
    shown = f"[{address}]" if ":" in address else address
    click.echo(f"TILES accounts at http://{shown}:{port} (links in mails start with {given.public_url})")
    sys.stdout.flush()
    # A process of its own kind: the supervisor then carries nothing of the application. It is told where this package
    # is, or it would look for one of this name in the working directory first.
    package = Path(__file__).parent
    os.execv(sys.executable, [  # noqa: S606 - no shell, and every word is ours
        sys.executable, "-P", "-m", "granian", f"{package / 'server.py'}:application", "--factory",
        "--working-dir", str(package.parent), "--interface", "wsgi",
        "--host", address, "--port", str(port), "--workers", str(workers), "--blocking-threads", str(threads),
        "--http", "1", "--no-ws", "--log-level", "error", "--respawn-failed-workers",
        "--workers-kill-timeout", str(GRACE_SECONDS),
    ])  # fmt: skip


def _free_address(host: str, port: int) -> str:
    """Return the numeric address to listen on. The HTTP server itself would share a port with another of its kind."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = f"port {port} is in use" if error.errno == errno.EADDRINUSE else f"{host} cannot be listened on"
        raise click.ClickException(f"{reason} ({error.strerror}): choose another with --host and --port") from None
    return str(address[0])


@tiles.group("mail")
def mail_group() -> None:
    """The mail queue."""


@mail_group.command("work")
@with_appcontext
def mail_work() -> None:
    """Send mails until stopped; run as many of these as you like.

    SIGTERM and Ctrl-C let the mail in hand finish.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker.work(current_app._get_current_object(), stop)  # type: ignore[attr-defined]  # noqa: SLF001 - Flask's own way to it


@mail_group.command("deliver")
@_as_json
@with_appcontext
def mail_deliver(*, as_json: bool) -> None:
    """Send the mails that are due now, once; exits 1 when the mail server is away."""
    tried = 0
    try:
        while sent := mail.deliver():
            tried += sent
    except ServerUnavailable as error:
        msg = f"the mail server is away ({error.code}); nothing was lost, try again later"
        raise click.ClickException(msg) from None
    finally:
        db.scrub(Mail)
    _print({"tried": tried}, as_json=as_json)


@mail_group.command("status")
@_as_json
@with_appcontext
def mail_status(*, as_json: bool) -> None:
    """Show how many mails wait, are put off and were given up, and the oldest's age."""
    _print(asdict(mail.status()), as_json=as_json)


@mail_group.command("retry")
@_as_json
@with_appcontext
def mail_retry(*, as_json: bool) -> None:
    """Put every mail that was put off or given up in the queue anew."""
    _print({"queued": mail.retry()}, as_json=as_json)


@tiles.group("db")
def db_group() -> None:
    """The database."""


@db_group.command("upgrade")
@_as_json
@with_appcontext
def db_upgrade(*, as_json: bool) -> None:
    """Bring the database schema to this release's version; safe to run twice, or at the same time."""
    before, after = db.upgrade()
    _print({"from": before, "to": after}, as_json=as_json)


@tiles.group("policy")
def policy_group() -> None:
    """The privacy policy."""


@policy_group.command("publish")
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option("--version", required=True, help="What the version is called, such as 2026-11.")
@click.option("--effective", required=True, type=click.DateTime(["%Y-%m-%d"]), help="From which day (UTC) it counts.")
@_as_json
@with_appcontext
def policy_publish(file: IO[str], version: str, effective: datetime, *, as_json: bool) -> None:
    """Publish the plain text in FILE as a version of the policy; it cannot be changed afterwards.

    From its day on it is shown at /privacy and named by GET /v1/policy. Publishing the same again changes nothing.
    """
    try:
        published = policy.publish(version=version, effective_on=effective.date(), text=file.read())
    except (policy.PolicyError, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from None
    _print(asdict(published) | {"effective_on": published.effective_on.isoformat()}, as_json=as_json)


@tiles.group("feedback")
def feedback_group() -> None:
    """What people wrote from the app."""


def _feedback() -> list[dict[str, Any]]:
    return [
        {**row._asdict(), "id": str(row.id), "received_at": f"{row.received_at:%Y-%m-%dT%H:%M:%SZ}"}
        for row in feedback.listed()
    ]


@feedback_group.command("list")
@_as_json
@with_appcontext
def feedback_list(*, as_json: bool) -> None:
    """Show the messages, the newest first, each with the beginning of what it says."""
    found = _feedback()
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found:
        signed_in = "signed in" if entry["signed_in"] else "anonymous"
        click.echo(f"{entry['received_at']}  {signed_in:<9}  {' '.join(entry['message'].split())[:SHOWN]}")


@feedback_group.command("export")
@click.option("--output", type=click.File("w", encoding="utf-8"), default="-", help="A file; else the terminal.")
@with_appcontext
def feedback_export(output: IO[str]) -> None:
    """Write all messages, whole, as one JSON document."""
    json.dump({"feedback": _feedback()}, output, ensure_ascii=False, indent=2)
    output.write("\n")
