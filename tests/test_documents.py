"""The pages of docs/ are true: tables match the code, commands run, and named links and tests exist."""

import importlib
import re
import shlex
from datetime import timedelta
from pathlib import Path

import click
import documents
import pytest
from command_line import commands
from support import Person, Service, invoke, working

from backend import clock
from backend.commands.serve import tiles
from backend.config import PREFIX, Settings, load
from backend.security.throttle import LIMITS
from backend.web.api import operations

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "client_sdk/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


# The generated parts


@pytest.mark.parametrize("page", documents.GENERATED)
def test_the_tables_of_settings_commands_and_operations_are_those_of_the_code(page: str) -> None:
    text = (documents.DOCS / page).read_text("utf-8")
    assert text == documents.generated(page), f"docs/{page} is out of date: run `make docs`"


def test_each_setting_command_and_operation_has_its_row() -> None:
    names = {
        "settings.md": {PREFIX + name.upper() for name in Settings.model_fields},
        "commands.md": {f"tiles {path}" for path, _ in commands(tiles)},
        "clients.md": {
            f"{operation.method} {operation.path.replace('<uuid:id>', '{id}')}" for operation in operations.declared
        },
    }
    for page, expected in names.items():
        generated = documents.generated(page).partition(documents.BEGIN)[2].partition(documents.END)[0]
        rows = re.findall(r"^\| `(.+?)` \|(.*)\|$", generated, re.MULTILINE)
        assert {name for name, _ in rows} == expected
        assert len(rows) == len(expected)
        assert all(cells.rpartition(" | ")[2].strip() for _, cells in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_option_setting_and_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    for words in re.findall(r"(?:`|exec server-1 |^)tiles ((?:-{0,2}[a-z][a-z-]*(?![\w@.]) ?)+)", text, re.MULTILINE):
        command: click.Command = tiles
        for word in words.split():
            if word.startswith("--"):
                assert word in {"--help", *(name for each in command.params for name in each.opts)}, words
            # The words after a command that is no group are its arguments.
            elif isinstance(command, click.Group):
                command = command.commands[word]
    settings = set(re.findall(rf"{PREFIX}([A-Z0-9_]+)", text))
    assert {name.lower() for name in settings} <= Settings.model_fields.keys()
    files = set(re.findall(r"(?<!--output )\b[a-z-]+\.(?:conf|yaml|service)\b|settings\.example", text))
    assert [name for name in files if not (ROOT / "backend/deployment" / name).exists()] == []


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("settings.md", {"mail_server": "smtp.example.org", "mail_use_tls": True}),
        ("operating.md", {"public_url": "https://accounts.example.org", "trusted_proxies": 1}),
    ],
)
def test_a_page_shows_a_configuration_that_is_accepted(tmp_path: Path, page: str, shown: dict[str, object]) -> None:
    text = (documents.DOCS / page).read_text("utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "config.toml").write_text(example)
    assert load({"TILES_INSTANCE_PATH": str(tmp_path)}).model_dump().items() >= shown.items()


def test_the_targets_of_make_are_those_of_the_makefile() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    documented = re.findall(r"^\| `make ([\w-]+)` \|", (ROOT / "docs/commands.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(targets.split())
    assert set(re.findall(r"\bmake ([a-z-]+)(?= +#|`| ARGS)", README)) <= set(documented)


# Links


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_an_existing_file_and_heading(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_each_page_is_reached_from_the_readme_and_links_all_its_parts(page: Path) -> None:
    assert f"](docs/{page.name}" in README
    text = page.read_text("utf-8")
    parts = re.findall(r"^## (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    contents = text.partition("\n## ")[0]
    assert [part for part in parts if f"[{part.lower()}](#" not in contents.lower()] == []


def test_the_limits_are_those_of_the_code() -> None:
    limits = tables("limit", OPERATING)
    documented = {name: value for names, value, *_ in limits for name in re.findall(r"`(.*?)`", names)}
    assert documented == LIMITS


TESTS = {
    name
    for file in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
}
HARD_CASES, THREATS, OPERATING, POLICY, DATA_MANAGER = (
    ROOT.joinpath("docs", f"{name}.md").read_text("utf-8")
    for name in ("hard-cases", "threats", "operating", "privacy-policy", "data-manager")
)


@pytest.mark.parametrize("page", [HARD_CASES, THREATS, POLICY], ids=["hard cases", "threats", "privacy policy"])
def test_each_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 20
    assert named - TESTS == set()


def tables(header: str, page: str) -> list[list[str]]:
    """Return the cells of every table of a page that begins with a header cell."""
    parts = re.findall(rf"^\| {header} \|.*\n\|[-:|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in parts for line in table.splitlines()]


def test_each_threat_names_its_tests() -> None:
    threats = tables("attack", THREATS)
    assert len(threats) >= 50
    for attack, _known, defence, remains, test in threats:
        assert defence, attack
        assert remains, attack
        assert re.fullmatch(r"(`test_\w+` ?)+|not applicable: .+", test), attack


def test_each_promise_of_the_privacy_policy_names_its_tests() -> None:
    promises = tables("no.", POLICY)
    assert {int(number) for number, *_ in promises} == set(range(1, 16))
    for number, promise, kept_by, test in promises:
        assert promise, number
        assert kept_by, number
        assert re.fullmatch(r"(`test_\w+` ?)+", test), number


def test_the_data_managers_commands_run_in_their_order(
    service: Service, ada: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("policy.txt", "summary.txt", "news.txt", "reply.txt"):
        Path(name).write_text(f"The text of {name}.")
    service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=ada.headers)
    today, soon = ((clock.now() + timedelta(days=days)).date().isoformat() for days in (0, 60))
    lines = re.findall(
        r"^ *tiles (.*)$", "".join(re.findall(r"```sh\n(.*?)```", DATA_MANAGER, re.DOTALL)), re.MULTILINE
    )
    used, last_id = set(), ""
    with working(service.app):
        for line in lines:
            # A request came, and feedback was sent, in the past.
            dated = re.sub(r"(--received |--from |)[\d-]{10}", lambda day: day[1] + (today if day[1] else soon), line)
            words = [last_id if word == "ID" else word for word in shlex.split(dated)]
            done = invoke(service, *words, typed="ada@example.org\ny\n" if "-" in words else "y\n")
            if printed_id := re.search(r"^(?:id +)?([0-9a-f-]{36})\b", done.stdout, re.MULTILINE):
                last_id = printed_id[1]
            used.add(" ".join(words[:2]))
    data_commands = {f"data {name}" for name in tiles.commands["data"].commands}  # type: ignore[attr-defined]
    assert data_commands - used == {"data verify-receipt", "data replay-erasures"}


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
    numbers = [(number, level) for number, level, *_ in tables("no.", THREATS)]
    expected = [(number, "1") for number in LEVEL_1.split()] + [(number, "2") for number in LEVEL_2.split()]
    assert len(expected) == 89
    assert numbers == sorted(expected, key=lambda entry: [int(part) for part in entry[0].split(".")])


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
