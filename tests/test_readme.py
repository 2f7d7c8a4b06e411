"""The README is true: its commands, its journey, its example and its tables are run and compared."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs
from playwright.sync_api import Page
from support import OTHER_PASSWORD, PASSWORD, ServerProcess, wait_for

from backend.commands.serve import tiles
from backend.config import PREFIX, Settings
from backend.security.throttle import LIMITS
from backend.web.api import operations

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def rows(header: str) -> list[list[str]]:
    """Return the cells of the table that begins with a header cell."""
    found = re.search(rf"^\| {header} \|.*\n\|[-:|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert found, header
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.group(1).splitlines()]


def link_in(server: ServerProcess, page: str) -> str:
    return wait_for(lambda: re.findall(rf"^{server.url}/{page}#\S+", server.log, re.MULTILINE))[-1]


def test_a_stranger_gets_from_the_readme_to_an_account_and_back_in(tmp_path: Path, page: Page) -> None:
    with ServerProcess(tmp_path, mail_server="", rate_limits="") as server:
        (curl,) = [block for block in blocks("sh") if block.startswith("curl")]
        command = curl.replace(ADDRESS, server.url).replace("curl", f"{needs('curl')} --silent --show-error")
        assert subprocess.check_output(["sh", "-c", command], text=True).strip() == '{"link_valid_for_seconds":86400}'

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
    limits = tables("limit", OPERATING)
    documented = {name: value for names, value, *_ in limits for name in re.findall(r"`(.*?)`", names)}
    assert documented == LIMITS


TESTS = {
    name
    for file in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
}
HARD_CASES, THREATS, OPERATING = (
    ROOT.joinpath("docs", f"{name}.md").read_text("utf-8") for name in ("hard-cases", "threats", "operating")
)


@pytest.mark.parametrize("page", [HARD_CASES, THREATS], ids=["hard cases", "threats"])
def test_what_a_page_says_is_shown_by_tests_that_there_are(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 20
    assert named - TESTS == set()


def tables(header: str, page: str) -> list[list[str]]:
    """Return the cells of every table of a page that begins with a header cell."""
    found = re.findall(rf"^\| {header} \|.*\n\|[-:|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in found for line in table.splitlines()]


def test_each_threat_names_its_tests() -> None:
    threats = tables("attack", THREATS)
    assert len(threats) >= 50
    for attack, _known, defence, remains, test in threats:
        assert defence, attack
        assert remains, attack
        assert re.fullmatch(r"(`test_\w+` ?)+|not applicable: .+", test), attack


# OWASP ASVS 5.0.0: every requirement of level 1 and of level 2 in chapters V6, V7, V9, V11.4, V14 and V16.
LEVEL_1 = """
    6.1.1 6.2.1 6.2.2 6.2.3 6.2.4 6.2.5 6.2.6 6.2.7 6.2.8 6.3.1 6.3.2 6.4.1 6.4.2
    7.2.1 7.2.2 7.2.3 7.2.4 7.4.1 7.4.2  9.1.1 9.1.2 9.1.3 9.2.1  11.4.1  14.2.1 14.3.1
"""
LEVEL_2 = """
    6.1.2 6.1.3 6.2.9 6.2.10 6.2.11 6.2.12 6.3.3 6.3.4 6.4.3 6.4.4 6.5.1 6.5.2 6.5.3 6.5.4 6.5.5 6.6.1 6.6.2 6.6.3
    6.8.1 6.8.2 6.8.3 6.8.4
    7.1.1 7.1.2 7.1.3 7.3.1 7.3.2 7.4.3 7.4.4 7.4.5 7.5.1 7.5.2 7.6.1 7.6.2
    9.2.2 9.2.3 9.2.4  11.4.2 11.4.3 11.4.4
    14.1.1 14.1.2 14.2.2 14.2.3 14.2.4 14.3.2 14.3.3
    16.1.1 16.2.1 16.2.2 16.2.3 16.2.4 16.2.5 16.3.1 16.3.2 16.3.3 16.3.4 16.4.1 16.4.2 16.4.3 16.5.1 16.5.2 16.5.3
"""


def test_each_requirement_of_the_standard_has_its_row_and_no_other_has_one() -> None:
    found = [(number, level) for number, level, *_ in tables("no.", THREATS)]
    expected = [(number, "1") for number in LEVEL_1.split()] + [(number, "2") for number in LEVEL_2.split()]
    assert len(expected) == 89
    assert found == sorted(expected, key=lambda entry: [int(part) for part in entry[0].split(".")])


def test_each_requirement_names_its_tests_or_says_why_not() -> None:
    for number, _level, requirement, where, test in tables("no.", THREATS):
        assert requirement, number
        assert where, number
        assert re.fullmatch(r"(`test_\w+` ?)+|none", test), number
        assert test != "none" or where.startswith("not applicable: "), number
        for name in re.findall(r"`([a-z_.A-Z]+)`", where):
            stem, _, attribute = name.partition(".")
            paths = list((ROOT / "backend").rglob(f"{stem}.py"))
            assert paths, name
            modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
            assert not attribute or any(hasattr(importlib.import_module(m), attribute) for m in modules), name


@pytest.mark.parametrize(("header", "report"), [("faults", "chaos"), ("figure", "bench")])
def test_what_was_measured_is_shown_as_the_report_has_it(header: str, report: str) -> None:
    told = tables(header, (ROOT / "tests" / report / "report.md").read_text("utf-8"))
    assert rows(header)
    assert [row for row in rows(header) if row not in told] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
