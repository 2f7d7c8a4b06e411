"""Folders and files of the instance."""

import os
from pathlib import Path

from backend.config import PREFIX, SettingsError


def make_folder(path: Path) -> None:
    """Make the instance folder, readable by its owner only.

    Raises:
        SettingsError: this process may not make it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{path}: this process cannot make the folder ({error.strerror}); {PREFIX}INSTANCE_PATH names another"
        raise SettingsError(msg) from None


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
