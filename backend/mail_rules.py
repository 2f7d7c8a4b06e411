"""What a setting about mails may say, so that no email fails at what the start accepted."""

import re
import unicodedata
from contextlib import suppress
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import parseaddr, quote

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

SERVICE = "TILES"
LONGEST_LABEL = 63  # RFC 1035 section 2.3.4


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


def email_address(value: str) -> str:
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


def host_name(value: str) -> str:
    """Return the host's name or address."""
    labels = value.removesuffix(".").split(".")
    is_name = re.fullmatch(r"[A-Za-z0-9._-]+", value) and all(1 <= len(label) <= LONGEST_LABEL for label in labels)
    if not is_name and not re.fullmatch(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*", value):
        raise ValueError(
            "write a host name or an address alone, such as smtp.example.org; TILES_MAIL_PORT has the port"
        )
    return value
