"""The file that holds an instance's keys, the newest first: it is read whole, and replaced whole or not at all."""

import fcntl
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from backend.config import PREFIX, settings
from backend.errors import Impossible
from backend.files import sync
from backend.values import strong

NAME = "secret_key"

Keys = tuple[SecretStr, ...]


def path() -> Path:
    """Return the path of the file, which may be missing."""
    return settings().instance_path / NAME


def new_key() -> SecretStr:
    """Return a new random key."""
    return SecretStr(secrets.token_urlsafe(32))


def read(file: Path) -> Keys:
    """Return the keys in a file; raise ValueError if none of them is usable."""
    keys = strong(tuple(SecretStr(key) for key in file.read_text("ascii").split()))
    if not keys:
        raise ValueError
    return keys


def explain(file: Path, error: OSError | ValueError) -> str:
    """Return why a file cannot be used, and what to do."""
    match error:
        case FileNotFoundError():
            return f"{file}: there is no key here yet; `tiles serve` makes one"
        case OSError():
            return f"{file}: this process cannot use the key file ({error.strerror})"
        case _:
            return f"{file} holds no usable key: delete it to have a new one made, or set {PREFIX}SECRET_KEYS"


def put_first(new: SecretStr, leaving: Collection[SecretStr]) -> Keys:
    """Add a key that signs from now on; return the older keys that still verify: all but those in `leaving`.

    Raises:
        Impossible: the file cannot be read or written.
    """
    file = path().resolve()  # it may be a link
    try:
        with _opened(file.parent) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)  # one rotation at a time
            kept = tuple(key for key in read(file) if key not in leaving)
            write(file, (new, *kept), like=file.stat())
    except OSError as error:
        msg = f"{path()}: cannot be written ({error.strerror}); fix that, and run the command again"
        raise Impossible(msg) from None
    except ValueError:
        raise Impossible(f"{path()} holds no usable key") from None
    return kept


def write(file: Path, keys: Keys, like: os.stat_result | None = None) -> None:
    """Replace the file whose status is `like`, or make a new one unless there is one; completely or not at all."""
    draft = file.with_name(f".{file.name}.{'next' if like else secrets.token_hex(8)}")
    draft.unlink(missing_ok=True)  # left by a rotation that was killed
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            if like:
                # Root may rotate for the service's own user, who has to read the file.
                os.fchown(stream.fileno(), like.st_uid, like.st_gid)
                os.fchmod(stream.fileno(), stat.S_IMODE(like.st_mode) & 0o640)
            stream.writelines(f"{key.get_secret_value()}\n" for key in keys)
            stream.flush()
            os.fsync(stream.fileno())
        if like:
            draft.replace(file)
        else:
            with suppress(FileExistsError):  # another process was faster
                os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    sync(file.parent)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
