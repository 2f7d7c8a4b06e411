"""The instance folder: any name works, only commands that write create it, and each error names it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from apps import dispose
from hypothesis import given, settings
from hypothesis import strategies as st
from migrations import ROOT
from peers import MailServer
from server_process import ServerProcess, environment, run_tiles
from support import Service, invoke

from backend import create_app
from backend.commands import check
from backend.commands.serve import main
from backend.config import load
from backend.database import schema

ODD = "?#%&=;:@+ '\"\\$`~*!|<>()[]{}äßñ中😀\n\t"
# A setting is read without the space around it.
NAMES = st.text(st.sampled_from(f"{ODD}a20F"), min_size=1, max_size=12).filter(lambda name: name == name.strip())


@contextmanager
def started(environ: dict[str, str]) -> Iterator[Service]:
    """Make an instance as `tiles serve` does, with a mail server."""
    with MailServer() as server:
        peer = {"TILES_MAIL_SERVER": server.host, "TILES_MAIL_PORT": str(server.port), "TILES_RATE_LIMITS": "off"}
        app = create_app(load(environ | peer))
        with app.app_context():
            schema.upgrade()
        yield Service(app, server)
        dispose(app)


def live_through(service: Service, database: Path, backup: Path) -> None:
    """Register, back up, restore, scrub and check."""
    ada = service.register()
    assert database.is_file()
    invoke(service, "backup", str(backup))
    service.register(email="later@example.org")
    dispose(service.app)
    invoke(service, "restore", str(backup), "--yes")
    assert [row["email"] for row in service.rows("accounts")] == ["ada@example.org"]
    invoke(service, "db", "scrub")
    assert service.account(ada.headers).status_code == 200
    wrong = {finding.code for group in check.run(service.app) for finding in group if finding.level == "error"}
    assert wrong <= {"public-url-local", "limits-off", "argon2-weak", "disk"}


def test_a_server_runs_in_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    folder = tmp_path / "50%20 off? #1 für; 'all'"
    folder.mkdir()
    with ServerProcess(folder) as server:
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
        assert (server.instance_path / "tiles.sqlite3").is_file()
        status = run_tiles(server.instance_path, "mail", "status", "--json")
        assert status.returncode == 0, status.stderr
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.long
@settings(max_examples=12, deadline=None)
@given(name=NAMES, elsewhere=st.booleans())
def test_an_instance_folder_and_a_database_may_have_any_name(
    tmp_path_factory: pytest.TempPathFactory, name: str, *, elsewhere: bool
) -> None:
    above = tmp_path_factory.mktemp("odd")
    folder = above / f"x{name}x"
    database = above / f"x{name}x.sqlite3" if elsewhere else folder / "tiles.sqlite3"
    url = {"database_url": f"sqlite:///{quote(str(database))}"} if elsewhere else {}
    with started(environment(folder, **url)) as service:
        live_through(service, database, folder / f"{name}backup")
        assert (folder / "secret_key").exists()
    assert {path.name for path in above.iterdir()} - {f"{database.name}-{end}" for end in ("wal", "shm", "lock")} == (
        {folder.name, database.name} if elsewhere else {folder.name}
    )


def test_a_relative_database_path_begins_in_the_instance_folder(tmp_path: Path) -> None:
    settings = load(environment(tmp_path, database_url="sqlite:///other.sqlite3"))
    assert settings.database.database == str(tmp_path / "other.sqlite3")


# Creating it


@pytest.fixture
def ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command as the shell does, but in this process; return its exit status and output."""
    monkeypatch.setenv("TILES_INSTANCE_PATH", str(tmp_path / "instance"))
    monkeypatch.setattr("backend.commands.serve.leave_no_core", lambda: None)
    before = os.umask(0o077)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tiles", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    yield run
    os.umask(before)


@pytest.mark.parametrize("folder_exists", [False, True], ids=["no folder", "no database"])
def test_a_command_that_needs_a_database_makes_nothing_and_says_where_it_looked(
    tmp_path: Path, ended: Callable[..., tuple[int, str, str]], *, folder_exists: bool
) -> None:
    folder = tmp_path / "instance"
    if folder_exists:
        folder.mkdir()
    for command in (
        "data find ada@example.org", "data export ada@example.org", "data close ada@example.org --yes",
        "data erase ada@example.org --yes", "data requests", "data audit", "mail status", "mail retry", "feedback list",
        "feedback export", "announce --policy 2026-01", "db scrub",
    ):  # fmt: skip
        advice = "there is no database yet; `tiles db upgrade` and `tiles serve` create it"
        assert ended(*command.split()) == (1, "", f"Error: {folder}/tiles.sqlite3: {advice}\n"), command
        assert [path.name for path in tmp_path.rglob("*")] == ["instance"] * folder_exists, command


def test_a_command_that_needs_no_database_makes_nothing(
    tmp_path: Path, ended: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "receipt").write_text("abc")
    assert ended("inventory")[0] == 0
    status, _, err = ended("data", "verify-receipt", str(tmp_path / "receipt"))
    assert status == 2
    assert err.startswith(f"Error: {tmp_path}/instance/secret_key: there is no key here yet")
    assert [path.name for path in tmp_path.iterdir()] == ["receipt"]


def test_an_error_names_the_folder_in_use_and_no_unset_setting(tmp_path: Path) -> None:
    away = run_tiles(tmp_path, "mail", "deliver")
    assert (away.returncode, "tiles db upgrade" in away.stderr) == (1, True)
    assert run_tiles(tmp_path, "db", "upgrade").returncode == 0
    missing = run_tiles(tmp_path, "data", "find", "ada@example.org")
    assert missing.stderr.splitlines()[1:] == [f"Instance folder: {tmp_path}"]
    (tmp_path / "tiles.sqlite3").write_bytes(b"Dear diary")
    damaged = run_tiles(tmp_path, "mail", "status")
    assert damaged.stderr.startswith(f"Error: {tmp_path}/tiles.sqlite3: the database cannot be used")
    locked = run_tiles(tmp_path / "tiles.sqlite3", "serve")
    for done in (away, missing, damaged, locked):
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert "TILES_DATABASE_URL" not in done.stderr


# Locating it


def installed(folder: Path, *beside: str) -> Path:
    """Return a folder to which the package was copied, as into site-packages, or with a checkout's files beside it."""
    shutil.copytree(ROOT / "backend", folder / "backend", ignore=shutil.ignore_patterns("__pycache__"))
    for name in beside:
        shutil.copy(ROOT / name, folder)
    return folder


def run_copy(package: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TILES_")}
    command = [sys.executable, "-P", "-c", "import backend.commands.serve; backend.commands.serve.main()", *arguments]
    return subprocess.run(command, cwd=cwd, env=inherited | {"PYTHONPATH": str(package)}, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip


@pytest.mark.long
def test_an_installed_package_asks_for_the_folder_and_uses_none_by_chance(tmp_path: Path) -> None:
    package, cwd = installed(tmp_path / "site-packages"), tmp_path / "here"
    (cwd / "instance").mkdir(parents=True)
    for arguments in (("serve",), ("mail", "status"), ("db", "upgrade")):
        done = run_copy(package, *arguments, cwd=cwd)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: TILES_INSTANCE_PATH is not set: set it to the folder")
    assert list((cwd / "instance").iterdir()) == []
    assert not (package / "instance").exists()


@pytest.mark.long
def test_a_checkout_uses_its_own_folder_from_any_working_directory(tmp_path: Path) -> None:
    checkout = installed(tmp_path / "checkout", "pyproject.toml")
    (tmp_path / "here").mkdir()
    assert run_copy(checkout, "db", "upgrade", cwd=tmp_path / "here").returncode == 0
    assert sorted(path.name for path in (checkout / "instance").iterdir()) == ["secret_key", "tiles.sqlite3"]
    assert list((tmp_path / "here").iterdir()) == []
