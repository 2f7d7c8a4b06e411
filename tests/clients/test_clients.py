"""Generated clients of four languages, from the document that a running service serves, by the page's commands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import needs
from peers import MailServer
from served_requests import mailed_token, send_through
from server_process import ServerProcess, run_tiles

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"
# `make` installs the packages of package-lock.json there.
NODE_MODULES = Path(sys.prefix) / "clients" / "node_modules"
PATH = os.pathsep.join([str(Path(sys.executable).parent), str(NODE_MODULES / ".bin"), os.environ["PATH"]])


@pytest.fixture(scope="module")
def peer() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, peer: MailServer) -> Iterator[ServerProcess]:
    """A service with a policy in force."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "policy.txt").write_text("We store a name and an email address.\n")
    with ServerProcess(folder, **send_through(peer)) as process:
        options = ["--version", "2026-01", "--effective", str(datetime.now(UTC).date()), "--yes"]
        published = run_tiles(process.instance_path, "policy", "publish", *options, str(folder / "policy.txt"))
        assert published.returncode == 0, published.stderr
        yield process


def start(command: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a folder, with the generators in its path."""
    arguments = shlex.split(command)
    arguments[0] = shutil.which(arguments[0], path=PATH) or arguments[0]
    environment = os.environ | {"PATH": PATH}
    return subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, **options)


def run(command: str, folder: Path) -> None:
    with start(command, folder, stderr=subprocess.STDOUT) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output


def generate(generator: str, server: ServerProcess, folder: Path) -> None:
    """Generate a client by the page's command."""
    (command,) = re.findall(rf"^(?:npx )?({generator} .*)$", PAGE, re.MULTILINE)
    run(command.replace(ADDRESS, server.url), folder)


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def live(command: str, email: str, server: ServerProcess, peer: MailServer, folder: Path) -> None:
    """Run a journey. For each line that it writes, an email and words of a subject, it gets the mailed token."""
    with start(f"timeout 60 {command} {server.url} {email}", folder, stdin=subprocess.PIPE) as journey:
        assert journey.stdin
        assert journey.stdout
        for line in journey.stdout:
            address, _, subject = line.strip().partition(" ")
            journey.stdin.write(mailed_token(peer, address, subject) + "\n")
            journey.stdin.flush()
    assert journey.returncode == 0


@pytest.mark.long
def test_a_person_lives_through_the_python_client(server: ServerProcess, peer: MailServer, tmp_path: Path) -> None:
    generate("openapi-python-client", server, tmp_path)
    shutil.copy(HERE / "journey.py", tmp_path)
    (tmp_path / "example.py").write_text("\n".join(examples("python")))
    run("mypy --strict --follow-imports silent journey.py example.py", tmp_path)
    live("python journey.py", "python@example.org", server, peer, tmp_path)


@pytest.mark.long
def test_a_person_lives_through_both_typescript_clients(
    server: ServerProcess, peer: MailServer, tmp_path: Path
) -> None:
    needs("npm")
    assert NODE_MODULES.is_dir(), "run `make .venv/.clients`"
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    for path in (*HERE.glob("*.ts"), HERE / "tsconfig.json"):
        shutil.copy(path, tmp_path)
    for number, example in enumerate(examples("ts")):
        (tmp_path / f"example_{number}.ts").write_text(example)
    generate("openapi-ts", server, tmp_path)
    generate("openapi-typescript", server, tmp_path)
    run("tsc", tmp_path)
    live("node hey_api.js", "hey@example.org", server, peer, tmp_path)
    live("node openapi_fetch.js", "fetch@example.org", server, peer, tmp_path)


def test_each_npm_package_is_pinned_with_a_hash() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text("utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) > 50
    for name, package in packages.items():
        assert package["version"], name
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, f"{name} names a registry"


def test_the_page_names_the_versions_that_are_tested() -> None:
    packages = json.loads((HERE / "package.json").read_text("utf-8"))["devDependencies"]
    tested = {f"{name}@{packages[name]}" for name in packages.keys() - {"@types/node"}}
    tested |= {f"{name}=={version(name)}" for name in ("openapi-python-client", "openapi-generator-cli")}
    assert set(re.findall(r"[@a-z-][a-z/-]+(?:@|==)[0-9.]+", PAGE)) == tested


# Kotlin and Swift


@dataclass
class Sources:
    """The sources of a generated client, and its language's syntax for the declarations under test."""

    document: dict[str, Any]
    models: dict[str, str]
    apis: dict[str, str]
    moment: str
    update: dict[str, str]

    def fields(self, model: str) -> dict[str, str]:
        """Return how the fields of a model are declared."""
        declared = re.findall(r"^    (?:val|public var) (\w+): (.+?),?$", self.models[model], re.MULTILINE)
        return dict(declared)


KOTLIN = {"name": "kotlin.String? = null", "emailUpdates": "kotlin.Boolean? = null",
          "acceptedPolicy": "kotlin.String? = null"}  # fmt: skip
SWIFT = {"name": "String?", "emailUpdates": "Bool?", "acceptedPolicy": "String?"}


@pytest.fixture(
    scope="module",
    params=[("kotlin", "java.time.OffsetDateTime", KOTLIN), ("swift6", "Date", SWIFT)],
    ids=lambda language: language[0],
)
def client(request: pytest.FixtureRequest, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The sources that the page's command generates for a language."""
    needs("java")
    generator, moment, update = request.param
    folder = tmp_path_factory.mktemp(generator)
    generate(f"openapi-generator-cli generate -g {generator}", server, folder)
    files = [path for path in folder.rglob("*") if path.suffix in {".kt", ".swift"}]
    models, apis = (
        {path.stem: path.read_text("utf-8") for path in files if path.parent.name.lower() == kind}
        for kind in ("models", "apis")
    )
    return Sources(httpx2.get(f"{server.url}/openapi.json").json(), models, apis, moment, update)


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


@pytest.mark.long
def test_an_app_changes_only_the_fields_that_it_sets(client: Sources) -> None:
    assert client.fields("AccountUpdate") == client.update


@pytest.mark.long
def test_each_operation_returns_its_documented_type(client: Sources) -> None:
    pattern = r"fun(?:c)? (\w+)\(.*\)(?: :| async throws\(ErrorResponse\)(?: ->)?) (?:(\w+) )?{$"
    returned = dict(re.findall(pattern, "\n".join(client.apis.values()), re.MULTILINE))
    for operation in (each for item in client.document["paths"].values() for each in item.values()):
        (success,) = [response for status, response in operation["responses"].items() if status < "300"]
        schema = success.get("content", {}).get("application/json", {}).get("schema", {})
        expected = schema.get("$ref", "").rpartition("/")[2]
        assert returned[camel(operation["operationId"])].replace("Unit", "") == expected
    assert returned["removeName"] == "AccountDetails"


@pytest.mark.long
def test_only_the_rows_of_an_export_are_untyped(client: Sources) -> None:
    untyped = re.compile(r"\b(Any|AnyCodable|JSONValue)\b")
    sources = client.models | client.apis
    assert {name for name, source in sources.items() if untyped.search(source)} == {"ExportedTable"}


@pytest.mark.long
def test_times_are_times(client: Sources) -> None:
    schemas = client.document["components"]["schemas"]
    times = [(name, field) for name, schema in schemas.items() for field, each in schema.get("properties", {}).items()
             if "date-time" in str(each)]  # fmt: skip
    assert len(times) >= 8
    assert {client.fields(name)[camel(field)].removesuffix("?") for name, field in times} == {client.moment}


@pytest.mark.long
def test_the_code_of_a_problem_is_an_enumeration(client: Sources) -> None:
    for name, schema in client.document["components"]["schemas"].items():
        if name.endswith("Problem"):
            codes = schema.get("allOf", [schema])[-1]["properties"]["code"]["enum"]
            (declared,) = re.findall(r"enum (?:class )?Code\b.*?}", client.models[name], re.DOTALL)
            assert set(re.findall(r'"([a-z-]+)"', declared)) == set(codes)
            assert client.fields(name)["code"].endswith("Code")
