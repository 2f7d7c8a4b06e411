"""A person who uses the real service: every request, page and command is recorded."""

import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from typing import cast as typed

import click
import httpx2
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from lifecycle_run import PostOffice
from peers import text_of, wait_for
from server_process import ServerProcess
from support import bearer

from backend.commands.serve import tiles
from backend.mail import queue
from backend.web.api import operations

# Commands that show personal data.
SHOWS_PEOPLE = {"data find", "data export", "data disclose", "data rename", "data unsubscribe", "data subscribe",
                "data change-email", "data reopen",
                "data cancel", "feedback list", "feedback export", "feedback show"}  # fmt: skip
# How the mail server refuses an address
LATER, NEVER = "late", "never"


def command_in(arguments: tuple[str, ...]) -> str:
    """Return the words that name the command."""
    words, command = [], typed("click.Command", tiles)
    for word in arguments:
        if not (isinstance(command, click.Group) and word in command.commands):
            break
        words, command = [*words, word], command.commands[word]
    return " ".join(words)


@dataclass
class Walk:
    """A person's use of the real service; records each operation, page and command that was used."""

    server: ServerProcess
    mail_server: PostOffice
    app: Flask
    outside: Path
    words: dict[str, str] = field(default_factory=dict)
    operations: set[tuple[str, str]] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    read: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.http = httpx2.Client(base_url=self.server.url)

    def mark(self, label: str) -> str:
        """Return the unique word that marks a value of this person."""
        return self.words.setdefault(label, f"canary{secrets.token_hex(6)}")

    def address(self, label: str) -> str:
        return f"{self.mark(label)}@example.org"

    def password(self) -> str:
        """Return a new password, which must not be found anywhere."""
        return self.mark(f"password {len(self.words)}") + " quiet lemon"

    def api(
        self, method: str, path: str, body: object = None, *, status: int, headers: dict[str, str] | None = None
    ) -> Any:  # noqa: ANN401 - any JSON
        """Use an operation, check its status, and return its response."""
        options = {} if body is None else {"json": body}
        response = self.http.request(method, path, headers=headers or {}, **options)
        assert response.status_code == status, (method, path, response.text)
        self.operations |= {
            (operation.method, operation.path)
            for operation in operations.declared
            if operation.method == method and re.fullmatch(re.sub("<.*?>", "[0-9a-f-]{36}", operation.path), path)
        }
        if response.headers.get("Content-Type", "").startswith("text/"):
            return response.text
        return response.json() if response.content else None

    def page(self, path: str, status: int = 200, **form: str) -> None:
        """Send a page's form."""
        assert self.http.post(path, data=form).status_code == status, path
        self.pages.add(re.sub("/unsubscribe/.*", "/unsubscribe/<token>", path))

    def run(self, *arguments: str, status: int = 0) -> Result:
        """Run a command beside the service."""
        name = command_in(arguments)
        done = CliRunner().invoke(tiles, list(arguments), obj=ScriptInfo(create_app=lambda: self.app))
        assert done.exit_code == status, (arguments, done.output, done.exception)
        self.commands.add(name)
        self.errors.append(done.stderr)
        if name not in SHOWS_PEOPLE:
            assert not any(word in done.stdout.lower() for word in self.words.values()), (arguments, done.stdout)
        return done

    def token(self, address: str, page: str) -> str:
        """Wait for an unread email that links to a page, and return its token, which must not be found anywhere."""

        def find() -> str | None:
            for number, message in enumerate(self.mail_server.messages):
                link = re.search(rf"/{page}[#/]([^\s>]+)", text_of(message))
                if number not in self.read and message["To"] == address and link:
                    self.read.add(number)
                    return link.group(1)
            return None

        token = wait_for(find)
        # The signature is unique to the token. The values inside the token have their own marks.
        self.words[f"{page} token {len(self.words)}"] = token.rpartition(".")[2]
        return token

    def stammer(self, *requests: str) -> None:
        """Send text that is not HTTP."""
        for request in requests:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=5) as connection:
                connection.sendall(request.encode())
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1000):
                    pass

    @contextmanager
    def refusing(self, address: str, way: str) -> Iterator[None]:
        """Leave a delayed or abandoned email to an address in the queue."""

        def status() -> queue.Status:
            with self.app.app_context():
                return queue.status()

        wait_for(lambda: not status().waiting)
        self.mail_server.way[address] = way
        before = status()
        yield
        wait_for(lambda: (now := status()).retrying + now.abandoned > before.retrying + before.abandoned)
        del self.mail_server.way[address]

    def sign_in(self, address: str, password: str) -> dict[str, str]:
        """Sign in, and return the headers of the session, whose token must not be found anywhere."""
        session = self.api("POST", "/v1/sessions", {"email": address, "password": password}, status=201)["session"]
        self.words[f"session {len(self.words)}"] = session["token"].removeprefix("tiles_")
        return bearer(session["token"])
