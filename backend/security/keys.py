"""The keys that sign mailed tokens and receipts: those of the settings, or a file that the instance made for itself.

The file names the newest first: it signs, and all of them verify. It is read whenever a token is issued or redeemed
(8 µs), so that a rotation reaches every process of the instance at once. Were it looked at only now and then, one
process would refuse what another had just signed, and a stolen key would stay good for a while.
"""

import fcntl
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, current_app
from pydantic import SecretStr

from backend.config import PREFIX, SettingsError, make_folder, settings
from backend.errors import Impossible
from backend.values import strong

NAME = "secret_key"
BY_HAND = f"""\
{PREFIX}SECRET_KEYS names the keys, so there is no file to put another into. By hand, losing no link:
  1. Make a key (openssl rand -hex 32) and put it last in {PREFIX}SECRET_KEYS of every process and machine: old,new.
     Restart them all: from then on each of them verifies what the new key signs.
  2. Put it first: new,old. Restart them all: from then on it signs.
  3. Take out the old one when nothing it signed is needed: links last for 72 hours, but those to unsubscribe, those
     that open a closed account again, and receipts of erasures last as long as their key.
After a theft do all of it in one: new alone, `tiles keys adopt`, and restart. What the old one signed is refused from
then on."""

Keys = tuple[SecretStr, ...]

log = logging.getLogger(__name__)


class _File:
    """The instance's own keys, as its file has them at the moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: Keys = ()

    def read(self) -> Keys:
        try:
            self._last = _read(self.path)
        except (OSError, ValueError) as error:
            if not self._last:
                raise SettingsError(_reason(self.path, error)) from None
            log.error("the key file cannot be read, its last keys go on (%s)", type(error).__name__)  # noqa: TRY400
        return self._last


def _reason(path: Path, error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return f"{path}: there is no key here yet; `tiles serve` makes one"
        case OSError():
            return f"{path}: this process cannot use the key file ({error.strerror})"
        case _:
            return f"{path} holds no usable key: delete it to have a new one made, or set {PREFIX}SECRET_KEYS"


def init_app(app: Flask) -> None:
    """Give the app its keys, if it has any yet.

    Raises:
        SettingsError: the instance's own file is of no use.
    """
    with app.app_context():
        given = settings()
    file = None if given.secret_keys else _File(given.instance_path / NAME)
    if file and file.path.exists():
        file.read()
    app.extensions["tiles.keys"] = file


def make() -> None:
    """Make the instance folder, and in it a key, where they are missing and the settings name no key.

    Raises:
        SettingsError: this process cannot make them.
    """
    make_folder(settings().instance_path)
    file = _file()
    if file is None:
        return
    try:
        if not file.path.exists():
            _make(file.path)
    except OSError as error:
        raise SettingsError(_reason(file.path, error)) from None
    file.read()


def _file() -> _File | None:
    found: _File | None = current_app.extensions["tiles.keys"]
    return found


def in_use() -> Keys:
    """Return the keys, the newest first: it signs, and all of them verify.

    Raises:
        SettingsError: this instance has no key yet.
    """
    file = _file()
    return file.read() if file else settings().secret_keys


def digests(purpose: str) -> Callable[..., bytes]:
    """Return what makes digests of texts for one purpose: without the newest key nobody can find a text by trying."""
    key = hmac.digest(in_use()[0].get_secret_value().encode(), purpose.encode(), "sha256")
    return lambda *texts: hmac.digest(key, "\0".join(texts).encode(), "sha256")


def exist() -> bool:
    """Tell whether there is a key: the settings name one, or the instance has its file."""
    file = _file()
    return file is None or file.path.exists()


def place() -> str:
    """Return where the keys are: the path of the file, or the setting."""
    file = _file()
    return str(file.path) if file else f"{PREFIX}SECRET_KEYS"


def rotate(leaving: Collection[SecretStr] = (), first: SecretStr | None = None) -> Keys:
    """Sign with another key from now on: `first`, or one that is made.

    Returns:
        The older ones that still verify: all but those that are to leave.

    Raises:
        Impossible: the settings name the keys, or the file is not to be read or written.
    """
    file = _file()
    if file is None:
        raise Impossible(BY_HAND)
    try:
        path = file.path.resolve()  # another file may stand for it
        with _locked(path):
            kept = tuple(key for key in _read(path) if key not in leaving)
            _replace(path, (first or new(), *kept))
    except OSError as error:
        msg = f"{file.path}: cannot be written ({error.strerror}); mend that, and run this once more"
        raise Impossible(msg) from None
    except ValueError:
        raise Impossible(f"{file.path} holds no usable key") from None
    return kept


def new() -> SecretStr:
    """Return a new key."""
    return SecretStr(secrets.token_urlsafe(32))


def _read(path: Path) -> Keys:
    keys = strong(tuple(SecretStr(key) for key in path.read_text("ascii").split()))
    if not keys:
        raise ValueError
    return keys


def _write(draft: Path, keys: Iterable[SecretStr], like: os.stat_result | None = None) -> None:
    """Write a file of keys that is on the disk when this returns, for those who may read the one that it is like."""
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if like:
            # Root may rotate for the service's own user, who has to read the file.
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode) & 0o640)
        file.writelines(f"{key.get_secret_value()}\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())


def _make(path: Path) -> None:
    """Make the file whole or not at all, so that of several starting processes all read the same key."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(draft, [new()])
        os.link(draft, path)
        _sync_folder(path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def _replace(path: Path, keys: Keys) -> None:
    """Put other keys in the place of the file's, whole or not at all; it is locked until it is replaced."""
    draft = path.with_name(f".{path.name}.next")
    draft.unlink(missing_ok=True)  # of a rotation that was killed
    try:
        _write(draft, keys, like=path.stat())
        draft.replace(path)
    except BaseException:
        # Not after it: a draft of this name is then the next one's.
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep the file from others who would replace it; it is the one that is there after waiting for them."""
    while True:
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file), path.stat()):
                yield
                return
        finally:
            os.close(file)
