"""The keys that sign emailed tokens and receipts: from the settings, or from a file that the instance makes.

The newest key comes first and signs; every key verifies. The file is read for each token (8 µs), so that a rotation
reaches all processes of the instance at once. The database stores a digest of each key in use, so that a machine with
other keys is refused at its start.
"""

import hmac
import logging
from collections.abc import Callable, Collection
from functools import partial

from flask import Flask, current_app
from pydantic import SecretStr
from sqlalchemy import delete, insert, select

from backend import clock
from backend.config import PREFIX, SettingsError, settings
from backend.database import schema
from backend.database.engine import has_file, lock, reading, transaction
from backend.database.service_tables import KeyDigest
from backend.errors import Impossible
from backend.files import make_folder
from backend.security import key_file
from backend.security.key_file import Keys

LAST_READ = "tiles.keys"
# A key has at least 32 random characters: its digest does not help to guess it.
DIGEST_PURPOSE = b"tiles: this key signs for this database"
BY_HAND = f"""\
{PREFIX}SECRET_KEYS names the keys, so there is no file to rotate. To rotate by hand without losing a link:
  1. Make a key (openssl rand -hex 32) and put it last in {PREFIX}SECRET_KEYS of every process and machine: old,new.
     Restart them all: from then on each of them verifies what the new key signs.
  2. Put it first: new,old. Restart them all: from then on it signs.
  3. Take out the old one when nothing it signed is needed: links last for 72 hours, but those to unsubscribe, those
     that open a closed account again, and receipts of erasures last as long as their key.
After a theft do all of it in one: new alone, `tiles keys adopt`, and restart. What the old one signed is refused from
then on."""

log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Check the key file, if there is one.

    Raises:
        SettingsError: it cannot be read, or holds no usable key.
    """
    with app.app_context():
        if exist():
            in_use()


def make() -> None:
    """Make the instance folder and a key file where they are missing; no file where the settings name the keys.

    Raises:
        SettingsError: this process cannot make them.
    """
    make_folder(settings().instance_path)
    path = key_file.path()
    try:
        if not exist():
            key_file.write(path, (key_file.new_key(),))
    except OSError as error:
        raise SettingsError(key_file.explain(path, error)) from None
    in_use()


def in_use() -> Keys:
    """Return the keys, the newest first. An unreadable file does not stop a process that has read it before.

    Raises:
        SettingsError: this instance has no usable key.
    """
    if settings().secret_keys:
        return settings().secret_keys
    try:
        keys = key_file.read(key_file.path())
    except (OSError, ValueError) as error:
        keys = current_app.extensions.get(LAST_READ, ())
        if not keys:
            raise SettingsError(key_file.explain(key_file.path(), error)) from None
        log.error("the key file cannot be read, its last keys stay in use (%s)", type(error).__name__)  # noqa: TRY400
    current_app.extensions[LAST_READ] = keys
    return keys


def exist() -> bool:
    """Return whether the settings name keys or the instance has its file."""
    return bool(settings().secret_keys) or key_file.path().exists()


def digests(purpose: str) -> list[Callable[..., bytes]]:
    """Return a function for each key in use, the newest first, that makes digests of texts.

    Without the key nobody can find a text by trying.
    """
    keys = [hmac.digest(key.get_secret_value().encode(), purpose.encode(), "sha256") for key in in_use()]
    return [partial(_digest_of_texts, key) for key in keys]


def _digest_of_texts(key: bytes, *texts: str) -> bytes:
    return hmac.digest(key, "\0".join(texts).encode(), "sha256")


def are_others() -> bool:
    """Return whether the database knows keys, but none of the keys here."""
    known = _known_digests()
    return bool(known) and known.isdisjoint(_digests_here())


def require() -> None:
    """Refuse to sign with keys that the database does not know.

    Raises:
        Impossible: another machine signs with other keys, or the key was lost.
    """
    if are_others():
        place = f"{PREFIX}SECRET_KEYS" if settings().secret_keys else str(key_file.path())
        raise Impossible(
            f"{place}: none of the keys here is known to this database, which knows others. Another machine "
            f"signs with other keys, or {key_file.NAME} was not brought back after a restore: what those keys signed "
            "would be refused here. Put the other machine's keys, or the old key file, in place. If they are lost for "
            "good, run `tiles keys adopt`: unused links and receipts of erasures are refused from then on"
        )


def begin() -> None:
    """Make a key if there is none, and store the digests of the keys in use.

    Raises:
        Impossible: the database knows other keys. Nothing is made or stored.
    """
    require()
    adopt()


def adopt() -> None:
    """Make the keys here the only ones that the database knows; make a key if there is none."""
    make()
    _store(_digests_here())


def rotate(leaving: Collection[SecretStr] = ()) -> Keys:
    """Sign with a new key from now on; return the older keys that still verify: all but those in `leaving`.

    Raises:
        Impossible: the settings name the keys, the file cannot be read or written, or the database knows other keys.
    """
    if settings().secret_keys:
        raise Impossible(BY_HAND)
    new = key_file.new_key()
    if not (has_file() and schema.is_current()):
        make()
        return key_file.put_first(new, leaving)
    begin()
    # Stored before it signs, so that every process that meets the new key finds it in the database.
    _store({*_digests_here(), _digest(new)})
    kept = key_file.put_first(new, leaving)
    _store(_digests_here())
    return kept


def _digest(key: SecretStr) -> str:
    return hmac.digest(key.get_secret_value().encode(), DIGEST_PURPOSE, "sha256").hex()


def _digests_here() -> set[str]:
    return {_digest(key) for key in in_use()} if exist() else set()


def _known_digests() -> set[str]:
    with reading() as session:
        return set(session.scalars(select(KeyDigest.digest)))


def _store(digests: set[str]) -> None:
    with transaction() as session:
        lock("keys")
        known = _known_digests()
        session.execute(delete(KeyDigest).where(KeyDigest.digest.in_(known - digests)))
        if added := digests - known:
            today = clock.now().date()
            session.execute(insert(KeyDigest), [{"digest": digest, "first_seen": today} for digest in added])
