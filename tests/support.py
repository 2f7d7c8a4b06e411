"""The real peers, and the service seen from outside."""

import io
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import forking
import httpx2
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from flask.testing import FlaskClient
from forking import TILES
from sqlalchemy import event, select
from werkzeug.test import TestResponse

from backend import clock
from backend.commands.serve import tiles
from backend.database import engine as db
from backend.database.models import Account, Feedback
from backend.desk import feedback, requests
from backend.mail import delivery
from backend.serving import worker

PASSWORD = "quiet lemon gravel piano"
OTHER_PASSWORD = "seven wooden boats drift"

T = TypeVar("T")
P = ParamSpec("P")


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(find: Callable[[], T | None], seconds: float = 20) -> T:
    """Return the first true result of `find`; fail after the timeout."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := find():
            return result
        time.sleep(0.05)
    raise AssertionError(f"no result within {seconds} s")


# The mail server's own log names everybody, and no test reads it.
logging.getLogger("mail.log").propagate = False


class MailServer:
    """A real SMTP server on loopback that keeps the emails. `refuse` replaces its reply to RCPT."""

    def __init__(self, **options: Any) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self.messages: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.connections = 0
        self.refuse: str | None = None
        self.refuse_data: str | None = None
        self._controller = Controller(self, hostname=self.host, port=self.port, **options)

    async def handle_EHLO(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refuse_data:
            return self.refuse_data
        content = envelope.content
        assert isinstance(content, bytes)
        self.envelopes.append(envelope)
        self.messages.append(message_from_bytes(content, policy=policy.default))
        return "250 OK"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._controller.stop()


class RedisServer:
    """A real Redis server on loopback, without a disk; `stop` and `start` simulate an outage."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL,
        )
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.stop()


def text_of(message: EmailMessage) -> str:
    """Return a mail's text part."""
    part = message.get_body(("plain",))
    assert part is not None
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


def html_of(message: EmailMessage) -> str:
    """Return a mail's HTML part."""
    part = message.get_body(("html",))
    assert part is not None
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


def token_of(message: EmailMessage) -> str:
    """Return the token in the link that stands alone on a line of a mail's text."""
    link = re.search(r"^https?://\S+/[a-z-]+#(\S+)$", text_of(message), re.MULTILINE)
    assert link, text_of(message)
    return link.group(1)


@dataclass
class Person:
    """A person with an account, and the first session."""

    name: str
    email: str
    password: str
    token: str
    session: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.session['token']}"}


class Service:
    """The service as people use it: the HTTP door, and the emails that its worker sends."""

    def __init__(self, app: Flask, mail_server: MailServer) -> None:
        self.app, self.mail_server = app, mail_server

    @property
    def http(self) -> FlaskClient:
        return self.app.test_client()

    def deliver(self) -> list[EmailMessage]:
        """Send the due emails as the worker does; return those that arrived."""
        before = len(self.mail_server.messages)
        with self.app.app_context():
            delivery.deliver()
        return self.mail_server.messages[before:]

    def mail(self) -> EmailMessage:
        """Deliver, and return the one mail that arrived."""
        (message,) = self.deliver()
        return message

    def ask_to_register(self, *, name: str = "Ada Lovelace", email: str = "ada@example.org") -> str:
        """Register up to the mail, and return the token from its link."""
        response = self.http.post("/v1/registrations", json={"name": name, "email": email})
        assert response.status_code == 202, response.text
        return token_of(self.mail())

    def confirm(self, token: str, password: str = PASSWORD) -> TestResponse:
        return self.http.post("/v1/registrations/confirm", json={"token": token, "password": password})

    def register(
        self, *, name: str = "Ada Lovelace", email: str = "ada@example.org", password: str = PASSWORD
    ) -> Person:
        """Register, from the form to the first session."""
        token = self.ask_to_register(name=name, email=email)
        response = self.confirm(token, password)
        assert response.status_code == 201, response.text
        return Person(name, email, password, token, response.json["session"])

    def sign_in(self, email: str = "ada@example.org", password: str = PASSWORD) -> TestResponse:
        return self.http.post("/v1/sessions", json={"email": email, "password": password})

    def ask_for_reset(self, email: str = "ada@example.org") -> str:
        """Ask for a reset, and return the token from the mailed link."""
        response = self.http.post("/v1/password-resets", json={"email": email})
        assert response.status_code == 202, response.text
        return token_of(self.mail())

    def reset(self, token: str, password: str = OTHER_PASSWORD) -> TestResponse:
        return self.http.post("/v1/password-resets/confirm", json={"token": token, "password": password})

    def account(self, headers: dict[str, str]) -> TestResponse:
        return self.http.get("/v1/account", headers=headers)

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """Collect the SQL that is executed during the block."""
        statements: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        with self.app.app_context():
            engine = db.db.engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            event.remove(engine, "before_cursor_execute", note)

    def run(self, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function of the backend in the service's context."""
        with self.app.app_context():
            return act(*arguments, **named)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return a table as it is stored."""
        with self.app.app_context(), db.reading() as session:
            return [row._asdict() for row in session.execute(db.text(f"SELECT * FROM {table}"))]

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """Return all tables as they are stored."""
        return {table: self.rows(table) for table in db.Base.metadata.tables}


@contextmanager
def working(app: Flask) -> Iterator[None]:
    """Run the worker in a thread during the block."""
    stop = threading.Event()
    thread = threading.Thread(target=worker.work, args=(app, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def assert_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a problem document with this status and code; return it."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    document: dict[str, Any] = response.json
    assert document["status"] == status
    assert document["code"] == code
    assert document["type"] == f"https://accounts.tiles.test/problems/{code}"
    assert document["title"]
    assert document["detail"]
    assert document.keys() == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert document["request_id"] == response.headers["X-Request-Id"]
    return document


def comparable(response: TestResponse, typed: str = "") -> tuple[int, list[tuple[str, str]], bytes]:
    """Return a response without the time, the request's random id and the input."""
    varying = {"Date", "X-Request-Id"} | ({"Content-Length"} if typed else set())
    headers = [(name, value) for name, value in response.headers if name not in varying]
    body = response.data.replace(response.headers["X-Request-Id"].encode(), b"")
    return response.status_code, headers, body.replace(typed.encode(), b"") if typed else body


def client_context(certificate_authority: Path) -> ssl.SSLContext:
    """Return a TLS context that trusts one authority only."""
    return ssl.create_default_context(cafile=str(certificate_authority))


def environment(instance_path: Path, **settings: object) -> dict[str, str]:
    """Return an environment for `tiles` whose only settings are these, with Argon2 at its cheapest."""
    values: dict[str, object] = {
        "instance_path": instance_path,
        "argon2_memory_kib": 8,
        "argon2_time_cost": 1,
        **settings,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TILES_")}
    return inherited | {f"TILES_{name.upper()}": str(value) for name, value in values.items()}


def run_tiles(instance_path: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `tiles` to its end."""
    return forking.run([*arguments], environment(instance_path, **settings))


def catches_term(pid: int) -> bool:
    """Return whether a process handles SIGTERM, and so finishes its work: it sets the handler after its start."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


class ServerProcess:
    """`tiles serve` as an operator runs it: separate processes, settings from the environment, a log in a file.

    Used as a context it is started, ready when the block begins, and gone with all its processes when it ends.
    Each `start` is a new process on the same instance folder, the same port and the same log.
    """

    # Whether a start is a fork of a process that has imported the service: it takes a third of the processor time.
    forked = False

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, **settings: object) -> None:
        self.port = port or free_port()
        self.instance_path, self.log_path = folder / "instance", folder / "serve.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self._command: list[str | Path] = [TILES, "serve", "--port", str(self.port), *arguments]
        self._environment = environment(self.instance_path, **{"public_url": self.url, **settings})
        self._process: subprocess.Popen[bytes] | forking.Forked | None = None
        self._leaders: list[int] = []

    @property
    def log(self) -> str:
        """The output of the process on both streams."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The started process: the supervisor of the server processes."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start without waiting for anything."""
        with self.log_path.open("ab") as log:
            unchanged = self.forked and self._command[0] == TILES
            forked = unchanged and forking.start(self._command[1:], self._environment, log, log)
            self._process = forked or subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._leaders.append(self._process.pid)

    def wait_until_ready(self, seconds: float = 40) -> None:
        """Wait until `/readyz` responds with 200."""

        def ready() -> bool:
            assert self._process
            assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.log}"
            try:
                return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
            except httpx2.TransportError:
                return False

        wait_for(ready, seconds)

    def processes(self) -> list[int]:
        """Return the ids of this server's live processes: all in the sessions of the started processes.

        A process with the state of a zombie lives, and keeps its sockets, until its last thread has ended.
        """
        pids = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                state, leader, threads = fields[0], int(fields[3]), int(fields[17])
                if leader in self._leaders and (state != "Z" or threads > 1):
                    pids.append(int(stat.parent.name))
        return pids

    def wait(self, seconds: float = 30) -> int:
        """Return the exit status of the process that was started."""
        assert self._process
        return self._process.wait(seconds)

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM, as a service manager does, and return the exit status."""
        assert self._process
        self._process.terminate()
        return self.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL to the process that was started, and to it alone."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """Send SIGKILL to every process at once, as when the machine loses power."""
        while living := self.processes():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._leaders.clear()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.kill_all()


class ExecutedServer(ServerProcess):
    """A server that is executed as a program, not forked."""

    forked = False


# For tests that do not depend on the database.
any_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# A database before the first migration.
empty_database = pytest.mark.parametrize("database_url", ["empty_sqlite", "empty_postgresql"], indirect=True)


def bearer(token: str) -> dict[str, str]:
    """Return the headers that send a session."""
    return {"Authorization": f"Bearer {token}"}


# Markers in bad input, to recognise it where it must not be.
WORD, NUMBER = "kilimanjaro", 4815162342
# An id that does not exist.
NOBODY = "5a1c2f5e-9a9b-4c87-8f0e-3f6f2a4f0b11"


def announced(data: bytes) -> dict[str, Any]:
    """Return the test client's options for a body with its length."""
    return {"data": data}


def chunked(data: bytes) -> dict[str, Any]:
    """Return the test client's options for a chunked body, as the HTTP server passes it on."""
    return {
        "input_stream": io.BytesIO(data),
        "headers": {"Transfer-Encoding": "chunked"},
        "environ_overrides": {"wsgi.input_terminated": True},
    }


# The fixture that sends a bad request: a method, a path, and options of the test client.
Send = Callable[..., TestResponse]


def invoke(service: Service, *arguments: str, typed: str | bytes | None = None, status: int = 0) -> Result:
    """Run a command of `tiles` in this process, on this service's app; check its exit status."""
    info = ScriptInfo(create_app=lambda: service.app)
    done = CliRunner().invoke(tiles, list(arguments), obj=info, input=typed)
    assert done.exit_code == status, (arguments, done.output, done.exception)
    return done


def request_and_reply(service: Service, email: str) -> None:
    """Record a request of a person who sent feedback, and reply to that feedback."""
    newest = select(Feedback.id).join(Account).where(Account.email == email)
    with service.app.app_context():
        requests.record(email, kind="access", way="email", identity="mailbox", received_on=clock.now().date())
        with db.reading() as session:
            feedback_id = session.scalars(newest).one()
        feedback.reply(feedback_id, message="Thank you.", after=0)
