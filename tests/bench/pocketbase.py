"""PocketBase, the compiled peer: on loopback, with a folder, a person and a mail server of its own."""

import os
import secrets
import sqlite3
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from measure import post
from support import PASSWORD, free_port

PROGRAM = Path(sysconfig.get_path("scripts")) / "pocketbase"
OPERATOR = "operator@example.org"
EMAIL = "ada@example.org"
# Whoever asks again within two minutes is sent nothing, which costs less: so many ask in turns.
PEOPLE = 1000
USERS = "/api/collections/users"


class PocketBase:
    """A running one, with the requests that are measured on it."""

    def __init__(self, url: str, folder: Path) -> None:
        """Take where it listens and where its files are."""
        self.url, self._folder, self._registered = url, folder, 0
        self._http = httpx2.Client(base_url=url, timeout=30, trust_env=False)
        self.token, self.id = "", ""

    def prepare(self, mail_port: int) -> None:
        """Tell it the mail server, and have people and a place for records."""
        operator = self._sign_in("_superusers", OPERATOR)["token"]
        self._http.headers["Authorization"] = operator
        smtp = {"enabled": True, "host": "127.0.0.1", "port": mail_port, "tls": False}
        self._call("PATCH", "/api/settings", {"smtp": smtp})
        fields = [{"name": "text", "type": "text"}]
        self._call("POST", "/api/collections",
                   {"name": "notes", "type": "base", "fields": fields, "createRule": ""})  # fmt: skip
        person = {"email": EMAIL, "password": PASSWORD, "passwordConfirm": PASSWORD, "name": "Ada Lovelace"}
        self.id = self._call("POST", f"{USERS}/records", person)["id"]
        del self._http.headers["Authorization"]
        self._have_people()
        self.token = self._sign_in("users", EMAIL)["token"]
        self._http.close()

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - the peer's JSON
        answer = self._http.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json()

    def _sign_in(self, collection: str, email: str) -> Any:  # noqa: ANN401
        return self._call("POST", f"/api/collections/{collection}/auth-with-password",
                          {"identity": email, "password": PASSWORD})  # fmt: skip

    def _have_people(self) -> None:
        """Copy the person under other addresses: to register so many takes minutes."""
        with closing(sqlite3.connect(self._folder / "data.db", timeout=10)) as file, file:
            names = [row[1] for row in file.execute("PRAGMA table_info(users)")]
            (row,) = file.execute(f"SELECT {', '.join(names)} FROM users WHERE id = ?", (self.id,))
            copies = [
                {**dict(zip(names, row, strict=True)), "id": secrets.token_hex(7) + "x", "email": _address(number),
                 "tokenKey": secrets.token_hex(25)}
                for number in range(PEOPLE)
            ]  # fmt: skip
            file.executemany(f"INSERT INTO users VALUES ({', '.join(f':{name}' for name in names)})", copies)

    def account(self) -> bytes:
        """Ask for one's own account."""
        return f"GET {USERS}/records/{self.id} HTTP/1.1\r\nHost: bench\r\nAuthorization: {self.token}\r\n\r\n".encode()

    def sign_in(self) -> bytes:
        """Sign in."""
        return post(f"{USERS}/auth-with-password", identity=EMAIL, password=PASSWORD)

    def store(self) -> bytes:
        """Store a record."""
        return post("/api/collections/notes/records", text="The interview plan is what I needed.")

    def resets(self, *, known: bool) -> list[bytes]:
        """Ask for a reset."""
        if not known:
            return [post(f"{USERS}/request-password-reset", email="nobody@example.org")]
        return [post(f"{USERS}/request-password-reset", email=_address(number)) for number in range(PEOPLE)]

    def registrations(self) -> list[bytes]:
        """Register new people, each in two requests: one makes the account, one mails a link to somebody so made."""
        first, self._registered = self._registered, self._registered + PEOPLE
        found = []
        for number in range(PEOPLE):
            email = f"new{first + number}@example.org"
            found.append(post(f"{USERS}/records", email=email, password=PASSWORD, passwordConfirm=PASSWORD))
            found.append(post(f"{USERS}/request-verification", email=_address(number)))
        return found


def _address(number: int) -> str:
    return f"person{number}@example.org"


@contextmanager
def pocketbase(folder: Path, mail_port: int) -> Iterator[PocketBase]:
    """Run one in a new folder, with a mail server on a port of loopback."""
    where, url = ["--dir", str(folder)], f"http://127.0.0.1:{free_port()}"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([PROGRAM, "superuser", "upsert", OPERATOR, PASSWORD, *where], check=True, **quiet)
    listen = url.removeprefix("http://")
    process = subprocess.Popen(
        [PROGRAM, "serve", "--http", listen, *where], env=os.environ | {"NO_COLOR": "1"}, **quiet
    )
    try:
        _wait_until_up(url)
        found = PocketBase(url, folder)
        found.prepare(mail_port)
        yield found
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(url: str) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with suppress(httpx2.TransportError):
            httpx2.get(f"{url}/api/health", trust_env=False).raise_for_status()
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing answers at {url}")
