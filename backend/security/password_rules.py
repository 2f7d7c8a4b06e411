"""Refuse guessable passwords, each with reasons that help to choose a better one (NIST SP 800-63B-4, 3.1.1.2).

A password is judged as a whole and never for one word in it: after the guessable parts are removed, half of the
minimum length must remain. Any Unicode is allowed, and there are no composition rules (ASVS 5.0, 6.2.5).

`common_passwords.txt.gz` is made from the top million of Mark Burnett's "Ten Million Passwords" (2015, released into
the public domain; ranked by SecLists, `10-million-password-list-top-1000000.txt`): all entries of 15 characters or
more, those of 8 or more among the first 300,000, and letters-only ones of 4 or more among the first 100,000; after NFKC
and casefold, sorted, without duplicates, one a line.
"""

import gzip
import re
import string
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from importlib import resources
from itertools import groupby, pairwise

from backend.security.unicode import normalized

MAXIMUM = 256
"""The most code points of a password after NFKC (ASVS 5.0, 6.2.9 asks for 64 or more)."""

_SERVICE = "tiles"
_DISTINCT = 5

_TOO_SHORT = "It is shorter than {} characters: use a few words that do not belong together."
_TOO_LONG = f"It is longer than {MAXIMUM} characters: use a shorter one."
_COMMON = (
    "Many people use this password, with these or other digits and punctuation around it: "
    "use one that nobody else would think of."
)
_PERSONAL = (
    "It is built from your name, your email address or the name of this service, and little else: "
    "use words that have nothing to do with you."
)
_REPETITION = "It repeats a few characters: use different words."
_SEQUENCE = (
    "Most of it follows from the character before, as in the alphabet, in counting or along the keyboard: "
    "use words that do not belong together."
)

_KEYBOARD_ROWS = (
    *("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"),
    *("azertyuiop", "qsdfghjklm", "wxcvbn", "qwertzuiop", "yxcvbnm"),
    *("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm"),
    *("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
)
_NEIGHBOURS = frozenset(pair for row in _KEYBOARD_ROWS for pair in pairwise(row))

_AROUND = string.digits + string.punctuation
_NO_AROUND = str.maketrans("", "", _AROUND)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BETWEEN_WORDS = re.compile(rf"[\s{re.escape(_AROUND)}]+")
_NUMBER = re.compile(r"\d+")
_LEET = (str.maketrans("@4301!5$7+", "aaeoiisstt"), str.maketrans("@4301!5$7+", "aaeollsstt"))
_MARKS = re.compile("[\u0300-\u036f]")
_STROKES = str.maketrans("øłđı", "oldi")


def clean_password(password: str) -> str:
    """Return the password unchanged.

    Raises:
        ValueError: it is empty or too long.
    """
    if not password:
        raise ValueError("write a password")
    if normalized("NFKC", password, MAXIMUM) is None:
        raise ValueError(f"write a password of at most {MAXIMUM} characters")
    return password


def normalize(password: str) -> str:
    """Return the form that is counted, judged and hashed: NFKC, and nothing else (NIST SP 800-63B-4, 3.1.1.2).

    The time grows with the square of a run of combining marks: bound it first, as `clean_password` does.
    """
    return unicodedata.normalize("NFKC", password)


def weaknesses(password: str, *, minimum: int, name: str | None, email: str) -> list[str]:
    """Return a sentence for each reason to refuse the password. No sentence repeats the password, name or email.

    Args:
        password: any string, lone surrogates included. One over MAXIMUM code points is not judged further.
        minimum: the least code points after NFKC.
        name: the person's name.
        email: the person's address.

    Sources: NIST SP 800-63B-4, 3.1.1.2; ASVS 5.0, 6.2.1, 6.2.4, 6.2.5, 6.2.11 and 6.2.12.
    """
    text = normalized("NFKC", password, MAXIMUM)
    if text is None:
        return [_TOO_LONG]
    plain = "".join(normalize(text.casefold()).split())
    bare = _without_marks(plain)
    # Half of the minimum, or of a shorter password.
    enough = (min(minimum, len(text)) + 1) // 2
    repeats = len(_unit(plain)) < min(minimum, len(plain)) or len(set(plain)) < min(_DISTINCT, enough)
    woven = (plain[::2], plain[1::2])
    reasons = {
        _TOO_SHORT.format(minimum): len(text) < minimum,
        _COMMON: any(map(_is_listed, _guesses(bare))),
        _PERSONAL: _is_personal(bare, _personal_words(name or "", email), enough),
        _REPETITION: repeats,
        _SEQUENCE: not repeats and min(_surprises([plain]), _surprises(woven)) < enough,
    }
    return [reason for reason, holds in reasons.items() if holds]


def _without_marks(text: str) -> str:
    """Remove the marks and strokes of European letters; the vowel signs of other scripts stay."""
    unmarked = _MARKS.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", unmarked).translate(_STROKES)


@cache
def _common_passwords() -> str:
    packed = resources.files("backend.security").joinpath("common_passwords.txt.gz").read_bytes()
    return gzip.decompress(packed).decode("ascii")


def _is_listed(word: str) -> bool:
    # Binary search in one string: a set of the words would take ten times the memory.
    listed = _common_passwords()

    def line(at: int) -> str:
        return listed[listed.rfind("\n", 0, at) + 1 : listed.find("\n", at)]

    at = bisect_left(range(len(listed)), word, key=line)
    return at < len(listed) and line(at) == word


def _guesses(bare: str) -> set[str]:
    """Return the common passwords that this password may be built from."""
    core = bare.strip(_AROUND)
    guesses = {bare, core}
    guesses.update(form.translate(leet) for form in (core, bare.rstrip(_AROUND)) for leet in _LEET)
    letters = bare.translate(_NO_AROUND)
    # Fewer letters are an accident: a random hexadecimal string may have "cafe" for its letters.
    if 2 * len(letters) > len(bare):
        guesses.add(letters)
    return guesses | {_unit(guess) for guess in guesses}


def _unit(text: str) -> str:
    """Return the shortest beginning that gives the text when repeated; the last repetition may be partial."""
    periods = (size for size in range(1, len(text) // 2 + 1) if text.startswith(text[size:]))
    return text[: next(periods, len(text))]


def _personal_words(name: str, email: str) -> list[str]:
    """Return the words of the person and the service, forwards and backwards, the longest first."""
    local, _, domain = email.rpartition("@")
    labels, _, _ = domain.rpartition(".")
    wholes = (_SERVICE, name, email, local, domain)
    parts = (part for whole in (name, local, labels) for part in _BETWEEN_WORDS.split(whole))
    plain = ("".join(normalize(word.casefold()).split()) for word in (*wholes, *parts))
    words = {_without_marks(word).translate(_NO_PUNCTUATION) for word in plain}
    # Two Latin letters are found in any text; two Han characters are a name.
    words = {word for word in words if len(word) >= (3 if word.isascii() else 2)}
    return sorted(words | {word[::-1] for word in words}, key=lambda word: (-len(word), word))


def _is_personal(bare: str, words: list[str], enough: int) -> bool:
    spellings = (bare, *(bare.translate(leet) for leet in _LEET))
    return any(_little_remains(spelling, words, enough) for spelling in spellings)


def _little_remains(text: str, words: list[str], enough: int) -> bool:
    """Return whether the text has any of the words, and without them is common or shorter than enough.

    Each number counts for one character, and so does each punctuation mark, however often it occurs.
    """
    unpunctuated = text.translate(_NO_PUNCTUATION)
    rest = unpunctuated
    for word in words:
        rest = rest.replace(word, " ")
    if rest == unpunctuated:
        return False
    pieces = rest.split()
    marks = len(set(text).intersection(string.punctuation))
    surprises = _surprises(_NUMBER.sub("0", piece) for piece in pieces)
    return marks + surprises < enough or any(map(_is_listed, _guesses("".join(pieces))))


def _surprises(texts: Iterable[str]) -> int:
    """Return the number of characters that do not follow from the one before by repetition or in a run."""
    return sum(map(_unpredicted, texts))


def _unpredicted(text: str) -> int:
    changes = [character for character, _ in groupby(text)]
    steps = map(_steps, pairwise(changes))
    goes_on = (bool(step & next_step) for step, next_step in pairwise(steps))
    runs = (len(list(run)) + 1 for going_on, run in groupby(goes_on) if going_on)
    return len(changes) - sum(runs)


def _steps(pair: tuple[str, str]) -> set[str]:
    """Return the ways in which the second character follows the first: in the alphabet, or on the keyboard."""
    first, second = pair
    ways = {
        "next": ord(second) == ord(first) + 1,
        "previous": ord(second) == ord(first) - 1,
        "right": (first, second) in _NEIGHBOURS,
        "left": (second, first) in _NEIGHBOURS,
    }
    return {way for way, holds in ways.items() if holds}
