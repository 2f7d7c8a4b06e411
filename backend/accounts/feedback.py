"""Feedback: messages from the app, each stored once."""

import hashlib
import re
import unicodedata
import uuid
from dataclasses import dataclass
from functools import cache
from typing import cast

from sqlalchemy import Table, UpdateBase, bindparam, literal, select

from backend import clock
from backend.accounts.sessions import Viewer
from backend.database import outbox
from backend.database.engine import db, insert_unless_taken, reading
from backend.database.models import Account, Feedback
from backend.errors import FieldError, InvalidRequest, Unauthenticated
from backend.security import throttle
from backend.security.unicode import LONGEST_DECOMPOSITION, most_marks

MESSAGE_LENGTH = 4000
# No language has more on a letter (UAX 15, stream-safe text).
MOST_MARKS = 30
KEY_LENGTH = 255
# The categories Cc, except line breaks and tabs, and Cs.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
TABLE = cast("Table", Feedback.__table__)


def clean_message(message: str) -> str:
    """Return a message as it is stored: trimmed and in NFC. A ValueError says which rule it breaks."""
    length = f"write 1 to {MESSAGE_LENGTH:,} characters"
    if len(message) > LONGEST_DECOMPOSITION * MESSAGE_LENGTH:
        raise ValueError(length)
    # Before normalizing, whose time grows with the square of the marks in a row.
    if most_marks(message) > MOST_MARKS:
        msg = f"write text with at most {MOST_MARKS} accents on one letter"
        raise ValueError(msg)
    composed = unicodedata.normalize("NFC", message.replace("\r\n", "\n").strip())
    if not 1 <= len(composed) <= MESSAGE_LENGTH:
        raise ValueError(length)
    if _CONTROLS.search(composed):
        raise ValueError("write text without control characters other than line breaks and tabs")
    return composed


@dataclass(frozen=True, slots=True)
class FeedbackReceipt:
    """The id of a stored message, and when it was received."""

    id: uuid.UUID
    received_at: clock.Moment


def submit(viewer: Viewer | None, *, message: str, key: str | None, client: str | None) -> FeedbackReceipt:
    """Store a message once: the same key with the same message returns the same result."""
    account_id = viewer.account.id if viewer else None
    throttle.charge("feedback", client=client, account=str(account_id) if account_id else None)
    key_sha256 = _digest(account_id, key, message) if key is not None else None
    stored = FeedbackReceipt(uuid.uuid4(), clock.now())
    row = {"id": stored.id, "received_at": stored.received_at, "message": message, "key_sha256": key_sha256}
    writer = {"account_id": account_id} if account_id else {}
    if outbox.write(_insertion(db.engine.dialect.name, signed_in=bool(writer)), **row, **writer):
        return stored
    return _stored_before(key_sha256, message)


@cache
def _insertion(_dialect: str, *, signed_in: bool) -> UpdateBase:
    """Return the statement that stores a message, unless its key is taken or its writer's account is closed."""
    names = ("id", "received_at", "message", "key_sha256")
    values = {name: bindparam(name, type_=TABLE.c[name].type) for name in names}
    if not signed_in:
        return insert_unless_taken(TABLE).values(values)
    is_writer = (Account.id == bindparam("account_id")) & Account.closed_at.is_(None)
    # Locked, so that the account is not closed before the message is stored.
    source = select(*values.values(), Account.id).where(is_writer).with_for_update(read=True)
    return insert_unless_taken(TABLE).from_select([*values, "account_id"], source)


def _digest(account_id: uuid.UUID | None, key: str, message: str) -> bytes:
    """Scope a key to its account; without one also to the message, as strangers could guess keys."""
    if not (1 <= len(key) <= KEY_LENGTH and key.isascii() and key.isprintable()):
        rule = f"write an Idempotency-Key of 1 to {KEY_LENGTH} printable ASCII characters, a new one for each message"
        raise InvalidRequest(errors=[FieldError("", rule)])
    scoped = f"{account_id}\0{key}" if account_id else f"{account_id}\0{key}\0{message}"
    return hashlib.sha256(scoped.encode()).digest()


def _stored_before(key_sha256: bytes | None, message: str) -> FeedbackReceipt:
    """Return what the same key and message returned before; if nothing did, the account was closed."""
    columns = (Feedback.id, Feedback.received_at, Feedback.message)
    # A message without a key has the key NULL, which equals no row's.
    with reading() as session:
        row = session.execute(select(*columns).where(Feedback.key_sha256 == literal(key_sha256))).one_or_none()
    if row is None:
        raise Unauthenticated
    if row.message != message:
        rule = "this Idempotency-Key was used for another message: use a new one for each"
        raise InvalidRequest(errors=[FieldError("", rule)])
    return FeedbackReceipt(row.id, row.received_at)
