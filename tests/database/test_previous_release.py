"""The previous release serves while the schema and the servers are upgraded."""

import io
import re
import subprocess
import sys
import tarfile
import threading
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import forking
import httpx2
import pytest
import server_process
from apps import KEY
from peers import MailServer, token_of, wait_for
from server_process import ServerProcess, run_tiles
from support import PASSWORD, bearer

from backend.database import schema

ROOT = Path(__file__).parents[2]
REVISIONS = schema.versions()
# The release of this schema is the first that is ready on a later one.
TAKES_LATER_SCHEMAS = "0005"


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", *arguments],
                          capture_output=True, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"this test runs the release before: it needs a clone with its history ({done.stderr!r})")
    return done.stdout


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree before the newest schema version, with its own `tiles` command."""
    newest = re.compile(rf"/versions/{REVISIONS[-1]}_", re.ASCII)
    for commit in git("rev-list", "--first-parent", "HEAD").decode().split():
        if not newest.search(git("ls-tree", "-r", "--name-only", commit, "backend").decode()):
            break
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "backend", "pyproject.toml"))) as archive:
        archive.extractall(folder, filter="data")
    script = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["tiles"]
    module, _, function = script.partition(":")
    tiles = folder / "tiles"
    tiles.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n", "utf-8")
    tiles.chmod(0o755)
    return folder


@contextmanager
def code_of(tree: Path) -> Iterator[None]:
    """Let started processes use the code of another tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tree))
        patch.setattr(server_process, "TILES", tree / "tiles")
        patch.setattr(forking, "TILES", tree / "tiles")
        yield


class Load(threading.Thread):
    """A signed-in person who uses a server without a pause; keeps every response with a wrong status."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self.url, self.headers = url, bearer(token)
        self.stop, self.answered, self.wrong, self.registered = threading.Event(), 0, [], []

    def run(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=30) as http:
            while not self.stop.is_set():
                email = f"{uuid.uuid4().hex}@example.org"
                self.check(202, http.post("/v1/registrations", json={"name": "Eve", "email": email}))
                self.registered.append(email)
                self.check(200, http.get("/v1/account", headers=self.headers))
                self.check(201, http.post("/v1/feedback", json={"message": email}, headers=self.headers))
                self.check(201, http.post("/v1/sessions", json={"email": "ada@example.org", "password": PASSWORD}))

    def check(self, status: int, response: httpx2.Response) -> None:
        self.answered += 1
        if response.status_code != status:
            self.wrong.append(f"{response.request.url}: {response.status_code} {response.text}")

    def wait_for_more(self) -> None:
        enough = self.answered + 40
        wait_for(lambda: self.answered >= enough or not self.is_alive())
        assert self.is_alive(), self.wrong

    def end(self) -> None:
        self.stop.set()
        if self.ident:
            self.join()


def signed_up(url: str, mail_server: MailServer) -> str:
    """Register an account, and return its session token."""
    assert httpx2.post(f"{url}/v1/registrations", json={"name": "Ada", "email": "ada@example.org"}).status_code == 202
    wait_for(lambda: mail_server.messages)
    body = {"token": token_of(mail_server.messages[0]), "password": PASSWORD}
    token: str = httpx2.post(f"{url}/v1/registrations/confirm", json=body).json()["session"]["token"]
    return token


@pytest.mark.parametrize(
    "database_url", ["empty_sqlite", pytest.param("empty_postgresql", marks=pytest.mark.long)], indirect=True
)
def test_the_previous_release_serves_while_the_schema_and_the_servers_are_upgraded(
    release_before: Path, tmp_path: Path, database_url: str, mail_server: MailServer
) -> None:
    settings = {"database_url": database_url, "mail_server": mail_server.host, "mail_port": mail_server.port,
                "rate_limits": "off", "secret_keys": KEY}  # fmt: skip

    def upgrade() -> str:
        done = run_tiles(tmp_path / "instance", "db", "upgrade", "--json", **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with code_of(release_before):
        before = re.findall(r'"to": "(\d+)"', upgrade())[0]
        old = ServerProcess(tmp_path, **settings)
    assert before < REVISIONS[-1]
    (tmp_path / "new").mkdir()
    new = ServerProcess(tmp_path / "new", **settings)
    with old, ExitStack() as stack:
        token = signed_up(old.url, mail_server)
        loads = [Load(old.url, token), Load(new.url, token)]
        for load in loads:
            stack.callback(load.end)
        loads[0].start()
        loads[0].wait_for_more()
        assert f'"to": "{REVISIONS[-1]}"' in upgrade()
        loads[0].wait_for_more()
        assert httpx2.get(f"{old.url}/readyz").status_code == (200 if before >= TAKES_LATER_SCHEMAS else 503)
        with new:
            loads[1].start()
            for load in loads:
                load.wait_for_more()
                load.end()
            assert [load.wrong for load in loads] == [[], []]
            registered = {email for load in loads for email in load.registered}
            wait_for(lambda: registered <= {str(message["To"]) for message in list(mail_server.messages)})
            assert new.terminate() == 0
        assert old.terminate() == 0
