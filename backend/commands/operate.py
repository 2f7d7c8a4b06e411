"""Commands for the operator: checks, the database, backups and keys."""

import logging
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click
from flask.cli import ScriptInfo

from backend.commands import check
from backend.commands.console import Group, confirm, dump, progress, show, tiles, yes_option
from backend.config import settings
from backend.database import backup, copying, inventory, schema, scrub
from backend.database.engine import is_sqlite
from backend.files import make_folder
from backend.privacy import erasure
from backend.security import keys

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
REFUSED = (
    "links to unsubscribe, links that open a closed account again, unused links, and receipts of erasures; for good"
)


class _OnPostgresql(click.ClickException):
    exit_code = 2


@tiles.command("check", with_appcontext=False)
@click.pass_context
def check_command(context: click.Context, *, as_json: bool) -> None:
    """Find problems of this installation before its users do; exit with 1 if there are any.

    Run it as the user, on the machine and with the settings that the service has. It changes nothing, offers an email
    to the mail server without sending it, and waits at most 5 seconds for each probe.
    """
    create_app = context.ensure_object(ScriptInfo).create_app
    assert create_app
    findings, app = check.prepare(create_app)
    with progress(len(check.PROBES), "Checking") as bar:
        for part in check.run(app) if app else ():
            findings += part
            bar.update(1)
    if as_json:
        click.echo(dump([asdict(finding) for finding in findings]))
    for finding in findings if not as_json else ():
        click.echo(f"{finding.level:<7}  {finding.code}: {finding.what}")
        if finding.todo:
            click.echo(f"         → {finding.todo}")
    context.exit(any(finding.level == "error" for finding in findings))


@tiles.command("backup")
@FILE
def backup_command(file: Path, *, as_json: bool) -> None:
    """Copy the database into a new FILE while the service runs.

    FILE is readable by its owner only, and appears when it is complete and checked. A command that is killed leaves
    files with .part in their names: delete them. On PostgreSQL this prints the pg_dump command that does the same.

    \b
    Keep two more files of the instance folder, both apart from FILE:
      erasures.jsonl   the ids of erased accounts. Copy it after FILE, and more often: a restore erases again every
                       account that the newest copy names.
      secret_key       signs links and receipts. Everybody who has it can make links.
    """  # noqa: D301
    _sqlite_only(f"(umask 077 && pg_dump --format=custom --no-owner --file={shlex.quote(str(file))} "
                 '--dbname="$TILES_DATABASE_URL")')  # fmt: skip
    copied = backup.make(file)
    show({"file": str(file), "bytes": copied.bytes, "schema": copied.schema}, as_json=as_json)


@tiles.command("restore")
@FILE
@yes_option
def restore_command(file: Path, *, yes: bool, as_json: bool) -> None:
    """Replace the database with a backup, and erase again the accounts that were erased since.

    First stop every `tiles serve` and `tiles mail work`. Put the newest erasures.jsonl back into the instance folder if
    it was lost. Do not copy FILE there by hand: SQLite would mix it with the log (-wal) of the old database. On
    PostgreSQL this prints the pg_restore command that does the same.
    """
    _sqlite_only('pg_restore --exit-on-error --single-transaction --no-owner --dbname="$TILES_DATABASE_URL" '
                 f"{shlex.quote(str(file))}")  # fmt: skip
    if backup.database().exists():
        confirm(f"Everything that {backup.database()} holds now will be gone. Restore {file}?", yes=yes)
    make_folder(settings().instance_path)
    restored = backup.restore(file)
    _, version = schema.upgrade()
    erased_again = erasure.replay().erased_again
    if keys.are_others():
        click.echo("Note: the database knows other keys than are here: bring back the secret_key of that time, or run "
                   "`tiles keys adopt`. Nothing is served or sent before.", err=True)  # fmt: skip
    show({"schema_before": restored.schema, "schema": version, "erased_again": erased_again}, as_json=as_json)


def _sqlite_only(instead: str) -> None:
    if not is_sqlite():
        raise _OnPostgresql(f"on PostgreSQL: {instead}")


@tiles.group("db", cls=Group)
def db_group() -> None:
    """Migrate, rewrite or copy the database."""


@db_group.command("upgrade")
def db_upgrade(*, as_json: bool) -> None:
    """Migrate the database to this release's schema. It may run twice, or several times at once."""
    make_folder(settings().instance_path)
    before, after = schema.upgrade()
    if not keys.are_others():
        keys.make()
    show({"from": before, "to": after}, as_json=as_json)


@db_group.command("scrub")
def db_scrub(*, as_json: bool) -> None:
    """Rewrite the database, so that none of its files holds bytes of deleted rows.

    \b
    SQLite: the service does this by itself after erasures. Writers wait, about a second for 100 MB; readers do not. It
    needs as much memory as the database is large.
    PostgreSQL: VACUUM FULL locks one table with data about people after the other, about a second for 100 MB, and needs
    free space as large as the largest. It does not reach the write-ahead log, replicas and backups.
    """  # noqa: D301
    tables = inventory.tables_about_people()
    seconds, started_at = {}, time.monotonic()
    with progress(len(tables), "Rewriting") as bar:
        for name in scrub.rewrite(tables):
            seconds[name] = round(time.monotonic() - started_at, 2)
            started_at = time.monotonic()
            bar.update(1)
    shown = {name: f"was locked for {taken} s" for name, taken in seconds.items()}
    show({"locked_seconds": seconds} if as_json else shown, as_json=as_json)


@db_group.command("copy")
@click.option("--to", "to", metavar="URL", required=True, help="postgresql://…, or - to ask for it or read it.")
def copy_command(to: str, *, as_json: bool) -> None:
    """Copy every row of SQLite into an empty PostgreSQL.

    First stop every `tiles serve` and `tiles mail work`: later writes are not copied. The source is only read. All rows
    are compared at the end; a failure or an interruption leaves no row in the target.

    \b
    With --to - the URL is read from standard input, or asked for without echo: the process list shows arguments.
    Afterwards set TILES_DATABASE_URL to the same URL, start the service, and run `tiles check`. When all is well delete
    SQLite's file with its -wal and -shm: an erasure in PostgreSQL does not reach it.
    """  # noqa: D301
    # psycopg logs a warning with the values of a row that fails.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    url = copying.target(_read_unseen() if to == "-" else to)
    with progress(copying.count(), "Copying") as bar:
        copied = copying.copy(url, bar.update)
    show({"copied": copied} if as_json else copied, as_json=as_json)
    if not as_json:
        click.echo("All rows are the same on both sides. Set TILES_DATABASE_URL to the new database, and start the "
                   "service.", err=True)  # fmt: skip


def _read_unseen() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("URL of the empty database", hide_input=True, err=True))
    return sys.stdin.readline()


@tiles.group("keys", cls=Group)
def keys_group() -> None:
    """Change the keys that sign emailed links and receipts of erasures."""


@keys_group.command("rotate")
@click.option(
    "--keep", type=click.IntRange(0), help="Keep only so many of the present keys, the newest; 0 after a theft."
)
@yes_option
def keys_rotate(*, keep: int | None, yes: bool, as_json: bool) -> None:
    """Sign with a new key from now on; links and receipts that older keys signed stay valid.

    Processes of this instance need no restart. With --keep the oldest keys are removed, and everything that they signed
    is refused, receipts of erasures and links to unsubscribe too. After a theft use --keep 0. Sessions go on.
    """
    make_folder(settings().instance_path)
    removed = keys.in_use()[keep:] if keep is not None and keys.exist() else ()
    if removed:
        confirm(f"The {len(removed)} oldest keys signed what will be refused: {REFUSED}. Remove them?", yes=yes)
    kept = keys.rotate(removed)
    show({"older_keys_kept": len(kept), "forgotten": len(removed)}, as_json=as_json)


@keys_group.command("adopt")
@yes_option
def keys_adopt(*, yes: bool, as_json: bool) -> None:
    """Sign with the keys of this machine, although the database knows others.

    A server refuses to start if the database knows none of its keys: another machine signs with others, or the key file
    is missing after a restore. First look for the old key. If it is lost or stolen, this replaces the database's keys
    with those of this machine (TILES_SECRET_KEYS, or secret_key in the instance folder). Sessions go on.
    """
    confirm(f"Other keys signed what will be refused: {REFUSED}. Go on with the keys that are here?", yes=yes)
    make_folder(settings().instance_path)
    keys.adopt()
    show({"keys": len(keys.in_use())}, as_json=as_json)
