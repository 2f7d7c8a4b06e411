"""Unicode normal forms, in time that grows with the length of the text (UAX 15)."""

import re
import unicodedata
from typing import Literal

# No character is composed of more.
LONGEST_DECOMPOSITION = 4
# They have combining class 0, and decompose into nothing but marks.
_MARKS_OF_CLASS_0 = re.compile("[\u0f73\u0f75\u0f81\uff9e\uff9f]")


def most_marks(text: str) -> int:
    """Return the length of the longest run of combining marks."""
    classes = bytes(map(unicodedata.combining, _MARKS_OF_CLASS_0.sub("\u0300", text)))
    return max(map(len, classes.split(b"\0")))


def normalized(form: Literal["NFC", "NFKC"], text: str, most: int) -> str | None:
    """Return a text in a normal form, or None if that has more than `most` code points.

    Normalizing sorts each run of marks, in time that grows with the square of its length: a run that cannot fit is
    refused before. Of a run, the letter before it takes in at most three.
    """
    if len(text) > LONGEST_DECOMPOSITION * most or most_marks(text) >= most + LONGEST_DECOMPOSITION:
        return None
    text = unicodedata.normalize(form, text)
    return text if len(text) <= most else None
