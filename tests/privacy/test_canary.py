"""The canary: a person with unique data uses every feature and is erased, and no byte of the data is left.

Two places are left out: the Maildir, which stands for a mail server, and PostgreSQL's write-ahead log, of which the
operator reads in docs/operating.md.
"""

import random
import re
import secrets
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from apps import KEY
from canary_life import (
    ask_the_manager,
    close_and_come_back,
    come_too_late,
    end,
    live,
    move,
    register,
    visit_the_desk,
    write,
)
from canary_walk import Walk
from command_line import commands
from flask import Flask
from lifecycle_run import PostOffice
from peers import text_of, wait_for
from residue import files_with, residue, rows_with
from server_process import ServerProcess, run_tiles
from sqlalchemy import insert, select, text
from support import Service

from backend.commands.serve import tiles
from backend.database import engine, models
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
# The words of both people that are stored just before the end.
STORED = (
    "name", "old address", "new address", "address never confirmed", "feedback", "long feedback", "sent reply",
    "companion",
)  # fmt: skip


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
