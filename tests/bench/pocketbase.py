"""PocketBase, the compiled peer: on loopback, with a folder, people and a mail server of its own.

By default its commits are not flushed to the disk, so that a power cut loses acknowledged writes. A hook changes that.
"""

import secrets
import shutil
import sqlite3
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
from bench.requests import Target, get, post, processor_seconds, wait_until_up
from bench.stage import EMAIL, NOBODY
from peers import free_port
from support import PASSWORD

PROGRAM = Path(sysconfig.get_path("scripts")) / "pocketbase"
OPERATOR = "operator@example.org"
# A person who asks again within two minutes is sent nothing, which costs less: so many ask in turn.
PEOPLE, ASKING = 20_000, 5_000
USERS = "/api/collections/users"
IDLE_SECONDS = 0.3
# All writes go over one connection, which is opened anew after three idle minutes.
DURABLE = """
routerAdd("GET", "/durable", (e) => {
  const setting = new DynamicModel({synchronous: 0})
  $app.nonconcurrentDB().newQuery("PRAGMA synchronous = FULL").execute()
  $app.nonconcurrentDB().newQuery("PRAGMA synchronous").one(setting)
  return e.json(200, setting)
})
"""
FULL = 2


class PocketBase:
    """A running PocketBase, with the requests that are measured on it."""

    def __init__(self, url: str, folder: Path, process: int, *, is_durable: bool) -> None:
        """Take where it listens, where its files are, and whether its commits are flushed."""
        self.folder, self.process, self.is_durable = folder, process, is_durable
        self.target = Target(url, lambda: [process], self.wait_until_idle)
        self._http = httpx2.Client(base_url=url, timeout=30, trust_env=False)
        self._numbers = count()
        self.token, self.id = "", ""

    def prepare(self, mail_port: int) -> None:
        """Tell it the mail server, and make people and a collection for records."""
        self._http.headers["Authorization"] = self._sign_in("_superusers", OPERATOR)["token"]
        smtp = {"enabled": True, "host": "127.0.0.1", "port": mail_port, "tls": False}
        self._call("PATCH", "/api/settings", {"smtp": smtp})
        fields = [{"name": "text", "type": "text"}]
        self._call("POST", "/api/collections", {"name": "notes", "type": "base", "fields": fields, "createRule": ""})
        person = {"email": EMAIL, "password": PASSWORD, "passwordConfirm": PASSWORD, "name": "Ada Lovelace"}
        self.id = self._call("POST", f"{USERS}/records", person)["id"]
        del self._http.headers["Authorization"]
        self._have_people()
        self.token = self._sign_in("users", EMAIL)["token"]

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - the peer's JSON
        response = self._http.request(method, path, json=body)
        response.raise_for_status()
        return response.json()

    def _sign_in(self, collection: str, email: str) -> Any:  # noqa: ANN401
        who = {"identity": email, "password": PASSWORD}
        return self._call("POST", f"/api/collections/{collection}/auth-with-password", who)

    def _have_people(self) -> None:
        """Copy the person under other addresses, because registering so many takes minutes."""
        with closing(sqlite3.connect(self.folder / "data.db", timeout=10)) as file, file:
            names = [row[1] for row in file.execute("PRAGMA table_info(users)")]
            (row,) = file.execute(f"SELECT {', '.join(names)} FROM users WHERE id = ?", (self.id,))
            person = dict(zip(names, row, strict=True))
            copies = [
                {**person, "id": f"{secrets.token_hex(7)}x", "email": _address(number),
                 "tokenKey": secrets.token_hex(25)}
                for number in range(PEOPLE)
            ]  # fmt: skip
            file.executemany(f"INSERT INTO users VALUES ({', '.join(f':{name}' for name in names)})", copies)

    def make_durable(self) -> None:
        """Flush each commit from now on, if this one is to be as durable as the service."""
        if self.is_durable:
            setting = self._http.get("/durable").raise_for_status().json()
            assert setting == {"synchronous": FULL}, setting

    def wait_until_idle(self) -> None:
        """Return when it uses no processor time, as it sends emails after its response."""
        before = -1.0
        while before < (used := processor_seconds([self.process])):
            before = used
            time.sleep(IDLE_SECONDS)

    def requests(self) -> dict[str, list[bytes]]:
        """Return the requests of each operation, new ones on each call."""
        reset, sign_in = f"{USERS}/request-password-reset", f"{USERS}/auth-with-password"
        return {
            "register": self._registrations(),
            "reset, known": [post(reset, email=self._next_address()) for _ in range(ASKING)],
            "reset, unknown": [post(reset, email=NOBODY)],
            "sign in, right": [post(sign_in, identity=EMAIL, password=PASSWORD)],
            "sign in, wrong": [post(sign_in, identity=EMAIL, password="a wrong but long password")],
            "sign in, unknown": [post(sign_in, identity=NOBODY, password=PASSWORD)],
            "own account": [get(f"{USERS}/records/{self.id}", Authorization=self.token)],
            "store one record": [post("/api/collections/notes/records", text="The interview plan is what I needed.")],
        }

    def _registrations(self) -> list[bytes]:
        """Register new people in two requests each: one makes the account, one emails a link to somebody so made."""
        requests = []
        for _ in range(500):
            email = f"new{next(self._numbers)}@example.org"
            requests.append(post(f"{USERS}/records", email=email, password=PASSWORD, passwordConfirm=PASSWORD))
            requests.append(post(f"{USERS}/request-verification", email=self._next_address()))
        return requests

    def _next_address(self) -> str:
        return _address(next(self._numbers) % PEOPLE)


def _address(number: int) -> str:
    return f"person{number}@example.org"


@contextmanager
def pocketbase(folder: Path, mail_port: int, *, is_durable: bool) -> Iterator[PocketBase]:
    """Run one in a new folder, with a mail server on a port of loopback."""
    hooks = folder / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "durable.pb.js").write_text(DURABLE)
    where = ["--dir", str(folder / "data"), "--hooksDir", str(hooks), "--hooksWatch=false", "--automigrate=false"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([PROGRAM, "superuser", "upsert", OPERATOR, PASSWORD, *where], check=True, **quiet)
    listen = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([PROGRAM, "serve", "--http", listen, *where], **quiet)
    try:
        wait_until_up(f"http://{listen}", "/api/health")
        peer = PocketBase(f"http://{listen}", folder / "data", process.pid, is_durable=is_durable)
        peer.prepare(mail_port)
        yield peer
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
