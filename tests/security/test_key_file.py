"""The key file that an instance creates: complete at every moment, and readable by its owner only."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forking import TILES
from journeys import MakeService, at_once
from server_process import environment
from support import Service, any_database

from backend import create_app
from backend.config import SettingsError, load
from backend.security import key_file, keys

OLD_KEY = "o" * 40


@pytest.fixture
def own(make_service: MakeService) -> Service:
    """The service with a key that the instance created."""
    return make_service(secret_keys="")


def file_of(service: Service) -> Path:
    return Path(service.app.instance_path) / key_file.NAME


def keys_in(path: Path) -> list[str]:
    """Return the keys of a file; check that it is complete and that only its owner can read it."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text("ascii")
    assert text.endswith("\n")
    assert all(len(key) >= 32 for key in text.split())
    return text.split()


def files_left_by_killed(folder: Path, prepare: str, act: str) -> list[dict[str, tuple[str, int]]]:
    """Run `act` in a process that is killed before its first step, then in one killed before its second, and so on.

    A step is a call of a C function. The last process is not killed. Return the files and modes that each process left.
    """
    script = f"""
import json, os, signal, sys
from pathlib import Path
from backend import create_app
from backend.security import key_file, keys
folder, app, states, status = Path({str(folder)!r}), create_app(), [], None
path = folder / key_file.NAME
def count(frame, event, called):
    global left
    if event == "c_call":
        left -= 1
        left >= 0 or os.kill(os.getpid(), signal.SIGKILL)
while status != 0:
    {prepare}
    left, child = len(states), os.fork()
    if child == 0:
        with app.app_context():
            sys.setprofile(count)
            {act}
            sys.setprofile(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    states.append({{file.name: (file.read_text(), file.stat().st_mode & 0o777) for file in folder.iterdir()}})
print(json.dumps(states))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(folder), capture_output=True, text=True, check=True, timeout=60
    )
    files_after_each_step: list[dict[str, tuple[str, int]]] = json.loads(done.stdout)
    return files_after_each_step


@pytest.mark.long
def test_a_rotation_killed_at_any_step_keeps_the_old_keys(tmp_path: Path) -> None:
    old = [OLD_KEY, "e" * 40]
    steps = files_left_by_killed(tmp_path, f"path.write_text({' '.join(old)!r})", "keys.rotate()")
    keys_after_each_step = [files[key_file.NAME][0].split() for files in steps]
    assert old in keys_after_each_step
    assert all(keys == old or keys[1:] == old for keys in keys_after_each_step)
    assert all(len(key) >= 32 for keys in keys_after_each_step for key in keys)
    # The draft that a killed process left is as secret as the file, and the next rotation deletes it.
    assert {mode for files in steps for _, mode in files.values()} == {0o600}
    assert {len(files) for files in steps} == {1, 2}
    assert list(steps[-1]) == [key_file.NAME]
    assert len(keys_after_each_step[-1]) == 3


@pytest.mark.long
def test_a_process_killed_while_it_creates_the_first_key_leaves_a_whole_key_or_none(tmp_path: Path) -> None:
    steps = files_left_by_killed(tmp_path, "path.unlink(missing_ok=True)", "keys.make()")
    first_keys = [files[key_file.NAME] for files in steps if key_file.NAME in files]
    assert 0 < len(first_keys) < len(steps)
    assert all(len(text.strip()) >= 32 and mode == 0o600 for text, mode in first_keys)
    assert all(mode == 0o600 for files in steps for name, (_, mode) in files.items() if key_file.NAME in name)


@any_database
def test_concurrent_rotations_lose_no_key(own: Service) -> None:
    first = keys_in(file_of(own))
    for done in (5, 10):
        at_once(*[lambda: own.run(keys.rotate)] * 5)
        stored = keys_in(file_of(own))
        assert len(set(stored)) == done + 1
        assert stored[-1:] == first


@any_database
def test_processes_that_create_the_first_key_at_once_read_the_same_key(own: Service) -> None:
    file_of(own).unlink()
    keys_read: list[keys.Keys] = []

    def make() -> None:
        with own.app.app_context():
            keys.make()
            keys_read.append(keys.in_use())

    at_once(*[make] * 5)
    assert len(keys_read) == 5
    assert len(set(keys_read)) == 1


@any_database
def test_a_key_added_after_the_operator_chose_which_to_remove_stays(own: Service) -> None:
    chosen = own.run(keys.in_use)
    own.run(keys.rotate)
    added = keys_in(file_of(own))[0]
    own.run(keys.rotate, chosen)
    assert keys_in(file_of(own))[1:] == [added]


@any_database
def test_after_a_rotation_by_root_only_the_services_user_can_read_the_file(own: Service) -> None:
    owner = 54321 if os.geteuid() == 0 else os.geteuid()
    os.chown(file_of(own), owner, -1)
    umask = os.umask(0)
    try:
        own.run(keys.rotate)
    finally:
        os.umask(umask)
    assert file_of(own).stat().st_uid == owner
    assert keys_in(file_of(own))


def test_a_full_disk_leaves_the_keys_unchanged_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / key_file.NAME
    path.write_text(f"{OLD_KEY}\n")
    path.chmod(0o600)
    files = set(tmp_path.iterdir())
    full = subprocess.run(
        ["sh", "-c", f"ulimit -f 0 && exec '{TILES}' keys rotate"],
        env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert full.returncode == 1
    assert re.fullmatch(
        r"Error: .*secret_key: cannot be written \(File too large\); .* run the command again\n", full.stderr
    )
    assert keys_in(path) == [OLD_KEY]
    assert set(tmp_path.iterdir()) == files


@any_database
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("marmalade")], ids=["gone", "damaged"])
def test_a_damaged_key_file_stops_no_running_process_and_is_logged(
    own: Service, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    token, text = own.ask_to_register(), file_of(own).read_text()
    damage(file_of(own))
    assert own.confirm(token).status_code == 201
    assert "the key file cannot be read" in caplog.text
    assert not any(key in caplog.text for key in text.split())


@pytest.mark.parametrize("content", [b"", b"marmalade", b"\xe9" * 40, None], ids=["empty", "short", "bytes", "folder"])
def test_a_key_file_without_a_key_stops_the_start_and_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / key_file.NAME
    path.mkdir() if content is None else path.write_bytes(content)
    unusable = "secret_key holds no usable key: delete it .* TILES_SECRET_KEYS"
    with pytest.raises(SettingsError, match="this process cannot use the key file" if content is None else unusable):
        create_app(load(environment(tmp_path)))
