"""What is wrong with an installation, found before its users do: every probe run, and the parts around it asked."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from logging.handlers import MemoryHandler
from typing import Any

from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from backend import clock, config
from backend.commands import probes
from backend.commands.probes import Finding, Probe, is_loopback, is_sqlite, sqlite_file
from backend.config import SettingsError, settings
from backend.database.engine import AnyRow, reading
from backend.database.models import AuditEntry
from backend.database.schema import is_current
from backend.errors import Impossible
from backend.mail import messages
from backend.mail import queue as mail
from backend.mail.refusals import Refused, ServerUnavailable, code_of, is_ours, trouble
from backend.mail.transport import MAILBOX, Connection
from backend.privacy import erasure, ledger
from backend.security import keys
from backend.security.throttle import OFF

SECONDS = 5.0
SKEW_SECONDS = 5.0
OLDEST_MAIL_SECONDS = 3600
OLDEST_POSTGRESQL = 13
OLDEST_REDIS = 7
POSTGRESQL = text(
    "SELECT CAST(current_setting('server_version_num') AS integer) / 10000 AS version, pg_is_in_recovery() AS standby, "
    "clock_timestamp() AS now, host(inet_client_addr()) AS client, "
    "(SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted, current_setting('fsync') AS fsync, "
    "current_setting('full_page_writes') AS full_page_writes, "
    "current_setting('synchronous_commit') AS synchronous_commit, current_setting('log_statement') <> 'none' "
    "OR current_setting('log_min_duration_statement') <> '-1' AS logs, "
    "current_setting('log_parameter_max_length') <> '0' AS logs_values, "
    "current_setting('log_parameter_max_length_on_error') <> '0' AS logs_values_on_error"
)


def prepare(create_app: Callable[[], Flask]) -> tuple[list[Finding], Flask | None]:
    """Read the settings; return what is wrong with them, and the application unless they make no sense."""
    with _warnings_of(config.log) as warned:
        try:
            app = create_app()
        except SettingsError as error:
            return [Finding("settings", "error", line) for line in str(error).splitlines()], None
    unknown = [Finding("settings-unknown", "warning", record.getMessage(), "it does nothing: correct or remove it")
               for record in warned]  # fmt: skip
    return unknown or [Finding("settings", "fine", "each setting makes sense")], app


@contextmanager
def _warnings_of(log: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """Collect what is logged, instead of letting it be seen."""
    handler = MemoryHandler(capacity=1000)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield handler.buffer
    finally:
        log.removeHandler(handler)
        log.propagate = True


def run(app: Flask) -> Iterator[list[Finding]]:
    """Run each probe, for 5 seconds at most, and return what it found."""
    away = False
    for name, (probe, fine) in PROBES.items():
        if away and probe in NEED_DATABASE:
            yield []
            continue
        found = _look(app, name, probe) or [Finding(name, "fine", fine)]
        away = away or (probe is database and found[0].level == "error")
        yield found


def _look(app: Flask, name: str, probe: Probe) -> list[Finding]:
    found: list[Finding] = []

    def look() -> None:
        with app.app_context():
            try:
                found.extend(probe())
            except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
                found.append(Finding(name, "error", f"cannot be looked at ({type(error).__name__})"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        return [Finding(name, "error", f"no answer within {SECONDS:.0f} s", "see that it is there, and not too busy")]
    return found


def mail_server() -> Iterator[Finding]:
    """Make a mail and offer it to the mail server as every mail is offered, and take it back before it is sent."""
    given = settings()
    if not given.mail_server:
        yield Finding("mail-server", "error", f"there is none: mails go to the folder {MAILBOX}/ and to nobody",
                      "set TILES_MAIL_SERVER")  # fmt: skip
        return
    try:
        with closing(Connection()) as connection:
            connection.probe(messages.probe())
    except Exception as error:  # noqa: BLE001 - each mail would fail with it, too
        # A server that has not heard of us before may ask to be tried again.
        if not isinstance(error, Refused) or error.is_permanent:
            code = error.code if isinstance(error, ServerUnavailable) else code_of(error)
            what, todo = trouble(code)
            yield Finding("mail-server", "error", f"{what} ({code})", todo)
            return
    if not (given.mail_use_tls or given.mail_use_ssl or is_loopback(given.mail_server)):
        yield Finding("mail-clear", "warning", "mails and the links in them travel to the mail server in clear",
                      "set TILES_MAIL_USE_TLS or TILES_MAIL_USE_SSL")  # fmt: skip


def limits() -> Iterator[Finding]:
    """Look at whether there are limits, and where they are counted."""
    given = settings()
    if given.rate_limits == OFF:
        yield Finding("limits-off", "error", "passwords can be guessed, and anybody mailed, without a limit",
                      "take `off` out of TILES_RATE_LIMITS")  # fmt: skip
    if not given.redis_url:
        if not is_sqlite():
            yield Finding("redis-none", "warning", "each process counts limits for itself",
                          "set TILES_REDIS_URL where there is more than one")  # fmt: skip
        return
    # Of the processes that serve, only those that count in Redis carry its client.
    from redis import Redis, RedisError  # noqa: PLC0415

    try:
        with closing(Redis.from_url(given.redis_url, socket_timeout=SECONDS / 2, socket_connect_timeout=SECONDS / 2,
                                    decode_responses=True)) as redis:  # fmt: skip
            found: Any = redis.info("server")
    except RedisError as error:
        yield Finding("redis", "error", f"it does not answer, or does not let us in ({type(error).__name__})",
                      "see that TILES_REDIS_URL is right; meanwhile each process counts for itself")  # fmt: skip
        return
    if int(found["redis_version"].partition(".")[0]) < OLDEST_REDIS:
        yield Finding("redis-old", "error", "it is too old to count limits", f"use Redis {OLDEST_REDIS} or newer")


def database() -> Iterator[Finding]:
    """Look at whether the database is there, is this release's, and keeps what it acknowledges."""
    if is_sqlite() and not sqlite_file().exists():
        yield Finding(
            "database-none",
            "error",
            f"there is none at {sqlite_file()} yet",
            "`tiles db upgrade` makes it, as `tiles serve` does",
        )
        return
    try:
        current = is_current()
        with reading() as session:
            found = session.execute(text("SELECT 1") if is_sqlite() else POSTGRESQL).one()
    except DBAPIError as error:
        yield Finding("database", "error", f"it does not answer, or not to this user ({type(error).__name__})",
                      f"see that {settings().database_place} is the right one, is there and takes writes")  # fmt: skip
        return
    if not current:
        yield Finding("schema", "error", "its schema is older than this release's", "run `tiles db upgrade`")
    yield from probes.file_system() if is_sqlite() else _postgresql(found)


def _postgresql(found: AnyRow) -> Iterator[Finding]:
    if found.version < OLDEST_POSTGRESQL:
        yield Finding("postgresql-old", "error", f"PostgreSQL {found.version} is too old",
                      f"use {OLDEST_POSTGRESQL} or newer")  # fmt: skip
    if found.standby:
        yield Finding("postgresql-standby", "error", "it is a standby, which takes no writes",
                      "name all hosts in TILES_DATABASE_URL, and set no target_session_attrs there")  # fmt: skip
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if getattr(found, name) == "off":
            yield Finding("postgresql-durability", "error", f"{name} is off: what was acknowledged may be lost",
                          f"set {name} = on in postgresql.conf")  # fmt: skip
    if abs((clock.now() - found.now).total_seconds()) > SKEW_SECONDS:
        yield Finding("clock", "error", "this machine's clock and the database's differ by more than 5 s",
                      "let both follow a time server: mails would go out twice, and links end early")  # fmt: skip
    if found.client and not is_loopback(found.client) and not found.encrypted:
        yield Finding("postgresql-clear", "warning", "names and addresses travel to it in clear",
                      "add sslmode=verify-full to TILES_DATABASE_URL")  # fmt: skip
    if (found.logs and found.logs_values) or found.logs_values_on_error:
        yield Finding("postgresql-log", "warning", "its own log takes down statements with names and addresses",
                      "set log_parameter_max_length and log_parameter_max_length_on_error to 0")  # fmt: skip


def signing() -> Iterator[Finding]:
    """Look at whether the database knows a key that is here."""
    if keys.are_others():
        yield Finding("keys-others", "error",
                      "the database knows other keys than are here: another machine signs with them, or secret_key was "
                      "not brought back after a restore",
                      "put those keys in place or, if they are lost for good, run `tiles keys adopt`")  # fmt: skip


def queue() -> Iterator[Finding]:
    """Look at whether mails leave."""
    found, blocked = mail.status(), mail.blocked()
    refused = {code: number for code, number in mail.failures().items() if is_ours(code)}
    if blocked:
        yield Finding("mails-blocked", "error", f"no mail leaves ({_told(blocked)})", trouble(min(blocked))[1])
    elif refused:
        yield Finding("mails-refused", "warning", f"the mail server refuses some mails ({_told(refused)})",
                      trouble(min(refused))[1])  # fmt: skip
    if found.oldest_seconds > OLDEST_MAIL_SECONDS:
        yield Finding("mails-waiting", "error", f"a mail has waited untried for {found.oldest_seconds // 60} minutes",
                      "see that `tiles serve` or `tiles mail work` runs, and what its log says")  # fmt: skip
    if found.abandoned:
        reasons = _told(mail.failures(given_up=True))
        yield Finding("mails-given-up", "warning", f"{found.abandoned} were given up ({reasons})",
                      "`unreadable`: a later release made them, or somebody changed them; "
                      "`tiles mail retry` tries again")  # fmt: skip


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{code}: {count}" for code, count in counts.items()) or "waited two days"


def erasures() -> Iterator[Finding]:
    """Look at whether who is due was erased, and whether the ledger knows who was."""
    if late := erasure.count_due():
        yield Finding("erasures-late", "error", f"{late} accounts are due and not erased",
                      "see that `tiles serve` or `tiles mail work` runs; `tiles data requests --overdue`")  # fmt: skip
    if ledger.path().exists() and not (ledger.path().is_file() and os.access(ledger.path(), os.R_OK | os.W_OK)):
        yield Finding("ledger-locked", "error", "the ledger cannot be written: nobody can be erased",
                      f"give {ledger.path()} to the user that the service runs as")  # fmt: skip
        return
    try:
        known = {account for account, _ in ledger.read()}
    except Impossible as error:
        yield Finding("ledger-damaged", "error", str(error), "put the newest copy of it in its place")
        return
    with reading() as session:
        erased = {id_.hex for id_ in session.scalars(select(AuditEntry.account_id).where(AuditEntry.act == "erased"))}
    if missing := len(erased - known):
        yield Finding("ledger-lacks", "error" if is_sqlite() else "warning",
                      f"{missing} who were erased are not in this ledger: a restored backup would bring them back",
                      "put the newest copy of erasures.jsonl back, or let all machines share one")  # fmt: skip


NEED_DATABASE = (signing, queue, erasures)
PROBES: dict[str, tuple[Probe, str]] = {
    "public-url": (probes.public_url, "mailed links lead to https, and not to this machine alone"),
    "proxies": (probes.proxies, "what stands in front is told of"),
    "addresses": (probes.addresses, "people are told who answers"),
    "passwords": (probes.passwords, ""),
    "files": (probes.files, "nobody but this user reads what the service makes"),
    "disk": (probes.disk, "there is space"),
    "mail-server": (mail_server, "it answers, and lets us in"),
    "limits": (limits, "there are limits, and they are counted"),
    "database": (database, "it answers, is this release's, and keeps what it acknowledges"),
    "keys": (signing, "the database knows a key that is here, or none yet"),
    "queue": (queue, "mails leave"),
    "erasures": (erasures, "who was due is erased, and in the ledger"),
}
