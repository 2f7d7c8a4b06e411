"""Validators for single settings: URLs, addresses and keys. Each returns the value, or raises a ValueError."""

import ipaddress
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
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
HOST = re.compile(r"([A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
# A label of a host name has at most 63 characters (RFC 1035 section 2.3.4).
MAIL_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
SEVERAL_HOSTS = re.compile(
    r"(?P<before>postgres[\w+]*:/{2}(?:[^@/]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>(?:[/?].*)?)"
)


# An app's prefix of ten characters, and its bundle ID.
IOS_APP = re.compile(r"[A-Z0-9]{10}\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
ANDROID_APP = re.compile(
    r"(?P<package>[A-Za-z]\w*(\.[A-Za-z]\w*)+)\s*[=:\s]\s*(?P<fingerprint>[0-9A-F]{2}(:[0-9A-F]{2}){31})", re.ASCII
)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+")


def database_url(value: str) -> str:
    """Check the URL of a PostgreSQL server or of a SQLite file."""
    try:
        url = _url_with_hosts(value)
    except (ArgumentError, ValueError):
        raise ValueError("write a database URL, such as postgresql://user:password@host/name") from None
    if url.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    # For a database in memory or behind a `file:` URI there is no known file to scrub.
    if url.drivername != "sqlite" or not url.database or url.database.startswith((":memory:", "file:")):
        raise ValueError("write a URL that starts with postgresql:// or sqlite:/// and names a database")
    # The service sets the driver's options itself, and SQLAlchemy drops the text after a ?.
    if "?" in value:
        raise ValueError("write ? as %3F and % as %25 in the path of a sqlite:/// URL, which takes no options")
    return value


def _url_with_hosts(value: str) -> URL:
    """Parse a URL that may have libpq's list of hosts; SQLAlchemy takes such a list in the query only."""
    several = SEVERAL_HOSTS.fullmatch(value)
    if not several:
        return make_url(value)
    matches = [re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]\s]+)(?::(\d+))?", host) for host in several["hosts"].split(",")]
    if not all(matches):
        raise ValueError
    hosts, ports = zip(*[(unquote(host[1].strip("[]")), host[2] or "") for host in matches if host], strict=True)
    query = {"host": ",".join(hosts), **({"port": ",".join(ports)} if any(ports) else {})}
    return make_url(several["before"] + several["after"]).update_query_dict(query)


def public_url(value: str) -> str:
    """Return an http or https URL without a path as a browser writes an origin (RFC 6454)."""
    scheme, _, host = value.rstrip("/").lower().partition("://")
    with suppress(ValueError):
        if scheme in DEFAULT_PORTS and HOST.fullmatch(host) and urlsplit(value).port != 0:
            return f"{scheme}://{host.removesuffix(DEFAULT_PORTS[scheme])}"
    raise ValueError(
        "write an http or https URL without a path, such as https://accounts.example.org (xn--… if international)"
    )


def redis_url(value: str) -> str:
    """Check the URL of a Redis server."""
    with suppress(ValueError):
        if urlsplit(value).scheme in {"redis", "rediss"} and urlsplit(value).port != 0:
            return value
    raise ValueError("write a URL that starts with redis:// or rediss://, such as redis://127.0.0.1:6379/0")


def one_line(value: str) -> str:
    """Check that a header and an SMTP command can carry a text."""
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in value):
        raise ValueError("write one line of UTF-8 text without control characters")
    return value


def _address(value: str) -> ValidatedEmail:
    try:
        return validate_email(value, check_deliverability=False, test_environment=True, allow_smtputf8=False)
    except EmailNotValidError:
        raise ValueError("write an email address, such as privacy@example.org") from None


def email(value: str) -> str:
    """Check an email address, and normalize it."""
    return _address(value).normalized


def sender(value: str) -> str:
    """Return a sender as `"name" <address>`, with the name decoded."""
    name, address = parseaddr(one_line(value))
    # A name that only looks like an encoded word stays as it is.
    with suppress(HeaderParseError, LookupError, UnicodeError):
        name = one_line(str(make_header(decode_header(name))))
    return named(name or SERVICE, _address(address).ascii_email or address)


def named(name: str, address: str) -> str:
    """Return a name and an address as `parseaddr` reads them."""
    return f'"{quote(name)}" <{address}>'


def mail_server(value: str) -> str:
    """Check a host name or an address."""
    if not MAIL_HOST.fullmatch(value):
        raise ValueError("write a host name or an address alone, such as smtp.example.org; the port is TILES_MAIL_PORT")
    return value


def password(value: SecretStr) -> SecretStr:
    """Check that a password is one line."""
    one_line(value.get_secret_value())
    return value


def keys(value: object) -> object:
    """Split the comma-separated list of an environment variable."""
    return [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else value


def strong(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Check that no key can be guessed."""
    if any(len(key.get_secret_value()) < MINIMUM_KEY_LENGTH for key in keys):
        advice = f"write keys of at least {MINIMUM_KEY_LENGTH} random characters each"
        raise ValueError(f"{advice}, such as `openssl rand -hex 32` prints")
    return keys


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address is this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def literal(host: str) -> str:
    """Return a host as EHLO names it: an IP address is a literal (RFC 5321 section 4.1.3)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return f"[IPv6:{address}]" if isinstance(address, ipaddress.IPv6Address) else f"[{address}]"


def ios_app_ids(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check the ids of iPhone apps."""
    if not all(map(IOS_APP.fullmatch, values)):
        raise ValueError("write ids of a team and a bundle, such as ABCDE12345.org.example.tiles, comma-separated")
    return values


def android_apps(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return Android apps as `package=fingerprint`, the fingerprint in upper case."""
    apps = [re.sub("[0-9A-Fa-f:]{95}$", lambda match: match[0].upper(), value) for value in values]
    matches = [ANDROID_APP.fullmatch(app) for app in apps]
    if not all(matches):
        raise ValueError(
            "write a package and the SHA-256 fingerprint of its certificate, such as "
            "org.example.tiles=12:AB:… (32 bytes), comma-separated"
        )
    return tuple(f"{app['package']}={app['fingerprint']}" for app in matches if app)


def app_url(value: str) -> str:
    """Check a URL that opens the app."""
    if not SCHEME.fullmatch(value) or value.partition(":")[0] in {"javascript", "data", "vbscript", "file", "blob"}:
        raise ValueError("write the URL that opens the app, such as tiles://open or https://tiles.example.org/app")
    return value


def web_url(value: str) -> str:
    """Check the http or https URL of a page."""
    with suppress(ValueError):
        if SCHEME.fullmatch(value) and urlsplit(value).scheme in {"http", "https"} and urlsplit(value).hostname:
            return value
    raise ValueError("write an http or https URL, such as https://tiles.example.org/terms")
