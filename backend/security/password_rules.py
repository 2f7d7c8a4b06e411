"""What a password must not be, said so that the person can do better (NIST SP 800-63B-4, section 3.1.1.2).

A password is judged whole, never for containing a word: what anybody could guess is taken away, and half of the
minimum length has to remain. Any Unicode is welcome, and there are no composition rules (ASVS 5.0, 6.2.5).

`common_passwords.txt.gz` is made from the top million of Mark Burnett's "Ten Million Passwords" (2015, released into
the public domain; the ranking is that of SecLists, `10-million-password-list-top-1000000.txt`): every entry of 15
characters or more, those of 8 or more among the first 300,000, and those of 4 or more that are letters only among the
first 100,000, as NFKC and casefold leave them, sorted, each once, one a line.
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
"""The most code points that a password may have, after NFKC (ASVS 5.0, 6.2.9 asks for 64 or more)."""

_SERVICE = "tiles"

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

_DISTINCT = 5
_NEXT, _PREVIOUS, _RIGHT, _LEFT = 1, -1, 2, -2

_ROWS = (
    *("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"),
    *("azertyuiop", "qsdfghjklm", "wxcvbn", "qwertzuiop", "yxcvbnm"),
    *("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm"),
    *("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
)
_NEIGHBOURS = frozenset(pair for row in _ROWS for pair in pairwise(row))

_AROUND = string.digits + string.punctuation
_NO_AROUND = str.maketrans("", "", _AROUND)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BETWEEN_WORDS = re.compile(rf"[\s{re.escape(_AROUND)}]+")
_NUMBER = re.compile(r"\d+")
_LEET = (str.maketrans("@4301!5$7+", "aaeoiisstt"), str.maketrans("@4301!5$7+", "aaeollsstt"))

_MARKS = re.compile("[\u0300-\u036f]")
_STROKES = str.maketrans("øłđı", "oldi")


def clean_password(password: str) -> str:
    """Return a password as it was sent, if it can be one.

    Raises:
        ValueError: it is empty or too long.
    """
    if not normalized("NFKC", password, MAXIMUM):
        raise ValueError(f"write a password of 1 to {MAXIMUM} characters")
    return password


def normalize(password: str) -> str:
    """Return the form that is counted, judged and hashed: NFKC, and nothing else (NIST SP 800-63B-4, 3.1.1.2).

    The time grows with the square of a run of combining marks: bound it first, as `clean_password` does.
    """
    return unicodedata.normalize("NFKC", password)


def weaknesses(password: str, *, minimum: int, name: str | None, email: str) -> list[str]:
    """Return every reason to refuse the password, each a sentence for the person who typed it; none when it is fine.

    No sentence repeats anything of the password, the name or the email. No string raises, lone surrogates included,
    and one of more than MAXIMUM code points is looked at no further. `minimum` counts code points after NFKC.

    Sources: NIST SP 800-63B-4, 3.1.1.2 (length, blocklist, context, reasons); ASVS 5.0, 6.2.1, 6.2.4, 6.2.5, 6.2.11
    and 6.2.12.
    """
    text = normalized("NFKC", password, MAXIMUM)
    if text is None:
        return [_TOO_LONG]
    plain = _plain(text)
    bare = _bare(plain)
    enough = (min(minimum, len(text)) + 1) // 2
    found = {
        _TOO_SHORT.format(minimum): len(text) < minimum,
        _COMMON: _is_common(bare),
        _PERSONAL: _is_personal(bare, _personal_words(name or "", email), enough),
        **_regularity(plain, minimum, enough),
    }
    return [reason for reason, holds in found.items() if holds]


def _plain(text: str) -> str:
    """Return the text without case and spaces."""
    return "".join(normalize(text.casefold()).split())


def _bare(plain: str) -> str:
    """Return the text without the marks and strokes of European letters; the vowel signs of other scripts stay."""
    unmarked = _MARKS.sub("", unicodedata.normalize("NFD", plain))
    return unicodedata.normalize("NFC", unmarked).translate(_STROKES)


@cache
def _common_passwords() -> str:
    packed = resources.files("backend.security").joinpath("common_passwords.txt.gz").read_bytes()
    return gzip.decompress(packed).decode("ascii")


def _is_common(bare: str) -> bool:
    return any(map(_is_listed, _guesses(bare)))


def _is_listed(word: str) -> bool:
    # The list stays one string, searched by halves: a set of its words would take ten times the memory.
    listed = _common_passwords()

    def line(at: int) -> str:
        return listed[listed.rfind("\n", 0, at) + 1 : listed.find("\n", at)]

    found = bisect_left(range(len(listed)), word, key=line)
    return found < len(listed) and line(found) == word


def _guesses(bare: str) -> set[str]:
    """Return what somebody with a list of common passwords could have started from."""
    core = bare.strip(_AROUND)
    guesses = {bare, core}
    guesses.update(form.translate(leet) for form in (core, bare.rstrip(_AROUND)) for leet in _LEET)
    letters = bare.translate(_NO_AROUND)
    # Without this a random hexadecimal string with "cafe" for its letters would be refused.
    if 2 * len(letters) > len(bare):
        guesses.add(letters)
    return guesses | {_unit(guess) for guess in guesses}


def _unit(text: str) -> str:
    """Return the shortest beginning that gives the text when repeated, the last time perhaps in part."""
    periods = (size for size in range(1, len(text) // 2 + 1) if text.startswith(text[size:]))
    return text[: next(periods, len(text))]


def _personal_words(name: str, email: str) -> list[str]:
    """Return the words that stand for the person or the service, also backwards, the longest first."""
    local, _, domain = email.rpartition("@")
    labels, _, _ = domain.rpartition(".")
    wholes = (_SERVICE, name, email, local, domain)
    parts = (part for whole in (name, local, labels) for part in _BETWEEN_WORDS.split(whole))
    words = {_bare(_plain(word)).translate(_NO_PUNCTUATION) for word in (*wholes, *parts)}
    words |= {word[::-1] for word in words}
    return sorted(filter(_is_telling, words), key=lambda word: (-len(word), word))


def _is_telling(word: str) -> bool:
    """Return whether finding the word is no accident: two Latin letters may be, two Han characters are a name."""
    return len(word) >= (3 if word.isascii() else 2)


def _is_personal(bare: str, words: list[str], enough: int) -> bool:
    spellings = {bare, *(bare.translate(leet) for leet in _LEET)}
    return any(_little_remains(spelling, words, enough) for spelling in spellings)


def _little_remains(text: str, words: list[str], enough: int) -> bool:
    """Return whether the text has any of the words, and without them is a common password or less than enough.

    Each number counts for one character, and so does each punctuation mark, however often it is there.
    """
    unpunctuated = text.translate(_NO_PUNCTUATION)
    rest = unpunctuated
    for word in words:
        rest = rest.replace(word, " ")
    if rest == unpunctuated:
        return False
    pieces = rest.split()
    marks = len(set(text).intersection(string.punctuation))
    return marks + _surprises(_NUMBER.sub("0", piece) for piece in pieces) < enough or _is_common("".join(pieces))


def _regularity(plain: str, minimum: int, enough: int) -> dict[str, bool]:
    unit = _unit(plain)
    repeats = len(unit) < min(minimum, len(plain)) or len(set(plain)) < min(_DISTINCT, enough)
    woven = (plain[::2], plain[1::2])
    follows = min(_surprises([plain]), _surprises(woven)) < enough
    return {_REPETITION: repeats, _SEQUENCE: follows and not repeats}


def _surprises(texts: Iterable[str]) -> int:
    """Return how many characters are left when each repeated character and each run counts for one."""
    return sum(map(_unpredicted, texts))


def _unpredicted(text: str) -> int:
    changes = [character for character, _ in groupby(text)]
    steps = map(_steps, pairwise(changes))
    goes_on = (bool(step & next_step) for step, next_step in pairwise(steps))
    runs = (len(list(run)) + 1 for going_on, run in groupby(goes_on) if going_on)
    return len(changes) - sum(runs)


def _steps(pair: tuple[str, str]) -> set[int]:
    """Return the ways in which the second character follows from the first."""
    steps = {_NEXT, _PREVIOUS} & {ord(pair[1]) - ord(pair[0])}
    if pair in _NEIGHBOURS:
        steps.add(_RIGHT)
    if pair[::-1] in _NEIGHBOURS:
        steps.add(_LEFT)
    return steps
