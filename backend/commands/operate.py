"""Commands for the operator: what is wrong with this installation, backups and their return."""

import logging
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click
from flask.cli import ScriptInfo, with_appcontext

from backend.commands import check
from backend.commands.console import Command, as_json_option, dump, progress, show, sure, yes_option
from backend.commands.probes import Finding
from backend.config import make_folder, settings
from backend.database import backup, copying, schema
from backend.privacy import erasure
from backend.security import keys

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
SHOW_PROGRESS_AFTER_SECONDS = 2.0


class _Elsewhere(click.ClickException):
    exit_code = 2


@click.command("check")
@as_json_option
@click.pass_context
def check_command(context: click.Context, *, as_json: bool) -> None:
    """Find what is wrong with this installation before its users do; exits 1 when something is.

    It looks at the settings, the files, the database, Redis, the clock and the queue. It makes one password hash, and
    offers a mail to the mail server without sending it. It changes nothing, and waits 5 seconds at most for each.

    \b
    error     people meet it, or a promise is not kept: mend it before you serve
    warning   know it, and decide
    fine      nothing is wrong there

    Run it as the user, on the machine and with the settings that the service has.
    """  # noqa: D301 - click reads the backspace
    create_app = context.ensure_object(ScriptInfo).create_app
    assert create_app
    begun = time.monotonic()
    findings, app = check.prepare(create_app)
    bar = progress(len(check.PROBES), "Checking")
    on_terminal, bar.hidden = not bar.hidden, True
    with bar:
        for found in check.run(app) if app else ():
            findings += found
            bar.hidden = not on_terminal or time.monotonic() - begun < SHOW_PROGRESS_AFTER_SECONDS
            bar.update(1)
    _show(findings, as_json=as_json)
    context.exit(any(finding.level == "error" for finding in findings))


@click.command("backup", cls=Command)
@FILE
@as_json_option
@with_appcontext
def backup_command(file: Path, *, as_json: bool) -> None:
    """Copy the database into FILE, while the service goes on.

    FILE is new, readable by its owner only, and appears when it is whole, checked and on the disk. It has everything
    that was acknowledged before, and no byte of what was deleted before. It takes about a second for 100 MB, and
    nobody waits meanwhile. What is killed half-way leaves files with .part in their names: delete them.

    \b
    Two more files of the instance folder are to be kept, both apart from FILE:
      erasures.jsonl   who was erased. Copy it later than FILE, and more often: a restored database is compared with
                       the newest one, and whoever is in it is erased again.
      secret_key       signs links and receipts. Whoever has it can make links.

    Who is erased is not erased from FILE: keep backups no longer than you must. `tiles restore` brings one back.
    On PostgreSQL this says which pg_dump does the same, and exits 2.
    """  # noqa: D301 - click reads the backspace
    _sqlite_only(f"(umask 077 && pg_dump --format=custom --no-owner --file={shlex.quote(str(file))} "
                 '--dbname="$TILES_DATABASE_URL")')  # fmt: skip
    copied = backup.make(file)
    show({"file": str(file), "bytes": copied.bytes, "schema": copied.schema}, as_json=as_json)


@click.command("restore", cls=Command)
@FILE
@yes_option
@as_json_option
@with_appcontext
def restore_command(file: Path, *, yes: bool, as_json: bool) -> None:
    """Put a backup in the place of the database, and erase again who was erased since.

    Stop every `tiles serve` and `tiles mail work` first; it refuses while one runs. First put the newest erasures.jsonl
    back into the instance folder, if it was lost too. Then: FILE is checked and copied, the old database and its log
    leave, the schema is brought to this release's version, and whom the ledger names is erased again, untold.

    Do not copy FILE there by hand: SQLite would mix it with the log (-wal) that the old database may have left.
    On PostgreSQL this says which pg_restore does the same, and exits 2.
    """
    _sqlite_only('pg_restore --exit-on-error --single-transaction --no-owner --dbname="$TILES_DATABASE_URL" '
                 f"{shlex.quote(str(file))}")  # fmt: skip
    if backup.database().exists():
        sure(f"Everything that {backup.database()} holds now will be gone. Restore {file}?", yes=yes)
    make_folder(settings().instance_path)
    restored = backup.restore(file)
    _, version = schema.upgrade()
    again = erasure.replay().erased_again
    if keys.are_others():
        click.echo("Note: the database knows other keys than are here: bring back the secret_key of that time, or run "
                   "`tiles keys adopt`. Nothing is served or sent before.", err=True)  # fmt: skip
    show({"schema_before": restored.schema, "schema": version, "erased_again": again}, as_json=as_json)


@click.command("copy", cls=Command)
@click.option("--to", "to", metavar="URL", required=True, help="postgresql://…, or - to ask for it or read it.")
@as_json_option
@with_appcontext
def copy_command(to: str, *, as_json: bool) -> None:
    """Copy every row of SQLite into an empty PostgreSQL.

    Stop every `tiles serve` and `tiles mail work` first: what is written after the copy begins is not in it. The source
    is only read. The target is brought to this release's schema, and refused if any of its tables has a row. All rows
    are compared at the end; what fails or is interrupted leaves no row in the target.

    \b
    With --to - the URL is read from standard input, or asked for unseen: an argument is seen in the process list.
    Afterwards set TILES_DATABASE_URL to the same URL, start the service, and see what `tiles check` says. The ledger
    and the keys stay where they are. Keep SQLite's file until all is well, then delete it and its -wal and -shm: who
    is erased from PostgreSQL is not erased from it.
    """  # noqa: D301 - click reads the backspace
    # It warns of what is raised, with what is in the row.
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


def _sqlite_only(instead: str) -> None:
    if not backup.is_possible():
        raise _Elsewhere(f"on PostgreSQL: {instead}")


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        click.echo(dump([asdict(finding) for finding in findings]))
        return
    for finding in findings:
        click.echo(f"{finding.level:<7}  {finding.code}: {finding.what}")
        if finding.todo:
            click.echo(f"         → {finding.todo}")


commands = (check_command, backup_command, restore_command)
