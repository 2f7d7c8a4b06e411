"""The service seen from outside."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, ParamSpec, TypeVar

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from flask.testing import FlaskClient
from peers import MailServer, token_of
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
