"""Probes of the database and its content, for `tiles check`."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from backend import clock
from backend.config import settings
from backend.database.engine import AnyRow, is_sqlite, reading, sqlite_file
from backend.database.models import AuditEntry
from backend.database.schema import is_current
from backend.errors import Impossible
from backend.mail import queue
from backend.mail.refusals import explain, needs_operator
from backend.privacy import erasure, ledger
from backend.security import keys
from backend.values import is_loopback

SKEW_SECONDS = 5.0
MOUNTS = Path("/proc/self/mounts")
WORKER = "see that `tiles serve` or `tiles mail work` runs, and what its log says"
# A machine does not see another's locks there, or SQLite cannot share the WAL's index.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs"})
POSTGRESQL = text(
    "SELECT clock_timestamp() AS now, host(inet_client_addr()) AS client, "
    "(SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted, current_setting('fsync') AS fsync, "
    "current_setting('full_page_writes') AS full_page_writes, "
    "current_setting('synchronous_commit') AS synchronous_commit, current_setting('log_statement') <> 'none' "
    "OR current_setting('log_min_duration_statement') <> '-1' AS logs, "
    "current_setting('log_parameter_max_length') <> '0' AS logs_values, "
    "current_setting('log_parameter_max_length_on_error') <> '0' AS logs_values_on_error"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a probe under a stable code: `what` describes it, `todo` says how to repair it."""

    code: str
    level: Literal["error", "warning", "fine"]
    what: str
    todo: str = ""


Findings = Iterator[Finding]


def error(code: str, message: str, todo: str = "") -> Finding:
    """Return an error."""
    return Finding(code, "error", message, todo)


def warning(code: str, message: str, todo: str) -> Finding:
    """Return a warning."""
    return Finding(code, "warning", message, todo)


def database() -> Findings:
    """Check that the database is there, has this release's schema, and keeps what it acknowledges."""
    file = sqlite_file()
    if file and not file.exists():
        yield error("database-none", f"there is none at {file} yet", "`tiles db upgrade` or `tiles serve` makes it")
        return
    try:
        current = is_current()
        with reading() as session:
            row = session.execute(text("SELECT 1") if file else POSTGRESQL).one()
    except DBAPIError as failure:
        todo = f"see that {settings().database_place} is the right one, is there and takes writes"
        yield error("database", f"it does not answer, or not to this user ({type(failure).__name__})", todo)
        return
    if not current:
        yield error("schema", "its schema is older than this release's", "run `tiles db upgrade`")
    yield from file_system(file) if file else _postgresql(row)


def file_system(file: Path) -> Findings:
    """Check the file system of SQLite's file."""
    kinds = {}
    for line in MOUNTS.read_text().splitlines() if MOUNTS.exists() else []:
        # A space in a path is written as \040 there.
        place, kind = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), word) for word in line.split()[1:3])
        kinds[place] = kind
    mounted = [place for place in kinds if file.resolve().is_relative_to(place)]
    if mounted and kinds[max(mounted, key=len)] in NETWORK_FILE_SYSTEMS:
        todo = "put it on a disk of this machine, or use PostgreSQL"
        yield error("database-network", "SQLite's file is on a network's file system, where locks fail", todo)


def _postgresql(row: AnyRow) -> Findings:
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if getattr(row, name) == "off":
            message = f"{name} is off: what was acknowledged may be lost"
            yield error("postgresql-durability", message, f"set {name} = on in postgresql.conf")
    if abs((clock.now() - row.now).total_seconds()) > SKEW_SECONDS:
        todo = "let both follow a time server: emails would be sent twice, and links end early"
        yield error("clock", "this machine's clock and the database's differ by more than 5 s", todo)
    if row.client and not is_loopback(row.client) and not row.encrypted:
        todo = "add sslmode=verify-full to TILES_DATABASE_URL"
        yield warning("postgresql-clear", "names and addresses travel to it in clear text", todo)
    if (row.logs and row.logs_values) or row.logs_values_on_error:
        todo = "set log_parameter_max_length and log_parameter_max_length_on_error to 0"
        yield warning("postgresql-log", "its own log has statements with names and addresses", todo)


def signing() -> Findings:
    """Check that the database knows one of this machine's keys."""
    if keys.are_others():
        message = (
            "the database knows other keys: another machine signs with them, or a restore did not bring secret_key"
        )
        yield error(
            "keys-others", message, "put those keys in place or, if they are lost for good, run `tiles keys adopt`"
        )


def mails() -> Findings:
    """Check that emails leave."""
    status, blocked = queue.status(), queue.blocked()
    refused = {code: number for code, number in queue.failures().items() if needs_operator(code)}
    if blocked:
        yield error("mails-blocked", f"no email can be sent ({_counted(blocked)})", explain(min(blocked))[1])
    elif refused:
        message = f"the mail server refuses some emails ({_counted(refused)})"
        yield warning("mails-refused", message, explain(min(refused))[1])
    if status.oldest_seconds > queue.LATE_SECONDS:
        yield error("mails-waiting", f"an email has waited untried for {status.oldest_seconds // 60} minutes", WORKER)
    if status.abandoned:
        message = f"{status.abandoned} were abandoned ({_counted(queue.failures(given_up=True))})"
        todo = "`tiles mail retry` tries again; `unreadable`: a later release made them, or somebody changed them"
        yield warning("mails-given-up", message, todo)


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{code}: {number}" for code, number in numbers.items()) or "waited two days"


def erasures() -> Findings:
    """Check that due accounts are erased, and that the ledger names them."""
    if late := erasure.count_due():
        yield error("erasures-late", f"{late} accounts are due and not erased", WORKER)
    file = ledger.path()
    if file.exists() and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
        todo = f"give {file} to the user that the service runs as"
        yield error("ledger-locked", "the ledger cannot be written: no account can be erased", todo)
        return
    try:
        named = {account for account, _ in ledger.read()}
    except Impossible as damaged:
        yield error("ledger-damaged", str(damaged), "put the newest copy of it in its place")
        return
    with reading() as session:
        rows = session.execute(select(AuditEntry.account_id).where(AuditEntry.act == "erased"))
        erased = {row.account_id.hex for row in rows}
    if missing := len(erased - named):
        message = f"{missing} erased accounts are not in this ledger: a restored backup would bring them back"
        todo = "put the newest copy of erasures.jsonl back, or let all machines share one"
        yield error("ledger-lacks", message, todo) if is_sqlite() else warning("ledger-lacks", message, todo)
