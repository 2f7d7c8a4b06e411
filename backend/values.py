"""What single settings may hold: URLs, addresses and keys, each read and checked on its own."""

import re
import unicodedata
from contextlib import suppress
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import parseaddr, quote
from urllib.parse import unquote, urlsplit

from email_validator import EmailNotValidError, ValidatedEmail, validate_email
from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

SERVICE = "TILES"
MINIMUM_KEY_LENGTH = 32
LONGEST_LABEL = 63  # RFC 1035 section 2.3.4
HOST = re.compile(r"([A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
SEVERAL_HOSTS = re.compile(
    r"(?P<before>postgres[\w+]*:/{2}(?:[^@/]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>(?:[/?].*)?)"
)
# What Python's driver takes from a URL of SQLite's.
SQLITE_OPTIONS = {"cached_statements", "check_same_thread", "detect_types", "isolation_level", "timeout"}


def database_url(value: str) -> str:
    """Return the URL of a PostgreSQL server or of a SQLite file."""
    try:
        url = _url_with_hosts(value)
    except (ArgumentError, ValueError):
        msg = "write a database URL, such as postgresql://user:password@host/name"
        raise ValueError(msg) from None
    if url.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    # Of a database in memory or behind a `file:` URI nobody could tell which file to scrub.
    if url.drivername == "sqlite" and url.database and not url.database.startswith((":memory:", "file:")):
        # SQLAlchemy drops what follows a ? and is no option.
        if "?" in value and (not url.query or url.query.keys() - SQLITE_OPTIONS):
            raise ValueError("write ? as %3F and % as %25 in the path of a sqlite:/// URL")
        return value
    msg = "write a URL that starts with postgresql:// or sqlite:/// and names a database"
    raise ValueError(msg)


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


def public_url(value: str) -> str:
    """Return an http or https URL without a path."""
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


def redis_url(value: str) -> str:
    """Return the URL of a Redis server."""
    try:
        usable = urlsplit(value).scheme in {"redis", "rediss"} and urlsplit(value).port != 0
    except ValueError:
        usable = False
    if not usable:
        msg = "write a URL that starts with redis:// or rediss://, such as redis://127.0.0.1:6379/0"
        raise ValueError(msg)
    return value


def one_line(value: str) -> str:
    """Return the text; a ValueError refuses what neither a header nor an SMTP command can carry."""
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in value):
        raise ValueError("write one line of UTF-8 text without control characters")
    return value


def _address(value: str) -> ValidatedEmail:
    try:
        return validate_email(value, check_deliverability=False, test_environment=True, allow_smtputf8=False)
    except EmailNotValidError:
        msg = "write an email address, such as privacy@example.org"
        raise ValueError(msg) from None


def email(value: str) -> str:
    """Return the address, normalized."""
    return _address(value).normalized


def sender(value: str) -> str:
    """Return a sender as `"name" <address>`: the name in clear, as the header's writer encodes it."""
    name, address = parseaddr(one_line(value))
    # What only looks like an encoded word is none.
    with suppress(HeaderParseError, LookupError, UnicodeError):
        name = one_line(str(make_header(decode_header(name))))
    return named(name or SERVICE, _address(address).ascii_email or address)


def named(name: str, address: str) -> str:
    """Return a name and an address as `parseaddr` reads them."""
    return f'"{quote(name)}" <{address}>'


def mail_server(value: str) -> str:
    """Return the host's name or address."""
    labels = value.removesuffix(".").split(".")
    is_name = re.fullmatch(r"[A-Za-z0-9._-]+", value) and all(1 <= len(label) <= LONGEST_LABEL for label in labels)
    if not is_name and not re.fullmatch(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*", value):
        raise ValueError(
            "write a host name or an address alone, such as smtp.example.org; TILES_MAIL_PORT has the port"
        )
    return value


def password(value: SecretStr) -> SecretStr:
    """Return a password of one line."""
    one_line(value.get_secret_value())
    return value


def keys(value: object) -> object:
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
