"""The SDK's README is true: its commands install the SDK, and its examples run against a served instance."""

import builtins
import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from browsing import Site
from peers import free_port, token_of
from support import OTHER_PASSWORD, PASSWORD

SDK = Path(__file__).parents[2] / "client_sdk"
README = (SDK / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"
# What each example prints, in order.
PRINTED = [
    "{email} is signed in\n",
    "The password is changed, and all sessions have ended\n",
    "Ada Lovelace is signed in, also after a restart: True\n",
    "The email or the password is wrong\n",
    "sent\n",
    "Ada Lovelace has 2 sessions\n",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(example: str, url: str) -> None:
    exec(compile(example.replace(ADDRESS, url), "README.md", "exec"), {"__name__": "__main__"})


@pytest.fixture
def passwords(site: Site, email: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Answer `input` with the code from the next email, and `getpass` with the next password of the list."""
    mails, answers = count(1), [PASSWORD, OTHER_PASSWORD, OTHER_PASSWORD, OTHER_PASSWORD]
    monkeypatch.setattr(builtins, "input", lambda _prompt: token_of(site.mail(email, next(mails))))
    monkeypatch.setattr(getpass, "getpass", lambda _prompt="": answers.pop(0))
    yield answers
    assert answers == []


@pytest.mark.usefixtures("passwords")
def test_the_examples_run_in_their_order(site: Site, email: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for example in blocks("python"):
        run(example.replace("ada@example.org", email), site.url)
        printed.append(capsys.readouterr().out)
    assert printed == [text.format(email=email) for text in PRINTED]


def test_the_examples_say_what_happens_offline(capsys: pytest.CaptureFixture[str]) -> None:
    *_, errors, offline, _ = blocks("python")
    for example in (errors, offline):
        run(example, f"http://127.0.0.1:{free_port()}")
    assert capsys.readouterr().out.splitlines() == [
        "No connection: try again later",
        "offline: store the message and its key, and send both later",
    ]


@pytest.mark.long
@pytest.mark.parametrize("commands", blocks("sh"), ids=["repository", "wheel"])
def test_the_commands_install_the_sdk_in_a_fresh_environment(commands: str, tmp_path: Path) -> None:
    shutil.copytree(SDK, tmp_path / "client_sdk", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / "bin"
    # Use no package from a cache or from the environment of these tests.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"PATH": f"{programs}:{os.environ['PATH']}", "PIP_NO_CACHE_DIR": "1"}
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, env=variables, check=True, timeout=300)
    probe = "import tiles_client; print(tiles_client.Client.__name__, tiles_client.__file__)"
    printed = subprocess.check_output([programs / "python", "-c", probe], cwd=programs, env=variables, text=True)
    assert re.fullmatch(
        rf"Client {re.escape(str(tmp_path / 'venv'))}/lib\S*/site-packages/tiles_client/__init__.py\n", printed
    )
    assert Path(printed.split()[1]).with_name("py.typed").exists()


def test_it_is_read_in_five_minutes_and_linked_from_the_readme() -> None:
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) < 1000
    assert "](client_sdk/README.md)" in (SDK.parent / "README.md").read_text("utf-8")
