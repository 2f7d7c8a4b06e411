"""The dependencies: pinned with hashes, installed as pinned, free to ship, and audited."""

import json
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import audit
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from peers import free_port

ROOT = Path(__file__).parent.parent
LOCKS = [ROOT / "requirements/runtime.txt", ROOT / "requirements/development.txt"]
# The packages of measurements may be installed.
BENCH = ROOT / "requirements/bench.txt"
OURS = {"tiles-accounts", "tiles-client"}
# Licences that may be shipped beside a program under the MIT licence; psycopg's is for a library used as such.
FREE = {
    "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "PSF-2.0", "LGPL-3.0-only", "Unlicense",
    "MIT License", "BSD License", "The Unlicense (Unlicense)",
    # Of a build tool: it applies to its own files only.
    "Mozilla Public License 2.0 (MPL 2.0)",
}  # fmt: skip


def pinned(*locks: Path) -> dict[str, str]:
    """Return what lock files pin for this machine."""
    requirements = [Requirement(pin) for pin in audit.pins(*locks)]
    return {
        requirement.name: str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate()
    }


@pytest.mark.parametrize("lock", [*LOCKS, BENCH], ids=lambda lock: lock.name)
def test_every_package_is_pinned_to_one_version_with_hashes(lock: Path) -> None:
    blocks = re.split(r"\n(?=\S)", lock.read_text("utf-8").strip())
    assert len(blocks) > 30
    for block in blocks:
        first, *rest = [line.strip() for line in block.splitlines() if not line.strip().startswith("#")]
        assert re.fullmatch(r"[a-z0-9._-]+==[^\s;*]+( ; .+)? \\", first), first
        assert rest
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest), first
    assert len(audit.pins(lock)) == len(blocks)


def test_a_setup_requires_the_pinned_hashes() -> None:
    installs = re.findall(r"\$\(PIP\) (.*)", (ROOT / "Makefile").read_text("utf-8"))
    assert len(installs) >= 3
    # The only unpinned installation is this repository, without dependencies.
    assert all("--require-hashes" in options or "--no-deps" in options for options in installs)


def test_the_installed_versions_are_the_pinned_ones() -> None:
    installed = {str(canonicalize_name(each.name)): each.version for each in metadata.distributions()}
    expected = pinned(*LOCKS)
    assert {name: installed.get(name) for name in expected} == expected
    assert installed.keys() - expected.keys() <= OURS | pinned(BENCH).keys() | {"pip", "setuptools"}


def test_every_installed_package_has_its_dependencies() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout.strip()) == (0, "No broken requirements found.")


@pytest.mark.parametrize("name", pinned(LOCKS[0]))
def test_a_dependency_is_free_to_ship(name: str) -> None:
    about = metadata.metadata(name).json
    classified = [entry.split(" :: ")[-1] for entry in about.get("classifier", []) if entry.startswith("License ::")]
    expression = str(about.get("license_expression") or about.get("license") or classified[0])
    assert any(set(way.split(" AND ")) <= FREE for way in expression.split(" OR ")), expression


def test_the_linters_security_rules_apply_to_all_served_code() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert config["select"] == ["ALL"]
    # An assertion informs the type checker; a fixed password in a test protects nothing.
    assert [rule for rule in config["ignore"] if re.fullmatch(r"S\d*|ALL", rule)] == ["S101"]
    eased = {
        files for files, rules in config["per-file-ignores"].items() if any(re.match(r"S\d*$|ALL", r) for r in rules)
    }
    assert eased == {"tests/*"}
    for folder in ("backend", "client_sdk"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"noqa(?!: [A-Z]+\d)|ruff: noqa: .*\bS\d", path.read_text("utf-8")), path


# The audit


class Advisory(BaseHTTPRequestHandler):
    """A database of vulnerabilities that knows one, in the package `leaky`."""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        advisory = {"vulns": [{"id": "GHSA-aaaa-bbbb-cccc", "modified": "2026-01-01T00:00:00Z"}]}
        self._answer({"results": [advisory if query["package"]["name"] == "leaky" else {} for query in queries]})

    def do_GET(self) -> None:
        versions = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}
        affected = {"package": {"ecosystem": "PyPI", "name": "leaky"}, "ranges": [versions]}
        self._answer({"id": "GHSA-aaaa-bbbb-cccc", "modified": "2026-01-01T00:00:00Z", "summary": "It leaks",
                      "affected": [affected]})  # fmt: skip

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def advisories() -> Iterator[str]:
    """The address of a database of vulnerabilities."""
    with HTTPServer(("127.0.0.1", 0), Advisory) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index of three packages that do nothing: sound, leaky, and one that was withdrawn."""
    for name in ("sound", "leaky", "withdrawn"):
        folder = tmp_path / "index" / name
        folder.mkdir(parents=True)
        wheel = f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(folder / wheel, "w") as content:
            about = f"{name}-1.0.dist-info"
            content.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            content.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            content.writestr(f"{about}/RECORD", "")
        yanked = ' data-yanked="it does nothing"' if name == "withdrawn" else ""
        (folder / "index.html").write_text(f'<!doctype html><a href="{wheel}"{yanked}>{wheel}</a>')
    return (tmp_path / "index").as_uri()


@pytest.mark.parametrize(
    ("pin", "message"),
    [("sound", "no known vulnerabilities"), ("leaky", "GHSA-aaaa-bbbb-cccc: It leaks"),
     ("withdrawn", "WITHDRAWN: .*it does nothing")],
)  # fmt: skip
def test_a_vulnerable_and_a_withdrawn_pin_fail_the_audit(
    advisories: str, index: str, capsys: pytest.CaptureFixture[str], pin: str, message: str
) -> None:
    options = ["--default-index", index, "--service-url", advisories, "--no-cache"]
    assert audit.audit(["sound==1.0", f"{pin}==1.0"], *options) == (0 if pin == "sound" else 1)
    assert re.search(message, capsys.readouterr().out)


def test_an_audit_without_a_network_says_so_and_does_not_fail(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    closed_port = f"http://127.0.0.1:{free_port()}"
    options = ["--default-index", index, "--service-url", closed_port, "--no-cache"]
    assert audit.audit(["sound==1.0"], *options) == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED: nobody could be asked about 1 pins (")
    assert audit.audit(["withdrawn==1.0"], *options) == 1
