"""The texts that a data manager publishes, in a file or in a form."""

import unicodedata

from backend.errors import Impossible


def plain_text(content: bytes) -> str:
    """Return a text in UTF-8 with LF as its line ends, or raise Impossible."""
    try:
        # Some editors write a byte order mark.
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise Impossible("this is not text in UTF-8: save it as UTF-8") from None
    if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in text):
        raise Impossible("this is not plain text: it holds control characters other than line breaks and tabs")
    return text
