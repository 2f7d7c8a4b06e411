"""Unicode normal forms in linear time (UAX 15)."""

import re
import unicodedata
from typing import Literal

# No character decomposes into more.
LONGEST_DECOMPOSITION = 4
# These have combining class 0, but decompose into marks.
_MARKS_OF_CLASS_0 = re.compile("[\u0f73\u0f75\u0f81\uff9e\uff9f]")


def most_marks(text: str) -> int:
    """Return the length of the longest run of combining marks."""
    classes = bytes(map(unicodedata.combining, _MARKS_OF_CLASS_0.sub("\u0300", text)))
    return max(map(len, classes.split(b"\0")))


def normalized(form: Literal["NFC", "NFKC"], text: str, most: int) -> str | None:
    """Return the text in a normal form, or None if that has more than `most` code points.

    Normalizing sorts each run of marks in quadratic time, so a run that cannot fit is refused first. The letter before
    a run takes in at most three of its marks.
    """
    if len(text) > LONGEST_DECOMPOSITION * most or most_marks(text) >= most + LONGEST_DECOMPOSITION:
        return None
    text = unicodedata.normalize(form, text)
    return text if len(text) <= most else None
