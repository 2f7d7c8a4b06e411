"""Probes of the settings and of this machine. Each looks, changes nothing, and names nobody."""

import ipaddress
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from email_validator import EmailNotValidError, validate_email

from backend.config import LOOPBACK_HOSTS, PREFIX, settings
from backend.database.engine import db
from backend.errors import Impossible
from backend.mail.transport import MAILBOX
from backend.privacy import ledger
from backend.security import keys
from backend.security.hashing import hasher, try_argon2

SLOW_HASH_SECONDS = 1.0
LEAST_FREE_BYTES = 256 * 2**20
LEAST_FREE_SHARE = 0.05
# Memory in KiB, and the passes over so much that suffice (OWASP Password Storage Cheat Sheet, Argon2id).
ARGON2_FLOOR = {47104: 1, 19456: 2, 12288: 3, 9216: 4, 7168: 5}
# Where one machine does not see another's locks, or SQLite cannot share its log's index.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs"})
MOUNTS = Path("/proc/self/mounts")
OCTAL = re.compile(r"\\([0-7]{3})")

Level = Literal["error", "warning", "fine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, under a code that stays the same, and what to do about it."""

    code: str
    level: Level
    what: str
    todo: str = ""


Probe = Callable[[], Iterator[Finding]]


def public_url() -> Iterator[Finding]:
    """Look at the URL that every mailed link starts with."""
    parts = urlsplit(settings().public_url)
    if is_loopback(parts.hostname or ""):
        yield Finding("public-url-local", "error", "mailed links lead to this machine, which nobody else reaches",
                      "set TILES_PUBLIC_URL to the address that people have")  # fmt: skip
    elif parts.scheme != "https":
        yield Finding("public-url-clear", "error", "passwords travel in clear: the public URL begins with http://",
                      "put a reverse proxy with TLS in front, and set TILES_PUBLIC_URL to https://…")  # fmt: skip


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_HOSTS or host.endswith(".localhost")


def proxies() -> Iterator[Finding]:
    """Look at whether what stands in front is told of."""
    given = settings()
    if given.public_url.startswith("https:") and not given.trusted_proxies:
        yield Finding("proxies", "warning", "TLS ends in front of this service: all clients share the limits of one",
                      "let the proxy set X-Forwarded-For, and TILES_TRUSTED_PROXIES to how many there are")  # fmt: skip
    if given.trusted_proxies and not given.metrics_token:
        yield Finding("metrics-token", "warning", "nobody reads /metrics but this machine itself, and past the proxy",
                      "set TILES_METRICS_TOKEN where Prometheus comes from elsewhere")  # fmt: skip


def addresses() -> Iterator[Finding]:
    """Look at the addresses that people see."""
    given = settings()
    for name, purpose in (("data_manager_email", "answers for personal data"), ("support_email", "helps them")):
        if not getattr(given, name):
            yield Finding(name.replace("_", "-"), "warning", f"people are not told who {purpose}",
                          f"set {PREFIX}{name.upper()}")  # fmt: skip
    for name in ("mail_default_sender", "data_manager_email", "support_email"):
        address = parseaddr((given.sender if name == "mail_default_sender" else getattr(given, name)) or "")[1]
        try:
            if address:
                validate_email(address, check_deliverability=False)
        except EmailNotValidError:
            yield Finding("address-nowhere", "error", f"no mail reaches the domain of {PREFIX}{name.upper()}",
                          f"set {PREFIX}{name.upper()} to an address at a domain of yours")  # fmt: skip


def files() -> Iterator[Finding]:
    """Look at who may read and write what the service makes."""
    folder = settings().instance_path
    if not folder.exists():
        yield Finding("files-none", "error", f"{folder} is not there yet", "the first command that needs it makes it")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("files-locked", "error", f"{folder} cannot be written",
                      "give the folder to the user that the service runs as")  # fmt: skip
        return
    if folder.stat().st_uid != os.geteuid():
        yield Finding("files-owner", "warning", f"{folder} is another user's",
                      "run this, and the service, as the user whose folder it is")  # fmt: skip
    made = [folder / name for name in ("", keys.NAME, "config.toml", ledger.NAME, MAILBOX)]
    for path in (*made, *([sqlite_file()] if is_sqlite() else ())):
        others = path.stat().st_mode & 0o077 if path.exists() else 0
        if others:
            yield Finding("files-open", "error" if others & 0o007 else "warning",
                          f"{path} is open to other users of this machine", f"chmod go= {path}")  # fmt: skip


def disk() -> Iterator[Finding]:
    """Look at how much space is left."""
    size = sqlite_file().stat().st_size if is_sqlite() and sqlite_file().exists() else 0
    for folder in {settings().instance_path, *([sqlite_file().parent] if is_sqlite() else ())}:
        if not folder.exists():
            continue
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            yield Finding("disk-read-only", "error", f"the file system of {folder} is mounted read-only",
                          "see the kernel's log for a fault of the disk, and mount it for writing again")  # fmt: skip
        usage = shutil.disk_usage(folder)
        if usage.free < size + LEAST_FREE_BYTES or usage.free < usage.total * LEAST_FREE_SHARE:
            enough = usage.free >= size + LEAST_FREE_BYTES
            yield Finding("disk", "warning" if enough else "error", f"{usage.free // 2**20:,} MB are left at {folder}",
                          "make room: without it nothing is stored and nobody erased")  # fmt: skip


def passwords() -> Iterator[Finding]:
    """Look at what a password hash costs, by making one."""
    given = settings()
    memory, passes = given.argon2_memory_kib, given.argon2_time_cost
    if not any(memory >= least and passes >= enough for least, enough in ARGON2_FLOOR.items()):
        yield Finding("argon2-weak", "error", "stolen hashes are too cheap to guess: OWASP asks for more",
                      "leave TILES_ARGON2_MEMORY_KIB and TILES_ARGON2_TIME_COST at their defaults")  # fmt: skip
    try:
        try_argon2()
    except Impossible as error:
        what, _, todo = str(error).partition(": ")
        yield Finding("argon2-processor", "error", what, todo)
        return
    begun = time.monotonic()
    hasher().hash("nobody's password")
    seconds = time.monotonic() - begun
    told = f"one password hash takes {seconds * 1000:.0f} ms here"
    if seconds > SLOW_HASH_SECONDS:
        yield Finding("argon2-slow", "warning", told, "people wait that long to sign in: lower TILES_ARGON2_TIME_COST")
    else:
        yield Finding("passwords", "fine", told)


def is_sqlite() -> bool:
    """Tell whether the database is SQLite's."""
    return db.engine.dialect.name == "sqlite"


def sqlite_file() -> Path:
    """Return where SQLite's database is, or is to be."""
    return Path(str(db.engine.url.database))


def file_system() -> Iterator[Finding]:
    """Look at where SQLite's file is."""
    lines = MOUNTS.read_text().splitlines() if MOUNTS.exists() else []
    # A space in a path is written as \040 there.
    kinds = dict([OCTAL.sub(lambda code: chr(int(code[1], 8)), word) for word in line.split()[1:3]] for line in lines)
    mounted = [place for place in kinds if sqlite_file().resolve().is_relative_to(place)]
    if mounted and kinds[max(mounted, key=len)] in NETWORK_FILE_SYSTEMS:
        yield Finding("database-network", "error", "SQLite's file is on a network's file system, where locks fail",
                      "put it on a disk of this machine, or use PostgreSQL")  # fmt: skip
