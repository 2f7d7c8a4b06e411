"""The check of texts that stay in records for years: they must not name the person."""

import re
import unicodedata

from sqlalchemy import select

from backend.database.engine import AnyRow, reading
from backend.database.models import REASON_LENGTH, PreviousAddress
from backend.errors import Impossible


def refuse_naming(text: str, account: AnyRow | None) -> None:
    """Refuse a text that contains the name or an address of its account, or any address if no account is known.

    Raises:
        Impossible: it does, or it is not one line of at most `REASON_LENGTH` characters.
    """
    if len(text) > REASON_LENGTH or not text.strip() or not text.isprintable():
        raise Impossible(f"write 1 to {REASON_LENGTH} characters in one line")
    folded = unicodedata.normalize("NFKC", text).casefold()
    name = _words(account.name or "") if account else set()
    if (name and name <= _words(text)) or any(address in folded for address in _addresses(account)):
        raise Impossible("leave the person's name and address out: the record needs neither")


def _addresses(account: AnyRow | None) -> list[str]:
    if account is None:
        return ["@"]
    with reading() as session:
        previous = session.scalars(select(PreviousAddress.email).where(PreviousAddress.account_id == account.id))
        return [email.casefold() for email in (account.email, *previous)]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
