"""Which keys sign for this database, known by their digests: a machine that signs with others is told at its start."""

import hmac
from collections.abc import Collection

from pydantic import SecretStr
from sqlalchemy import delete, insert, select

from backend import clock
from backend.database import schema
from backend.database.engine import db, has_file, lock, reading, transaction
from backend.database.models import KeyDigest
from backend.errors import Impossible
from backend.security import keys

# A key has at least 32 random characters: nobody gets from this to the key.
PURPOSE = b"tiles: this key signs for this database"


def _digest(key: SecretStr) -> str:
    return hmac.digest(key.get_secret_value().encode(), PURPOSE, "sha256").hex()


def _here() -> set[str]:
    return {_digest(key) for key in keys.in_use()} if keys.exist() else set()


def _known() -> set[str]:
    return set(db.session.scalars(select(KeyDigest.digest)))


def are_others() -> bool:
    """Tell whether this database knows keys, and none of those that are here."""
    with reading():
        known = _known()
    return bool(known) and known.isdisjoint(_here())


def require() -> None:
    """Refuse to sign with keys of which this database knows none, but others.

    Raises:
        Impossible: another machine signs with other keys, or the key was lost.
    """
    if are_others():
        raise Impossible(
            f"{keys.place()}: none of the keys here is known to this database, which knows others. Another machine "
            f"signs with other keys, or {keys.NAME} was not brought back after a restore: what those keys signed would "
            "be refused here. Put the other machine's keys, or the old key file, in place. If they are lost for good, "
            "run `tiles keys adopt`: unused links and receipts of erasures are refused from then on"
        )


def begin() -> None:
    """Make a key where there is none yet, and note which keys sign: what left is forgotten.

    Raises:
        Impossible: this database knows other keys. Nothing was made or noted.
    """
    require()
    adopt()


def make_first() -> None:
    """Make a key where there is none yet and this database knows none."""
    with reading():
        known = _known()
    if not known:
        keys.make()


def adopt() -> None:
    """Let the keys that are here be those of this database, and no others; make one where there is none yet."""
    keys.make()
    _note(_here())


def rotate(leaving: Collection[SecretStr]) -> keys.Keys:
    """Sign with a new key from now on; return the older ones that still verify: all but those that are to leave.

    Raises:
        Impossible: the settings name the keys, the file is not to be read or written, or this database knows others.
    """
    if not (has_file() and schema.is_current()):
        keys.make()
        return keys.rotate(leaving)
    begin()
    # The new one is noted before it signs, so that no process meets a key that nobody knows.
    new = keys.new()
    _note({*_here(), _digest(new)})
    kept = keys.rotate(leaving, new)
    _note(_here())
    return kept


def _note(digests: set[str]) -> None:
    with transaction() as session:
        lock("keys")
        known = _known()
        session.execute(delete(KeyDigest).where(KeyDigest.digest.in_(known - digests)))
        if added := digests - known:
            today = clock.now().date()
            session.execute(insert(KeyDigest), [{"digest": digest, "first_seen": today} for digest in added])
