"""Every setting, its default and one line of meaning; nothing else reads the environment."""

import difflib
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from flask import current_app
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

from backend import values
from backend.values import SERVICE, is_loopback, named

PREFIX = "TILES_"
THREADS, PROCESSES = "SERVE_THREADS", "SERVE_PROCESSES"
METRICS = "PROMETHEUS_MULTIPROC_DIR"
OWNER_ONLY = 0o077
"""The umask of every process: only the service's user may read personal data."""
CHECKOUT = Path(__file__).parent.parent
SMTPS_PORT = 465

log = logging.getLogger(__name__)


class SettingsError(Exception):
    """A setting is invalid. The message names it and says how to correct it."""


Email = Annotated[str, AfterValidator(values.email)]
COMMA_SEPARATED = BeforeValidator(values.comma_separated)


class Settings(BaseModel):
    """All settings, checked; a field's name in upper case behind `TILES_` is the environment variable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    instance_path: Path = Field(
        default=Path("instance"),
        description="Folder for the database, the key and the ledger of erasures. An installed package has no default.",
    )
    database_url: Annotated[str, AfterValidator(values.database_url)] = Field(
        default="",
        description="`postgresql://…`, also with several hosts, or `sqlite:///…`. Without it: SQLite in `instance/`.",
    )
    secret_keys: Annotated[tuple[SecretStr, ...], COMMA_SEPARATED, AfterValidator(values.strong)] = Field(
        default=(),
        description="Keys that sign tokens, newest first, comma-separated. Without it: the key in the instance folder.",
    )
    public_url: Annotated[str, AfterValidator(values.public_url)] = Field(
        default="http://127.0.0.1:8000",
        description="Where people reach the service. Every emailed link starts with it.",
    )
    mail_server: Annotated[str, AfterValidator(values.mail_server)] | None = Field(
        default=None,
        description="SMTP server. Without it: emails go to `mailbox/` in the instance folder and to the terminal.",
    )
    mail_port: int | None = Field(
        default=None, ge=1, le=65535, description="SMTP port. Without it: 465 with SSL, 587 with TLS, 25 otherwise."
    )
    mail_username: Annotated[str, AfterValidator(values.one_line)] | None = Field(
        default=None, description="User name for SMTP authentication."
    )
    mail_password: Annotated[SecretStr, AfterValidator(values.password)] | None = Field(
        default=None, description="Password for SMTP authentication."
    )
    mail_use_tls: bool = Field(default=False, description="Use STARTTLS, and verify the certificate.")
    mail_use_ssl: bool = Field(default=False, description="Use TLS from the first byte, and verify the certificate.")
    mail_default_sender: Annotated[str, AfterValidator(values.sender)] | None = Field(
        default=None, description="From header of every email. Without it: `tiles@` and the host of the public URL."
    )
    redis_url: Annotated[str, AfterValidator(values.redis_url)] | None = Field(
        default=None, description="Counts limits for all processes. Without it: each process counts on its own."
    )
    data_manager_email: Email | None = Field(default=None, description="Contact for personal data. Shown on pages.")
    support_email: Email | None = Field(default=None, description="Address for help. Shown in emails and on pages.")
    password_min_length: int = Field(default=15, ge=8, le=64, description="Minimum length, in code points.")
    argon2_memory_kib: int = Field(default=19456, ge=8, le=4_194_304, description="Memory of one hash, in KiB.")
    argon2_time_cost: int = Field(default=2, ge=1, le=100, description="Passes of one hash over its memory.")
    argon2_parallelism: int = Field(default=1, ge=1, le=64, description="Lanes of one hash.")
    argon2_threads: int = Field(
        default=0, ge=0, le=64, description="Hashes at a time in each process. 0 divides the cores among the processes."
    )
    session_idle_days: int = Field(default=30, ge=1, le=3650, description="A session ends when unused for so long.")
    session_max_days: int = Field(default=180, ge=1, le=3650, description="A session ends after this, used or not.")
    erasure_grace_days: int = Field(
        default=14, ge=0, le=30, description="Days until a requested erasure. It can be cancelled until then."
    )
    closed_retention_days: int = Field(
        default=365, ge=0, le=3650, description="Days until a closed account is erased. 0: only when the person asks."
    )
    ios_app_ids: Annotated[tuple[str, ...], COMMA_SEPARATED, AfterValidator(values.ios_app_ids)] = Field(
        default=(),
        description="iPhone apps that open emailed links and share passwords, as `TEAMID.bundle.id`, comma-separated.",
    )
    android_apps: Annotated[tuple[str, ...], COMMA_SEPARATED, AfterValidator(values.android_apps)] = Field(
        default=(),
        description="Android apps that do the same, as `package=SHA-256 of its certificate`, comma-separated.",
    )
    app_url: Annotated[str, AfterValidator(values.app_url)] | None = Field(
        default=None, description="Where the button that opens the app leads, such as `tiles://open`."
    )
    terms_url: Annotated[str, AfterValidator(values.web_url)] | None = Field(
        default=None, description="Terms of use. The page on which an account is created links to them."
    )
    desk: bool = Field(default=True, description="The data manager's pages at `/desk`. `off` removes them.")
    rate_limits: Annotated[str, AfterValidator(str.lower)] = Field(
        default="",
        description="Changes to the limits, such as `sign-in/client=200/5 minutes`. `off` is for load tests only.",
    )
    trusted_proxies: int = Field(
        default=0, ge=0, le=10, description="Number of reverse proxies in front that add to X-Forwarded-For."
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Bearer token for `/metrics`. Without it: only this machine gets an answer."
    )

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited."""
        return self.rate_limits.strip() != "off"

    @property
    def database(self) -> URL:
        """The URL of the database in use. A relative path of a SQLite file starts in the instance folder."""
        url = make_url(self.database_url or "sqlite:///tiles.sqlite3")
        if url.drivername != "sqlite":
            return url
        return url.set(database=str(self.instance_path.absolute() / str(url.database)))

    @property
    def database_place(self) -> str:
        """The database as messages name it: by the setting, by SQLite's file, or by both."""
        names = f"{PREFIX}DATABASE_URL" if self.database_url else ""
        file = str(self.database.database) if self.database.drivername == "sqlite" else ""
        return f"{names} ({file})" if names and file else names or file

    @property
    def sender(self) -> str:
        """The From of every email, as `"name" <address>`."""
        host = self.mail_host
        return self.mail_default_sender or named(SERVICE, f"tiles@{'localhost' if host.startswith('[') else host}")

    @property
    def mail_host(self) -> str:
        """The public URL's host as EHLO names it: an IP address is a literal (RFC 5321 section 4.1.3)."""
        return values.literal(urlsplit(self.public_url).hostname or "")

    @property
    def smtp_port(self) -> int:
        """The port of the mail server in use (RFC 8314 section 7.3, RFC 6409)."""
        return self.mail_port or (SMTPS_PORT if self.mail_use_ssl else 587 if self.mail_use_tls else 25)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        clear = not (self.mail_use_tls or self.mail_use_ssl)
        if self.argon2_memory_kib < 8 * self.argon2_parallelism:
            raise ValueError("TILES_ARGON2_MEMORY_KIB: write at least 8 for each lane (RFC 9106 section 3.1)")
        if self.mail_use_tls and self.mail_use_ssl:
            raise ValueError("TILES_MAIL_USE_TLS, TILES_MAIL_USE_SSL: set one of the two, not both")
        if (self.mail_username is None) != (self.mail_password is None):
            raise ValueError("TILES_MAIL_USERNAME, TILES_MAIL_PASSWORD: set both or neither")
        if self.mail_server and self.mail_port == SMTPS_PORT and not self.mail_use_ssl:
            raise ValueError("TILES_MAIL_USE_SSL: set it, as port 465 speaks TLS at once; or TILES_MAIL_PORT to 587")
        if self.mail_username and clear and not is_loopback(self.mail_server or ""):
            raise ValueError("TILES_MAIL_USE_TLS: set it (or TILES_MAIL_USE_SSL): the password would travel in clear")
        return self


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment and, where a variable is not set, from `config.toml`.

    Raises:
        SettingsError: a value is invalid; the message names it and says how to correct it.
    """
    variables = _variables(environ)
    # No error: an orchestrator may set variables that begin alike.
    for name in sorted(variables.keys() - Settings.model_fields.keys()):
        del variables[name]
        log.warning("%s%s is not a setting%s", PREFIX, name.upper(), _suggest(name))
    folder = instance_path(environ)
    try:
        return Settings.model_validate(_read_file(folder / "config.toml") | variables | {"instance_path": folder})
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(entry) for entry in error.errors())) from None


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(PREFIX).lower(): value.strip()
        for name, value in environ.items()
        if name.startswith(PREFIX) and value.strip()
    }


def instance_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the instance folder: the one that is set or, in a checkout of the source, its own.

    An installed package has no default: one in the home folder would differ between root and the service's user.

    Raises:
        SettingsError: there is neither.
    """
    if value := environ.get(f"{PREFIX}INSTANCE_PATH", "").strip():
        return Path(value).absolute()
    if not (CHECKOUT / "pyproject.toml").is_file():
        raise SettingsError(
            f"{PREFIX}INSTANCE_PATH is not set: set it to the folder for the database and the key, such as "
            "/var/lib/tiles; only a checkout of the source has a default, its own instance/"
        )
    return CHECKOUT / str(Settings.model_fields["instance_path"].default)


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        # Some editors write a byte order mark.
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        example = 'public_url = "https://accounts.example.org"'
        raise SettingsError(f"{path}: cannot be read as TOML; write lines such as {example} ({error})") from None
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


def settings() -> Settings:
    """Return the settings of the current app."""
    current: Settings = current_app.extensions["tiles.settings"]
    return current


def serve_threads(threads: int, processes: int, metrics: Path | None) -> None:
    """Set the number of threads and processes, and the folder of shared metrics, for the child processes."""
    os.environ |= {THREADS: str(threads), PROCESSES: str(processes)}
    os.environ.pop(METRICS, None)
    if metrics:
        os.environ[METRICS] = str(metrics)


def served_threads() -> int:
    """Return how many threads of each kind this process of the HTTP server has."""
    return int(os.environ[THREADS])


def served_processes() -> int:
    """Return how many processes serve on this machine; a command is alone."""
    return int(os.environ.get(PROCESSES, "1"))


def metrics_folder() -> Path | None:
    """Return where the processes of this HTTP server count together; None if there is one process."""
    return Path(folder) if (folder := os.environ.get(METRICS)) else None
