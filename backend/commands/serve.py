"""The entry point `tiles`, and the commands that serve and that send emails."""

import errno
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError

from backend import metrics
from backend.commands import data, data_changes, desk, feedback, operate, publish, requests
from backend.commands.console import Group, show, tiles
from backend.config import OWNER_ONLY, SettingsError, instance_path, load, serve_threads, settings
from backend.database import engine, schema, scrub
from backend.database.models import Mail
from backend.errors import Impossible
from backend.files import make_folder
from backend.logs import say
from backend.mail import delivery, queue
from backend.mail.refusals import ServerUnavailable, explain, needs_operator
from backend.mail.transport import MAILBOX
from backend.privacy import announcements, erasure
from backend.security import hashing, keys
from backend.serving import server, worker
from backend.serving.supervisor import finish_event, leave_no_core, open_standard_streams

# The modules are imported for their commands.
__all__ = ["data", "data_changes", "desk", "feedback", "main", "operate", "publish", "requests", "tiles"]

# More threads would wait for the GIL and for each other. Requests that wait for a password hash have their own.
THREADS = 8


def main() -> None:
    """Run a command; print an operator's mistake as one line with the folder in use, without a traceback."""
    os.umask(OWNER_ONLY)
    leave_no_core()
    open_standard_streams()
    try:
        sys.exit(tiles.main(standalone_mode=False))
    except click.Abort:
        _fail("aborted", 1)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (SettingsError, Impossible) as error:
        _fail(str(error), 2)
    except DBAPIError as error:
        _fail(_database_error(error), 1)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    with suppress(SettingsError):
        folder = str(instance_path())
        if folder not in message:
            click.echo(f"Instance folder: {folder}", err=True)
    sys.exit(status)


def _database_error(error: DBAPIError) -> str:
    loaded = load()
    file = loaded.database.database if loaded.database.drivername == "sqlite" else None
    if file and not Path(file).exists():
        return f"{loaded.database_place}: there is no database yet; `tiles db upgrade` and `tiles serve` create it"
    return (
        f"{loaded.database_place}: the database cannot be used; check that it exists, accepts this user, and was "
        f"migrated by `tiles db upgrade` ({type(error).__name__})"
    )


@tiles.command(as_json=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes.")
@click.option(
    "--threads", default=THREADS, show_default=True, type=click.IntRange(1, 256), help="Threads in each process."
)
def serve(host: str, port: int, workers: int, threads: int) -> None:
    """Migrate the database, and start the HTTP server and the mail worker.

    First it erases again the accounts that a restored backup brought back.
    SIGTERM and Ctrl-C let the present requests and the present email finish.
    """
    hashing.check_argon2()
    address = _free_address(host, port)
    make_folder(settings().instance_path)
    schema.upgrade()
    keys.begin()
    erased_again = erasure.replay().erased_again
    if erased_again:
        say(f"Erased {erased_again} accounts again: the restored database had brought them back.")
    _say_what_is_not_for_production(workers)
    # The child processes must not share its connections.
    engine.db.engine.dispose()
    shown = f"[{address}]" if ":" in address else address
    say(f"Serving TILES accounts at http://{shown}:{port}. Links in emails start with {settings().public_url}.")
    serve_threads(threads, workers, metrics.shared_folder() if workers > 1 else None)
    server.run(_app(), address, port, workers)


def _say_what_is_not_for_production(workers: int) -> None:
    if settings().mail_server is None:
        say("No mail server is set (TILES_MAIL_SERVER). Emails go to this terminal and to the folder")
        say(f"{settings().instance_path / MAILBOX}")
    if not settings().is_limited:
        say("Limits are off (TILES_RATE_LIMITS). Turn them off for load tests only.")
    if workers > 1 and settings().redis_url is None:
        say("TILES_REDIS_URL is not set. Each process counts limits on its own.")


def _app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001 - Flask's way to the object


def _free_address(host: str, port: int) -> str:
    """Return the numeric address to listen on. granian itself would share the port with another of its kind."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except UnicodeError:
        raise click.BadParameter(f"'{host}' is no host name") from None
    except OSError as error:
        reason = f"port {port} is in use" if error.errno == errno.EADDRINUSE else f"the service cannot listen on {host}"
        raise click.ClickException(f"{reason} ({error.strerror}): choose another with --host and --port") from None
    return str(address[0])


@tiles.group("mail", cls=Group)
def mail_group() -> None:
    """Send emails, show the queue, and retry."""


@mail_group.command("work", as_json=False)
def mail_work() -> None:
    """Send emails, erase what is due and tidy up until stopped. Any number of these may run.

    Each machine writes its erasures into the ledger in its own instance folder: back up all of them.
    SIGTERM and Ctrl-C let the present email finish.
    """
    make_folder(settings().instance_path)
    try:
        keys.begin()
    except DBAPIError:
        # It waits for a PostgreSQL that is down; each round checks the keys too.
        if not engine.has_file():
            raise
        keys.make()
    else:
        # As the server does at its start: the database may be a backup.
        erasure.replay()
    worker.work(_app(), finish_event())


@mail_group.command("deliver")
def mail_deliver(*, as_json: bool) -> None:
    """Send the emails that are due now, once; exits with 1 when the mail server is away."""
    make_folder(settings().instance_path)
    keys.begin()
    tried = 0
    try:
        while (sent := delivery.deliver()) or announcements.queue_some():
            tried += sent
    except ServerUnavailable as error:
        fault, advice = explain(error.code)
        msg = f"the mail server is away ({error.code}): {fault}; {advice}; nothing was lost"
        raise click.ClickException(msg) from None
    finally:
        scrub.scrub(Mail)
    show({"tried": tried}, as_json=as_json)


@mail_group.command("status")
def mail_status(*, as_json: bool) -> None:
    """Show how many emails wait, are retried or were abandoned.

    The oldest seconds are the age of the oldest email that was not tried yet.

    \b
    refused      if any: emails that the mail server refuses until the operator acts, by its response
    unreadable   if any: emails set aside because their rows cannot be read
    """  # noqa: D301
    status: dict[str, object] = asdict(queue.status())
    if refused := {code: number for code, number in queue.failures().items() if needs_operator(code)}:
        status["refused"] = refused
    if unreadable := queue.failures(given_up=True).get(queue.SET_ASIDE):
        status["unreadable"] = unreadable
    show(status, as_json=as_json)


@mail_group.command("retry")
def mail_retry(*, as_json: bool) -> None:
    """Queue again every email that waits for a retry or was abandoned."""
    show({"queued": queue.retry()}, as_json=as_json)
