"""Receipts of erasures: signed, so that whoever holds one can show it, and naming nobody."""

from typing import Any

from backend.database.engine import AnyRow
from backend.security import tokens
from backend.security.tokens import Purpose


def content_of(entry: AnyRow) -> dict[str, Any]:
    """Return what a receipt says, from the audit entry of the erasure.

    `account` is a random number, `requested_at` (None: nobody asked, its time was over) and `erased_at` are RFC 3339,
    `removed` and `kept` say for each store how many rows; `kept` says on which legal basis.
    """
    return {"account": str(entry.account_id), **entry.details}


def issue(entry: AnyRow) -> str:
    """Return the signed receipt of an erasure; it does not expire, and is good as long as its key is in use."""
    return tokens.issue(Purpose.RECEIPT, content_of(entry))


def verify(receipt: str) -> dict[str, Any]:
    """Return what a receipt says.

    Raises:
        InvalidToken: it is no receipt of this service, or was altered.
    """
    return tokens.redeem(Purpose.RECEIPT, "".join(receipt.split()))
