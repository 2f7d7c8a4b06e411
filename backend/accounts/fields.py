"""The name and the address that a person gives: how each is read, cleaned and stored."""

import re
import unicodedata

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES

from backend.database.models import EMAIL_LENGTH, NAME_LENGTH
from backend.security.unicode import normalized

# What most addresses are. The library takes twenty times as long over one, and finds it the same.
PLAIN = re.compile(
    r"(?P<local>(?=[^@]{1,64}@)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@(?P<domain>(?:(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"(?!..--)(?:[A-Za-z0-9][A-Za-z0-9-]{0,61})?[A-Za-z])"
)
# What stands between the labels of a domain (UTS 46 section 2.3), and how long each may be (RFC 1035 section 2.3.4).
DOTS = re.compile("[.\u3002\uff0e\uff61]")
LABEL_LENGTH = 63
# Names that are no domain of anybody; the library takes `test` where it is told that it is tested.
RESERVED = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES if name != "test")
# Letters and symbols by their category that show nothing: Hangul fillers, blank Braille.
BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# They reorder what follows them on the screen, so that a name could pass for other text (UAX 9 section 2).
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_name(name: str) -> str:
    """Return a name as it is stored: trimmed and in NFC.

    Raises:
        ValueError: nothing of it can be seen, it is too long, or has characters that control how text is shown.
    """
    composed = normalized("NFC", name.strip(), NAME_LENGTH) or ""
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in BIDI_CONTROLS for c in composed):
        msg = "write a name without line breaks and other control characters"
        raise ValueError(msg)
    if not any(map(_is_visible, composed)):
        msg = f"write a name of 1 to {NAME_LENGTH} characters"
        raise ValueError(msg)
    return composed


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS" and character not in BLANK


def clean_email(email: str) -> str:
    """Return an address as it is stored, its domain in lower case and Unicode.

    The part before the @ is ASCII, so that two addresses which differ never compare as equal.

    Raises:
        ValueError: it is no address that mail can be sent to.
    """
    if len(email) <= EMAIL_LENGTH and (plain := PLAIN.fullmatch(email)):
        local, domain = plain["local"], plain["domain"].lower()
        if local.lower() not in CASE_INSENSITIVE_MAILBOX_NAMES and not domain.endswith(RESERVED):
            return f"{local}@{domain}"
    return parsed_email(email)


def parsed_email(email: str) -> str:
    """Return an address as the library finds it to be written; raises what `clean_email` raises."""
    msg = "write an email address, such as ada@example.org"
    local, _, domain = email.rpartition("@")
    # The library's time grows with the square of the longest label, and it refuses one of this length in the end.
    labels = DOTS.split(normalized("NFC", domain, EMAIL_LENGTH) or "")
    if not 1 <= len(local) <= EMAIL_LENGTH or not local.isascii() or max(map(len, labels)) > LABEL_LENGTH:
        raise ValueError(msg)
    try:
        parsed = validate_email(
            email, check_deliverability=False, test_environment=True, allow_smtputf8=False, strict=True
        )
    except EmailNotValidError:
        raise ValueError(msg) from None
    if len(parsed.normalized) > EMAIL_LENGTH:
        msg = f"write an email address of at most {EMAIL_LENGTH} characters"
        raise ValueError(msg)
    return parsed.normalized
