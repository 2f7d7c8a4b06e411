"""The name and the email that a person enters: how each is checked and stored."""

import re
import unicodedata

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES

from backend.database.models import EMAIL_LENGTH, NAME_LENGTH
from backend.security.unicode import normalized
from backend.values import is_one_line

# Most addresses match. The library takes twenty times as long, and returns the same.
PLAIN = re.compile(
    r"(?P<local>(?=[^@]{1,64}@)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@(?P<domain>(?:(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"(?!..--)(?:[A-Za-z0-9][A-Za-z0-9-]{0,61})?[A-Za-z])"
)
# The separators of a domain's labels (UTS 46 section 2.3), and the longest label (RFC 1035 section 2.3.4).
DOTS = re.compile("[.\u3002\uff0e\uff61]")
LABEL_LENGTH = 63
# Domains that nobody can have, except `test`, which tests use.
RESERVED = tuple(f".{name}" for name in SPECIAL_USE_DOMAIN_NAMES if name != "test")
# These letters and symbols are invisible: Hangul fillers, blank Braille.
BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# These reorder the text beside them, so that a name could pass for other text (UAX 9 section 2). Copying from some
# programs leaves them around a name.
BIDI_CONTROLS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


# Characters that are stripped from both ends of a name: direction marks and white space.
AROUND = "".join(BIDI_CONTROLS) + "".join(filter(str.isspace, map(chr, range(0x3001))))


def clean_name(name: str) -> str:
    """Return a name as it is stored: in NFC, without white space and direction marks around it.

    A ValueError says which rule it breaks.
    """
    composed = normalized("NFC", name.strip(AROUND), NAME_LENGTH) or ""
    if inside := BIDI_CONTROLS.intersection(composed):
        msg = f"write a name without the invisible direction mark U+{ord(min(inside)):04X} inside it"
        raise ValueError(msg)
    if not is_one_line(composed):
        raise ValueError("write a name without line breaks and other control characters")
    if not any(map(_is_visible, composed)):
        msg = f"write a name of 1 to {NAME_LENGTH} characters"
        raise ValueError(msg)
    return composed


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS" and character not in BLANK


def clean_email(email: str) -> str:
    """Return an email as it is stored, its domain in lower case and Unicode. A ValueError says which rule it breaks.

    White space around it falls off, and a full-width @ is read as @. The part before the @ is ASCII, so that two
    different addresses never compare as equal.
    """
    email = email.strip().replace("\uff20", "@")
    if len(email) <= EMAIL_LENGTH and (plain := PLAIN.fullmatch(email)):
        local, domain = plain["local"], plain["domain"].lower()
        if local.lower() not in CASE_INSENSITIVE_MAILBOX_NAMES and not domain.endswith(RESERVED):
            return f"{local}@{domain}"
    return parsed_email(email)


def parsed_email(email: str) -> str:
    """Return the same as `clean_email`, without its shortcut for plain addresses."""
    msg = _fault(email)
    local, _, domain = email.rpartition("@")
    # The library's time grows with the square of the longest label, and it refuses longer ones only at the end.
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


def _fault(email: str) -> str:
    """Return the most likely rule that a text breaks, if it is no email address."""
    local, _, domain = email.rpartition("@")
    if not (local and domain):
        return "write an email address, such as ada@example.org"
    if "@" in local:
        return "write an email address with one @ only, such as ada@example.org"
    if not local.isascii():
        return "write the part before the @ without accents and other scripts: this service cannot send email there"
    if not DOTS.search(domain):
        return "write the part after the @ with its dot, such as example.org"
    return "write an email address, such as ada@example.org"
