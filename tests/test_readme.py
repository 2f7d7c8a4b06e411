"""The README is true: its commands, its journey, its example and its tables are run and compared."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import needs
from playwright.sync_api import Page
from support import OTHER_PASSWORD, PASSWORD, ServerProcess, wait_for

from backend.api import operations
from backend.cli import tiles
from backend.config import PREFIX, Settings
from backend.throttle import LIMITS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def rows(header: str) -> list[list[str]]:
    """Return the cells of the table that begins with a header cell."""
    found = re.search(rf"^\| {header} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert found, header
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.group(1).splitlines()]


def link_in(server: ServerProcess, page: str) -> str:
    return wait_for(lambda: re.findall(rf"^{server.url}/{page}#\S+", server.log, re.MULTILINE))[-1]


def test_a_stranger_gets_from_the_readme_to_an_account_and_back_in(tmp_path: Path, page: Page) -> None:
    with ServerProcess(tmp_path, mail_server="", rate_limits="") as server:
        (curl,) = [block for block in blocks("sh") if block.startswith("curl")]
        command = curl.replace(ADDRESS, server.url).replace("curl", f"{needs('curl')} --silent --show-error")
        assert subprocess.check_output(["sh", "-c", command], text=True).strip() == "{}"

        page.goto(link_in(server, "registration"))
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Create").click()
        page.get_by_text("Your account is ready").wait_for()

        (example,) = blocks("python")
        (tmp_path / "hello.py").write_text(example.replace(ADDRESS, server.url))
        said = subprocess.check_output([sys.executable, tmp_path / "hello.py"], text=True)
        assert said == "Hello Ada Lovelace\n"

        page.goto(link_in(server, "password-reset"))
        page.get_by_label("New password", exact=True).fill(OTHER_PASSWORD)
        page.get_by_role("button", name="Change my password").click()
        page.get_by_text("Your password is changed").wait_for()
        changed = example.replace(ADDRESS, server.url).replace(PASSWORD, OTHER_PASSWORD)
        assert subprocess.check_output([sys.executable, "-c", changed], text=True) == said


def shown(default: object) -> str:
    match default:
        case None | "" | ():
            return "none"
        case False:
            return "off"
        case int():
            return str(default)
        case Path():
            return f"`{default}/`"
        case _:
            return f"`{default}`"


def test_the_settings_are_those_of_the_code() -> None:
    documented = {}
    for names, defaults, meanings in rows("setting"):
        each = names.split(", ")
        several = [cell.split(" · ") if " · " in cell else [cell] * len(each) for cell in (defaults, meanings)]
        documented |= {name: told for name, *told in zip(each, *several, strict=True)}
    for name, field in Settings.model_fields.items():
        default, meaning = documented.pop(PREFIX + name.upper())
        assert meaning == field.description
        assert default == shown(field.default)
    assert documented == {}


def test_the_operations_are_those_of_the_code() -> None:
    declared = {f"{operation.method} {operation.path.replace('<uuid:id>', 'ID')}" for operation in operations.declared}
    documented = [operation.partition(" ") for operation, _ in rows("operation")]
    assert {f"{method} {path}" for method, _, paths in documented for path in paths.split(", ")} == declared


def test_the_commands_are_those_of_the_code() -> None:
    documented = set()
    for command, _ in rows("command"):
        words = re.sub(r" (\[|FILE|ADDRESS|--).*", "", command.strip("`")).split(" ")
        documented |= {" ".join([*words[:-1], last]) for last in words[-1].split("\\|")}
    groups = {name: command for name, command in tiles.commands.items() if name not in {"run", "shell", "routes"}}
    ours = set()
    for name, command in groups.items():
        ours |= {f"tiles {name} {sub}" for sub in getattr(command, "commands", {})} or {f"tiles {name}"}
    assert documented == ours


def test_the_options_of_serve_are_those_of_the_code() -> None:
    (serve,) = [command for command, _ in rows("command") if "serve" in command]
    options = {option.opts[0] for option in tiles.commands["serve"].params}
    assert set(re.findall(r"--[a-z]+", serve)) == options


def test_the_limits_are_those_of_the_code() -> None:
    documented = {name: value for names, value, *_ in rows("limit") for name in re.findall(r"`(.*?)`", names)}
    assert documented == LIMITS


def test_the_hard_cases_are_shown_by_tests_that_there_are() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "backend" / "hard-cases.md").read_text("utf-8")))
    written = {
        name
        for file in (ROOT / "tests").glob("*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) >= 20
    assert named <= written


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
