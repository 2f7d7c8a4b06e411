"""Every setting, its default and one line of meaning; nothing else reads the environment."""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from email.utils import formataddr, parseaddr
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from email_validator import EmailNotValidError, ValidatedEmail, validate_email
from flask import Flask, current_app
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

PREFIX = "TILES_"
THREADS, PROCESSES = "SERVE_THREADS", "SERVE_PROCESSES"
METRICS = "PROMETHEUS_MULTIPROC_DIR"
SERVICE = "TILES"
MINIMUM_KEY_LENGTH = 32
OWNER_ONLY = 0o077
"""The umask of everything that writes: personal data are for the service's own user."""
HOST = re.compile(r"([A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
SEVERAL_HOSTS = re.compile(
    r"(?P<before>postgres[\w+]*:/{2}(?:[^@/]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>(?:[/?].*)?)"
)
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

log = logging.getLogger(__name__)


class SettingsError(Exception):
    """A setting makes no sense: the message names it and says what to write instead."""


def _database_url(value: str) -> str:
    try:
        url = _url_with_hosts(value)
    except (ArgumentError, ValueError):
        raise ValueError("write a database URL, such as postgresql://user:password@host/name") from None
    if url.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    # Of a database in memory or behind a `file:` URI nobody could tell which file to scrub.
    if url.drivername == "sqlite" and url.database and not url.database.startswith((":memory:", "file:")):
        return value
    raise ValueError("write a URL that starts with postgresql:// or sqlite:/// and names a database")


def _url_with_hosts(value: str) -> URL:
    """Read a URL in which libpq's list of hosts may stand: SQLAlchemy knows it in the query only."""
    several = SEVERAL_HOSTS.fullmatch(value)
    if not several:
        return make_url(value)
    found = [re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]\s]+)(?::(\d+))?", host) for host in several["hosts"].split(",")]
    if not all(found):
        raise ValueError
    hosts, ports = zip(*[(unquote(host[1].strip("[]")), host[2] or "") for host in found if host], strict=True)
    query = {"host": ",".join(hosts), **({"port": ",".join(ports)} if any(ports) else {})}
    return make_url(several["before"] + several["after"]).update_query_dict(query)


def _public_url(value: str) -> str:
    url = value.rstrip("/")
    try:
        parts = urlsplit(url)
        whole = HOST.fullmatch(parts.netloc) and f"{parts.scheme}://{parts.netloc}" == url and parts.port != 0
    except ValueError:
        whole = False
    if not whole or parts.scheme not in {"http", "https"}:
        msg = "write an http or https URL without a path, such as https://accounts.example.org (xn--… if international)"
        raise ValueError(msg)
    return url


def _redis_url(value: str) -> str:
    try:
        usable = urlsplit(value).scheme in {"redis", "rediss"} and urlsplit(value).port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("write a URL that starts with redis:// or rediss://, such as redis://127.0.0.1:6379/0")
    return value


def _address(value: str) -> ValidatedEmail:
    try:
        return validate_email(value, check_deliverability=False, test_environment=True, allow_smtputf8=False)
    except EmailNotValidError:
        raise ValueError("write an email address, such as privacy@example.org") from None


def _email(value: str) -> str:
    return _address(value).normalized


def _sender(value: str) -> str:
    name, address = parseaddr(value)
    return formataddr((name or SERVICE, _address(address).ascii_email or address))


def _mail_server(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", value):
        raise ValueError(
            "write a host name or an address alone, such as smtp.example.org; TILES_MAIL_PORT has the port"
        )
    return value


def _keys(value: object) -> object:
    """Read the comma-separated list that an environment variable can hold."""
    return [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else value


def strong(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Return the keys; a ValueError says that one of them could be guessed."""
    if any(len(key.get_secret_value()) < MINIMUM_KEY_LENGTH for key in keys):
        msg = (
            f"write keys of at least {MINIMUM_KEY_LENGTH} random characters each, such as `openssl rand -hex 32` prints"
        )
        raise ValueError(msg)
    return keys


Email = Annotated[str, AfterValidator(_email)]


class Settings(BaseModel):
    """All settings, checked; a field's name in upper case behind `TILES_` is the environment variable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    instance_path: Path = Field(
        default=Path("instance"),
        description="folder for what the service makes: database, key, development mailbox; readable by its owner only",
    )
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        default="",
        description="`postgresql://…` (several hosts too) or `sqlite:///…`; empty is SQLite in the instance folder",
    )
    secret_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_keys), AfterValidator(strong)] = Field(
        default=(),
        description="keys that sign tokens, newest first, comma-separated; empty is one that the instance made",
    )
    public_url: Annotated[str, AfterValidator(_public_url)] = Field(
        default="http://127.0.0.1:8000",
        description="where people reach the service; every mailed link starts with it",
    )
    mail_server: Annotated[str, AfterValidator(_mail_server)] | None = Field(
        default=None,
        description="SMTP server; without one, mails go to the instance folder's `mailbox/` and to the terminal",
    )
    mail_port: int | None = Field(
        default=None, ge=1, le=65535, description="empty is 465 with SSL, 587 with TLS, else 25"
    )
    mail_username: str | None = Field(default=None, description="for SMTP authentication")
    mail_password: SecretStr | None = Field(default=None, description="for SMTP authentication")
    mail_use_tls: bool = Field(default=False, description="STARTTLS, the certificate verified")
    mail_use_ssl: bool = Field(default=False, description="TLS from the first byte, the certificate verified")
    mail_default_sender: Annotated[str, AfterValidator(_sender)] | None = Field(
        default=None, description="the From of every mail; empty is `tiles@` the public URL's host"
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        default=None, description="where limits are counted for all processes; empty counts in each process"
    )
    data_manager_email: Email | None = Field(default=None, description="who answers for personal data; shown in pages")
    support_email: Email | None = Field(default=None, description="who helps people; shown in mails and pages")
    password_min_length: int = Field(default=15, ge=8, le=64, description="code points a password needs at least")
    argon2_memory_kib: int = Field(default=19456, ge=8, le=4_194_304, description="memory of one hash, KiB")
    argon2_time_cost: int = Field(default=2, ge=1, le=100, description="passes over that memory")
    argon2_parallelism: int = Field(default=1, ge=1, le=64, description="lanes of one hash")
    session_idle_days: int = Field(default=30, ge=1, le=3650, description="a session unused for so long ends")
    session_max_days: int = Field(default=180, ge=1, le=3650, description="a session ends after this, used or not")
    erasure_grace_days: int = Field(
        default=14, ge=0, le=30, description="an erasure that was asked for waits so long, and can be taken back"
    )
    closed_retention_days: int = Field(
        default=365, ge=0, le=3650, description="a closed account is erased after this; 0 keeps it until that is asked"
    )
    rate_limits: Annotated[str, AfterValidator(str.lower)] = Field(
        default="",
        description="changes to the table of limits, such as `sign-in/client=200/5 minutes`; `off` is for load tests",
    )
    trusted_proxies: int = Field(
        default=0, ge=0, le=10, description="reverse proxies in front that set X-Forwarded-For"
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="who reads `/metrics` sends it as a bearer token; empty answers only to loopback"
    )

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited."""
        return self.rate_limits.strip() != "off"

    @property
    def database(self) -> str:
        """The URL of the database in use."""
        return self.database_url or f"sqlite:///{self.instance_path.absolute() / 'tiles.sqlite3'}"

    @property
    def sender(self) -> str:
        """The From of every mail."""
        host = urlsplit(self.public_url).hostname or ""
        named = not (host.replace(".", "").isdigit() or ":" in host)
        return self.mail_default_sender or formataddr((SERVICE, f"tiles@{host if named else 'localhost'}"))

    @property
    def smtp_port(self) -> int:
        """The port of the mail server in use (RFC 8314 section 7.3, RFC 6409)."""
        return self.mail_port or (465 if self.mail_use_ssl else 587 if self.mail_use_tls else 25)

    @model_validator(mode="after")
    def _memory_suffices(self) -> Self:
        if self.argon2_memory_kib < 8 * self.argon2_parallelism:
            raise ValueError("TILES_ARGON2_MEMORY_KIB: write at least 8 for each lane (RFC 9106 section 3.1)")
        return self

    @model_validator(mode="after")
    def _mail_makes_sense(self) -> Self:
        if self.mail_use_tls and self.mail_use_ssl:
            raise ValueError("TILES_MAIL_USE_TLS, TILES_MAIL_USE_SSL: set one of the two, not both")
        if (self.mail_username is None) != (self.mail_password is None):
            raise ValueError("TILES_MAIL_USERNAME, TILES_MAIL_PASSWORD: set both or neither")
        clear = not (self.mail_use_tls or self.mail_use_ssl)
        if self.mail_username and clear and self.mail_server not in LOOPBACK_HOSTS:
            msg = "TILES_MAIL_USE_TLS: set it (or TILES_MAIL_USE_SSL), or the password would travel in clear"
            raise ValueError(msg)
        return self


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings, and have the instance folder.

    Raises:
        SettingsError: a value makes no sense, with its name and what to write instead.
    """
    settings = read(environ)
    _make_folder(settings.instance_path)
    return settings


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment and, where that is silent, from `config.toml`.

    Raises:
        SettingsError: a value makes no sense, with its name and what to write instead.
    """
    given = {
        name.removeprefix(PREFIX).lower(): value.strip()
        for name, value in environ.items()
        if name.startswith(PREFIX) and value.strip()
    }
    instance_path = Path(given.get("instance_path", Settings.model_fields["instance_path"].default))
    for name in sorted(given.keys() - Settings.model_fields.keys()):
        log.warning("%s is not a setting%s", PREFIX + name.upper(), _suggest(name))
        del given[name]
    values = _read_file(instance_path / "config.toml") | given
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(entry) for entry in error.errors())) from None


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        msg = (
            f'{path}: cannot be read as TOML; write lines such as public_url = "https://accounts.example.org" ({error})'
        )
        raise SettingsError(msg) from None
    values = {name.lower().removeprefix(PREFIX.lower()): value for name, value in table.items()}
    if "instance_path" in values:
        raise SettingsError(f"{PREFIX}INSTANCE_PATH: set it in the environment; {path} is already in that folder")
    return values


def _explain(entry: ErrorDetails) -> str:
    location, message = entry["loc"], entry["msg"].removeprefix("Value error, ")
    if not location:
        return str(message)
    name = str(location[0])
    if entry["type"] == "extra_forbidden":
        return f"{PREFIX}{name.upper()}: not a setting{_suggest(name)}; take it out of config.toml"
    return f"{PREFIX}{name.upper()}: {message}"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{PREFIX}INSTANCE_PATH: name a folder that this process may write to ({error.strerror})"
        raise SettingsError(msg) from None


def init_app(app: Flask, settings: Settings) -> None:
    """Give the app its settings."""
    app.extensions["tiles.settings"] = settings


def settings() -> Settings:
    """Return the settings of the current app."""
    found: Settings = current_app.extensions["tiles.settings"]
    return found


def serve_threads(threads: int, processes: int, metrics: Path | None) -> None:
    """Tell the HTTP server's processes how many requests each answers at once, how many they are, where they count."""
    os.environ[THREADS], os.environ[PROCESSES] = str(threads), str(processes)
    os.environ.pop(METRICS, None)
    if metrics:
        os.environ[METRICS] = str(metrics)


def served_threads() -> int:
    """Return how many requests this process of the HTTP server answers at a time."""
    return int(os.environ[THREADS])


def served_processes() -> int:
    """Return how many processes share this machine with this one to serve; a command is alone."""
    return int(os.environ.get(PROCESSES, "1"))


def metrics_folder() -> Path | None:
    """Return where the processes of this HTTP server count together; None in a process that is alone."""
    return Path(folder) if (folder := os.environ.get(METRICS)) else None
