"""Feedback: what people write to us from the app, stored once."""

import hashlib
import re
import unicodedata
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import cast

from sqlalchemy import Table, UpdateBase, bindparam, select

from backend import clock
from backend.accounts.sessions import Viewer
from backend.database import outbox
from backend.database.engine import AnyRow, db, insert_unless_taken, reading
from backend.database.models import Account, Feedback
from backend.errors import FieldError, InvalidRequest, Unauthenticated
from backend.security.throttle import throttle
from backend.security.unicode import LONGEST_DECOMPOSITION, most_marks

MESSAGE_LENGTH = 4000
# No language has more on a letter (UAX 15, stream-safe text).
MOST_MARKS = 30
KEY_LENGTH = 255
# The categories Cc, but line breaks and tabs, and Cs.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
TABLE = cast(Table, Feedback.__table__)
ROW = ("id", "message", "received_at", "key_sha256")


def clean_message(message: str) -> str:
    """Return a message as it is stored: in NFC, without white space around it.

    Raises:
        ValueError: it is empty or too long, has too many accents on a letter, or control characters other than line
            breaks and tabs.
    """
    length = f"write 1 to {MESSAGE_LENGTH:,} characters"
    if len(message) > LONGEST_DECOMPOSITION * MESSAGE_LENGTH:
        raise ValueError(length)
    if most_marks(message) > MOST_MARKS:
        msg = f"write text with at most {MOST_MARKS} accents on one letter"
        raise ValueError(msg)
    composed = unicodedata.normalize("NFC", message.replace("\r\n", "\n").strip())
    if not 1 <= len(composed) <= MESSAGE_LENGTH:
        raise ValueError(length)
    if _CONTROLS.search(composed):
        msg = "write text without control characters other than line breaks and tabs"
        raise ValueError(msg)
    return composed


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a message was stored, under which id and when."""

    id: uuid.UUID
    received_at: datetime


def submit(viewer: Viewer | None, *, message: str, key: str | None, client: str | None) -> Receipt:
    """Store a message once; the same key with the same message again gives the same receipt.

    Raises:
        InvalidRequest: the key is none, or was used for another message.
        Unauthenticated: the account was closed meanwhile.
    """
    account_id = viewer.account.id if viewer else None
    throttle().charge("feedback", client=client, account=str(account_id) if account_id else None)
    key_sha256 = _digest(account_id, key, message) if key is not None else None
    receipt = Receipt(uuid.uuid4(), clock.now())
    row = {"id": receipt.id, "message": message, "received_at": receipt.received_at, "key_sha256": key_sha256}
    insertion = _insertion(db.engine.dialect.name, signed_in=account_id is not None)
    if outbox.write(insertion, **row, **({"account_id": account_id} if account_id else {})):
        return receipt
    return _stored_before(key_sha256, message)


@cache
def _insertion(_dialect: str, *, signed_in: bool) -> UpdateBase:
    """Return the statement that stores a message unless its key is taken or its writer's account was closed."""
    values = {name: bindparam(name, type_=TABLE.c[name].type) for name in ROW}
    if not signed_in:
        return insert_unless_taken(TABLE).values(values)
    # The account stays as it is until the message is stored.
    writer = (
        select(*values.values(), Account.id)
        .where(Account.id == bindparam("account_id"), Account.closed_at.is_(None))
        .with_for_update(read=True)
    )
    return insert_unless_taken(TABLE).from_select([*values, "account_id"], writer)


def _digest(account_id: uuid.UUID | None, key: str, message: str) -> bytes:
    """Return what a message is known by: of an account by its key, of strangers, who may guess keys, by both."""
    if not (1 <= len(key) <= KEY_LENGTH and key.isascii() and key.isprintable()):
        rule = f"write an Idempotency-Key of 1 to {KEY_LENGTH} printable ASCII characters, a new one for each message"
        raise InvalidRequest(errors=[FieldError("", rule)])
    sender = f"{account_id}\0{key}" if account_id else f"{account_id}\0{key}\0{message}"
    return hashlib.sha256(sender.encode()).digest()


def _stored_before(key_sha256: bytes | None, message: str) -> Receipt:
    """Return the receipt of the same message; where there is none, the account was closed."""
    if key_sha256 is None:
        raise Unauthenticated
    with reading() as session:
        found = session.execute(
            select(Feedback.id, Feedback.received_at, Feedback.message).where(Feedback.key_sha256 == key_sha256)
        ).one_or_none()
    if found is None:
        raise Unauthenticated
    if found.message != message:
        rule = "this Idempotency-Key was used for another message: use a new one for each"
        raise InvalidRequest(errors=[FieldError("", rule)])
    return Receipt(found.id, found.received_at)


def listed() -> list[AnyRow]:
    """Return every message: id, when, whether it was sent signed in, and what it says; the newest first."""
    signed_in = Feedback.account_id.is_not(None).label("signed_in")
    with reading() as session:
        columns = (Feedback.id, Feedback.received_at, signed_in, Feedback.message)
        return list(session.execute(select(*columns).order_by(Feedback.received_at.desc())))
