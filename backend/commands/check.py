"""`tiles check`: probes of the settings, this machine and its peers. They change nothing, and name nobody."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask

from backend.commands import check_database
from backend.commands.check_database import Finding, Findings, error, warning
from backend.config import PREFIX, SettingsError, settings
from backend.database.engine import is_sqlite, sqlite_file
from backend.mail import messages
from backend.mail.refusals import Refused, ServerUnavailable, code_of, explain
from backend.mail.transport import MAILBOX, Connection
from backend.privacy import ledger
from backend.security import key_file
from backend.values import is_loopback

SECONDS = 5.0
OLDEST_REDIS = 7
LEAST_FREE_BYTES = 256 * 2**20
# Memory in KiB, and how many passes suffice with it (OWASP Password Storage Cheat Sheet, Argon2id).
ARGON2_FLOOR = {47104: 1, 19456: 2, 12288: 3, 9216: 4, 7168: 5}


def prepare(create_app: Callable[[], Flask]) -> tuple[list[Finding], Flask | None]:
    """Read the settings; return the findings, and the application unless a setting is invalid."""
    try:
        app = create_app()
    except SettingsError as invalid:
        return [error("settings", line) for line in str(invalid).splitlines()], None
    return [Finding("settings", "fine", "all settings are valid")], app


def run(app: Flask) -> Iterator[list[Finding]]:
    """Run each probe, for 5 seconds at most, and yield its findings."""
    database_is_down = False
    for name, (probe, fine) in PROBES.items():
        if database_is_down and probe in IN_DATABASE:
            yield []
            continue
        findings = _run(app, name, probe) or [Finding(name, "fine", fine)]
        database_is_down = database_is_down or (probe is check_database.database and findings[0].level == "error")
        yield findings


def _run(app: Flask, name: str, probe: Callable[[], Findings]) -> list[Finding]:
    findings: list[Finding] = []

    def look() -> None:
        with app.app_context():
            try:
                findings.extend(probe())
            except Exception as unexpected:  # noqa: BLE001 - every error is a finding
                findings.append(error(name, f"cannot be looked at ({type(unexpected).__name__})"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        return [error(name, f"no answer within {SECONDS:.0f} s", "see that it is there, and not too busy")]
    return findings


def public_url() -> Findings:
    """Check the URL that every emailed link starts with."""
    parts = urlsplit(settings().public_url)
    if is_loopback(parts.hostname or "") or (parts.hostname or "").endswith(".localhost"):
        yield error("public-url-local", "emailed links lead to this machine only", "set TILES_PUBLIC_URL")
    elif parts.scheme != "https":
        todo = "put a reverse proxy with TLS in front, and set TILES_PUBLIC_URL to https://…"
        yield error("public-url-clear", "passwords travel in clear text: the public URL begins with http://", todo)


def proxies() -> Findings:
    """Check that the settings know the reverse proxies."""
    if settings().public_url.startswith("https:") and not settings().trusted_proxies:
        todo = "let the proxy set X-Forwarded-For, and TILES_TRUSTED_PROXIES to the number of proxies"
        yield warning("proxies", "a proxy with TLS is in front: all clients share the limits of one", todo)


def addresses() -> Findings:
    """Check the addresses that people see."""
    for name, purpose in (("data_manager_email", "personal data"), ("support_email", "help")):
        if not getattr(settings(), name):
            yield warning(name.replace("_", "-"), f"pages name no address for {purpose}", f"set {PREFIX}{name.upper()}")


def passwords() -> Findings:
    """Check the cost of a password hash."""
    memory, passes = settings().argon2_memory_kib, settings().argon2_time_cost
    if not any(memory >= least and passes >= enough for least, enough in ARGON2_FLOOR.items()):
        todo = "leave TILES_ARGON2_MEMORY_KIB and TILES_ARGON2_TIME_COST at their defaults"
        yield error("argon2-weak", "stolen hashes are too cheap to guess: OWASP asks for more", todo)


def files() -> Findings:
    """Check who may read and write the files of the service."""
    folder = settings().instance_path
    if not folder.exists():
        yield error("files-none", f"{folder} does not exist yet", "the first command that needs it makes it")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield error("files-locked", f"{folder} cannot be written", "give it to the user that the service runs as")
        return
    if folder.stat().st_uid != os.geteuid():
        yield warning("files-owner", f"{folder} is another user's", "run this, and the service, as its owner")
    made = [folder / name for name in ("", key_file.NAME, "config.toml", ledger.NAME, MAILBOX)]
    for path in filter(None, (*made, sqlite_file())):
        if others := path.stat().st_mode & 0o077 if path.exists() else 0:
            finding = error if others & 0o007 else warning
            yield finding("files-open", f"{path} is open to other users of this machine", f"chmod go= {path}")


def disk() -> Findings:
    """Check how much space is left."""
    file = sqlite_file()
    size = file.stat().st_size if file and file.exists() else 0
    folders = {settings().instance_path, *([file.parent] if file else [])}
    for folder in filter(Path.exists, folders):
        free = shutil.disk_usage(folder).free
        # Rewriting SQLite's file takes as much again.
        if free < size + LEAST_FREE_BYTES:
            message = f"{free // 2**20:,} MB are left at {folder}"
            yield error("disk", message, "make room: nothing can be stored on a full disk")


def mail_server() -> Findings:
    """Offer an email to the mail server as the worker does, and cancel it before it is sent."""
    server = settings().mail_server
    if not server:
        yield error(
            "mail-server", f"there is none: emails go to the folder {MAILBOX}/ and to nobody", "set TILES_MAIL_SERVER"
        )
        return
    try:
        with closing(Connection()) as connection:
            connection.probe(messages.probe())
    except Exception as failure:  # noqa: BLE001 - each email would fail with it
        # Greylisting refuses a new client for now.
        if not isinstance(failure, Refused) or failure.is_permanent:
            code = failure.code if isinstance(failure, ServerUnavailable) else code_of(failure)
            message, todo = explain(code)
            yield error("mail-server", f"{message} ({code})", todo)
            return
    if not (settings().mail_use_tls or settings().mail_use_ssl or is_loopback(server)):
        todo = "set TILES_MAIL_USE_TLS or TILES_MAIL_USE_SSL"
        yield warning("mail-clear", "emails and their links travel to the mail server in clear text", todo)


def limits() -> Findings:
    """Check that there are limits, and where they are counted."""
    url = settings().redis_url
    if not settings().is_limited:
        yield error("limits-off", "anybody can guess passwords without a limit", "take `off` out of TILES_RATE_LIMITS")
    if not url:
        if not is_sqlite():
            yield warning(
                "redis-none", "each process counts limits on its own", "set TILES_REDIS_URL if there are several"
            )
        return
    # A process that does not count in Redis does not load its client.
    from redis import Redis, RedisError  # noqa: PLC0415

    try:
        with closing(Redis.from_url(url, socket_timeout=SECONDS / 2, socket_connect_timeout=SECONDS / 2)) as redis:
            server: Any = redis.info("server")
    except RedisError as failure:
        message = f"it does not respond, or refuses this service ({type(failure).__name__})"
        yield error("redis", message, "see that TILES_REDIS_URL is right; meanwhile each process counts on its own")
        return
    if int(server["redis_version"].partition(".")[0]) < OLDEST_REDIS:
        yield error("redis-old", "it is too old to count limits", f"use Redis {OLDEST_REDIS} or newer")


IN_DATABASE = (check_database.signing, check_database.mails, check_database.erasures)
PROBES: dict[str, tuple[Callable[[], Findings], str]] = {
    "public-url": (public_url, "emailed links begin with https:// and lead to the proxy"),
    "proxies": (proxies, "TILES_TRUSTED_PROXIES fits the public URL"),
    "addresses": (addresses, "the addresses for personal data and for help are set"),
    "passwords": (passwords, "stolen hashes are costly to guess"),
    "files": (files, "only this user reads the files of the service"),
    "disk": (disk, "there is enough space"),
    "mail-server": (mail_server, "it accepts emails of this service"),
    "limits": (limits, "limits are on"),
    "database": (check_database.database, "it responds, has this release's schema, and keeps what it has committed"),
    "keys": (check_database.signing, "the database knows a key of this machine, or none yet"),
    "queue": (check_database.mails, "no email is stuck"),
    "erasures": (check_database.erasures, "no erasure is late, and the ledger has all erased accounts"),
}
