"""An Argon2 that was built for another processor is named at the start, instead of a process that dies in silence."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import TILES, environment, free_port, run_tiles

# Read by Python before anything else: whatever makes a hash meets an instruction that the processor does not know.
FOREIGN = """
import ctypes, mmap, platform
import argon2, argon2.low_level

def illegal(*_arguments, **_options):
    code = {"x86_64": b"\\x0f\\x0b", "aarch64": b"\\x00\\x00\\x00\\x00"}[platform.machine()]
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

argon2.low_level.hash_secret = argon2._password_hasher.hash_secret = illegal
argon2.low_level.verify_secret = argon2._password_hasher.verify_secret = illegal
"""
SAID = "Argon2 was built for another processor"


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process that is started have an Argon2 of another processor."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "sitecustomize.py").write_text(FOREIGN)
    path = os.pathsep.join([str(tmp_path / "foreign"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


@pytest.mark.usefixtures("foreign")
def test_the_server_does_not_start_and_says_what_to_do(tmp_path: Path) -> None:
    done = run_tiles(tmp_path / "instance", "serve", "--port", str(free_port()))
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {SAID}")
    assert "make" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "instance" / "tiles.sqlite3").exists()


@pytest.mark.usefixtures("foreign")
def test_the_check_lives_and_names_it(tmp_path: Path) -> None:
    done = run_tiles(tmp_path / "instance", "check", "--json")
    assert done.returncode == 1
    (finding,) = [finding for finding in json.loads(done.stdout) if finding["code"].startswith("argon2-processor")]
    assert (finding["level"], SAID in finding["what"]) == ("error", True)


@pytest.mark.usefixtures("foreign")
def test_what_makes_no_hash_goes_on(tmp_path: Path) -> None:
    assert run_tiles(tmp_path / "instance", "db", "upgrade").returncode == 0
    assert run_tiles(tmp_path / "instance", "mail", "status").returncode == 0


@pytest.mark.usefixtures("foreign")
def test_such_an_argon2_ends_a_process_without_a_word() -> None:
    code = "from argon2 import PasswordHasher; PasswordHasher().hash('nobody')"
    done = subprocess.run([TILES.with_name("python"), "-c", code], env=environment(Path()), capture_output=True)  # noqa: PLW1510
    assert (done.returncode, done.stderr) == (-4, b"")
