"""The README is true: its journey and its example run as printed and print the shown output."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import needs
from forking import TILES
from peers import wait_for
from server_process import ServerProcess, environment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def pattern(shown: str) -> str:
    """Return a pattern for shown output: `…` matches the varying parts, and spaces may align columns."""
    escaped = re.escape(shown).replace('…"', r'[^"\s]+"').replace("…", ".+")
    return re.sub(r"(\\ ){2,}", r"\\s+", escaped)


def link_in(server: ServerProcess, page: str) -> str:
    return wait_for(lambda: re.findall(rf"^{server.url}/{page}#\S+", server.log, re.MULTILINE))[-1]


# The reader's commands


class Terminal:
    """The terminal of a reader who types the README's commands against their own server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server, self.variables = server, environment(server.instance_path, public_url=server.url)
        self.printed = ""

    def type(self, command: str) -> str:
        """Run a command and return its output. `NAME=…` copies a secret from where the reader finds it."""
        name, _, value = command.partition("=")
        if value == "tiles_…":
            self.variables[name] = re.findall(r"tiles_[\w-]+", self.printed)[-1]
        elif value == "…":
            page = "password-reset" if "password-reset#" in self.server.log else "registration"
            self.variables[name] = link_in(self.server, page).partition("#")[2]
        elif re.fullmatch(r"[A-Z]+", name):
            self.variables[name] = value.replace(ADDRESS, self.server.url)
        else:
            words = command.replace("curl", f"{needs('curl')} --silent --show-error", 1).replace(
                ".venv/bin/tiles", str(TILES)
            )
            self.printed = subprocess.check_output(["sh", "-c", words], env=self.variables, text=True)
            return self.printed
        return ""


def test_each_step_of_the_journey_prints_the_shown_output(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, mail_server="", rate_limits="") as server:
        terminal = Terminal(server)
        (started,) = re.findall(r"until it prints `(.*?)`", README)
        assert started.replace(ADDRESS, server.url) in server.log
        for language, block in re.findall(r"^```(console|text)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
            if language == "text":
                mail = re.compile(pattern(block.replace(ADDRESS, server.url)))
                wait_for(lambda mail=mail: mail.search(server.log))  # type: ignore[misc]
            for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                if command == "TOKEN=…" and "password-resets" in block:
                    link_in(server, "password-reset")
                printed = terminal.type(command)
                assert re.fullmatch(pattern(output.replace(ADDRESS, server.url).strip()), printed.strip()), command
        assert "account is closed ---" in wait_for(lambda: server.log if "closed ---" in server.log else None)


def test_the_example_in_python_registers_with_the_code_from_the_email(tmp_path: Path) -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 10
    (prints,) = re.findall(r"It prints `(.*?)`", README)
    with ServerProcess(tmp_path, mail_server="", rate_limits="") as server:
        (tmp_path / "hello.py").write_text(example.replace(ADDRESS, server.url))
        command = [sys.executable, tmp_path / "hello.py"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hello:
            output, _ = hello.communicate(link_in(server, "registration").partition("#")[2] + "\n", timeout=30)
    assert output.removeprefix("The code from the email: ") == f"{prints}\n"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
