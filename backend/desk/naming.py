"""The check of texts that stay in records for years: they must not name the person."""

import re
import unicodedata

from backend.database.engine import AnyRow
from backend.database.models import REASON_LENGTH
from backend.errors import Impossible


def refuse_naming(text: str, account: AnyRow | None) -> None:
    """Refuse a text that contains the name of its account, or any email address.

    Raises:
        Impossible: it does, or it is not one line of at most `REASON_LENGTH` characters.
    """
    # Word processors put a no-break space into a law's name.
    is_plain = all(character.isprintable() or unicodedata.category(character) == "Zs" for character in text)
    if len(text) > REASON_LENGTH or not text.strip() or not is_plain:
        raise Impossible(f"write 1 to {REASON_LENGTH} visible characters in one line")
    folded = unicodedata.normalize("NFKC", text).casefold()
    name = _words(account.name or "") if account else set()
    if (name and name <= _words(text)) or "@" in folded:
        raise Impossible("leave the person's name and address out: the record needs neither")


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
