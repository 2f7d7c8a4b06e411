"""The command line: `tiles`, for the operator and the data manager. It parses, calls one function, prints."""

import errno
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
from flask import Flask, current_app
from flask.cli import FlaskGroup, with_appcontext
from sqlalchemy.exc import DBAPIError

from backend import create_app, metrics
from backend.commands import data, operate, publish
from backend.commands.console import Group, as_json_option, progress, show, sure, yes_option
from backend.config import OWNER_ONLY, SettingsError, instance_path, load, make_folder, serve_threads, settings
from backend.database import engine, inventory, schema, scrub
from backend.database.engine import has_file
from backend.database.models import Mail
from backend.errors import Impossible
from backend.logs import configure, say
from backend.mail import queue
from backend.mail.refusals import ServerUnavailable, is_ours
from backend.mail.transport import MAILBOX
from backend.privacy import erasure
from backend.security import hashing, keys
from backend.security.throttle import OFF
from backend.serving import server, worker
from backend.serving.supervisor import finish_event, leave_no_core, open_standard_streams

# More would wait for Python's one lock and for each other; those that wait for a password hash come on top.
THREADS = 8


def main() -> None:
    """Run a command; what an operator can mend is said in a line, not in a traceback, with the folder in use."""
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
    given = load()
    file = given.database.database if given.database.drivername == "sqlite" else None
    if file and not Path(file).exists():
        return f"{given.database_place}: there is no database yet; `tiles db upgrade` makes it, as `tiles serve` does"
    return (
        f"{given.database_place}: the database cannot be used; see that it is there, lets this user in, and was "
        f"brought up to date with `tiles db upgrade` ({type(error).__name__})"
    )


class _Group(FlaskGroup):
    """Flask's group, but knowing its commands without the application: help needs no settings and makes nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(self.commands)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        return self.commands.get(name)


# Most commands only read, or need what is there: those that may make the instance folder say so by `keys.make`.
@click.group(cls=_Group, create_app=partial(create_app, make_instance=False), add_version_option=False)
def tiles() -> None:
    """TILES accounts: a name and an email address, and nothing else.

    Settings come from the environment (TILES_...) or from config.toml in the instance folder; README.md lists them.
    """
    configure()


@tiles.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes.")
@click.option(
    "--threads",
    default=THREADS,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Requests at a time in each process.",
)
@with_appcontext
def serve(host: str, port: int, workers: int, threads: int) -> None:
    """Migrate the database, erase again what a restored backup brought back, start the HTTP server and the worker.

    SIGTERM and Ctrl-C let requests and the mail in hand finish.
    """
    hashing.try_argon2()
    address = _free_address(host, port)
    make_folder(settings().instance_path)
    schema.upgrade()
    keys.begin()
    again = erasure.replay().erased_again
    if again:
        say(f"{again} erased accounts had come back with a restored database, and were erased again.")
    given = settings()
    if given.mail_server is None:
        say("No mail server is set (TILES_MAIL_SERVER): mails go to this terminal and to")
        say(f"{given.instance_path / MAILBOX}")
    if given.rate_limits == OFF:
        say("Limits are OFF (TILES_RATE_LIMITS): for load tests only.", err=True)
    if workers > 1 and given.redis_url is None:
        say("TILES_REDIS_URL is not set: each of the processes counts limits for itself.", err=True)
    # Its connections are not for the processes that are made from this one.
    engine.db.engine.dispose()
    shown = f"[{address}]" if ":" in address else address
    say(f"TILES accounts at http://{shown}:{port} (links in mails start with {given.public_url})")
    serve_threads(threads, workers, metrics.shared_folder() if workers > 1 else None)
    server.run(_app(), address, port, workers)


def _app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001 - Flask's own way to it


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
    """Send mails, erase what is due and tidy up until stopped; run as many of these as you like.

    Each machine writes what it erases into the ledger in its own instance folder: back up all of them.
    SIGTERM and Ctrl-C let the mail in hand finish.
    """
    make_folder(settings().instance_path)
    try:
        keys.begin()
    except DBAPIError:
        # A server that is away is waited for; each round looks at the keys, too.
        if not has_file():
            raise
        keys.make()
    worker.work(_app(), finish_event())


@mail_group.command("deliver")
@as_json_option
@with_appcontext
def mail_deliver(*, as_json: bool) -> None:
    """Send the mails that are due now, once; exits 1 when the mail server is away."""
    make_folder(settings().instance_path)
    keys.begin()
    tried = 0
    try:
        while sent := worker.deliver():
            tried += sent
    except ServerUnavailable as error:
        msg = f"the mail server is away ({error.code}); nothing was lost, try again later"
        raise click.ClickException(msg) from None
    finally:
        scrub.scrub(Mail)
    show({"tried": tried}, as_json=as_json)


@mail_group.command("status")
@as_json_option
@with_appcontext
def mail_status(*, as_json: bool) -> None:
    """Show how many mails wait, are put off and were given up, and the oldest's age.

    \b
    refused      where there are any: mails that the mail server refuses for a reason of ours, by its reply
    unreadable   where there are any: mails set aside because their rows cannot be read
    """  # noqa: D301 - click reads the backspace
    found: dict[str, object] = asdict(queue.status())
    if refused := {code: number for code, number in queue.failures().items() if is_ours(code)}:
        found["refused"] = refused
    if unreadable := queue.failures(given_up=True).get(queue.SET_ASIDE):
        found["unreadable"] = unreadable
    show(found, as_json=as_json)


@mail_group.command("retry")
@as_json_option
@with_appcontext
def mail_retry(*, as_json: bool) -> None:
    """Put every mail that was put off or given up in the queue anew."""
    show({"queued": queue.retry()}, as_json=as_json)


@tiles.group("db", cls=Group)
def db_group() -> None:
    """The database."""


@db_group.command("upgrade")
@as_json_option
@with_appcontext
def db_upgrade(*, as_json: bool) -> None:
    """Bring the database schema to this release's version; safe to run twice, or at the same time."""
    make_folder(settings().instance_path)
    before, after = schema.upgrade()
    if not keys.are_others():
        keys.make()
    show({"from": before, "to": after}, as_json=as_json)


@db_group.command("scrub")
@as_json_option
@with_appcontext
def db_scrub(*, as_json: bool) -> None:
    """Write the database anew, so that no file of it holds bytes of what was deleted.

    \b
    SQLite: the service does this by itself after erasures. Writers wait while the file is written, about a second
    for 100 MB; readers go on. It takes as much memory as the database is large.
    PostgreSQL: each table with data about people is locked while it is written anew (VACUUM FULL): nobody reads or
    writes it meanwhile, about a second for 100 MB. Needs free space as large as the largest table, and the right to
    vacuum. It waits 10 seconds at most for a lock, and then says which table was not done. What the write-ahead log,
    replicas and backups hold is not its business.
    """  # noqa: D301 - click reads the backspace
    tables = inventory.tables_about_people()
    seconds, begun = {}, time.monotonic()
    with progress(len(tables), "Writing anew") as bar:
        for name in scrub.rewrite(tables):
            seconds[name] = round(time.monotonic() - begun, 2)
            begun = time.monotonic()
            bar.update(1)
    if as_json:
        show({"locked_seconds": seconds}, as_json=True)
    else:
        show({name: f"was locked for {taken} s" for name, taken in seconds.items()}, as_json=False)


db_group.add_command(operate.copy_command)


@tiles.group("keys", cls=Group)
def keys_group() -> None:
    """The keys that sign links in mails and receipts of erasures."""


@keys_group.command("rotate")
@click.option(
    "--keep", type=click.IntRange(0), help="Of the keys so far keep only so many, the newest; 0 after a theft."
)
@yes_option
@as_json_option
@with_appcontext
def keys_rotate(*, keep: int | None, yes: bool, as_json: bool) -> None:
    """Sign with a new key from now on; what the older ones signed stays good.

    \b
    Processes of this instance need no restart: the next link is signed with the new key, and each verifies it.
    With --keep the oldest keys leave, and what they signed is refused: links to unsubscribe and those that open a
    closed account again, which have no end of their own, receipts of erasures, and links that still wait to be used.
    After a theft everything that was in the file is known: --keep 0. Sessions are not signed, and go on.
    """  # noqa: D301 - click reads the backspace
    make_folder(settings().instance_path)
    leaving = keys.in_use()[keep:] if keep is not None and keys.exist() else ()
    if leaving:
        sure(
            f"What was signed with the {len(leaving)} oldest of the keys will be refused, for good: unused links, "
            "links to unsubscribe and to open a closed account again, receipts of erasures. Let go of them?",
            yes=yes,
        )
    kept = keys.rotate(leaving)
    show({"older_keys_kept": len(kept), "forgotten": len(leaving)}, as_json=as_json)


@keys_group.command("adopt")
@yes_option
@as_json_option
@with_appcontext
def keys_adopt(*, yes: bool, as_json: bool) -> None:
    """Sign with the keys that are here, though the database knows others.

    \b
    A server and a worker refuse to start, and are not ready, where the database knows none of their keys: another
    machine signs with other keys, or the key file was not brought back after a restore. First look for the old key.
    If it is lost for good, or was stolen, this makes the keys that are here (TILES_SECRET_KEYS, or secret_key in the
    instance folder, which is made if it is missing) those of the database. What others signed is refused from then
    on, and machines that still have them are not ready: restart them with the same keys. Sessions go on.
    """  # noqa: D301 - click reads the backspace
    sure(
        "What other keys signed will be refused, for good: unused links, links to unsubscribe and to open a closed "
        "account again, receipts of erasures. Go on with the keys that are here?",
        yes=yes,
    )
    make_folder(settings().instance_path)
    keys.adopt()
    show({"keys": len(keys.in_use())}, as_json=as_json)


for command in (data.data, *publish.commands, *operate.commands):
    tiles.add_command(command)
