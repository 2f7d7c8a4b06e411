"""How long each page of the desk takes when much is stored. Run as `.venv/bin/python tests/bench/desk.py`.

It exits with 1 if a page takes longer than `LIMIT_MS`.
"""

import re
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from statistics import median
from typing import Any

import click
from flask import Flask
from sqlalchemy import Connection, Table, insert, select, text
from stage import DATABASES, stage

from backend import clock
from backend.commands.console import as_json_option, dump, progress, show_rows
from backend.database import engine
from backend.database.desk_tables import DataRequest, Manager
from backend.database.models import Account, AuditEntry, Feedback
from backend.desk import managers
from backend.security import tokens

LIMIT_MS, ROUNDS, BATCH = 100, 9, 20_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
HASH = f"$argon2id$v=19$m=19456,t=2,p=1${'x' * 66}"
PAGES = (
    "",
    "/requests/done",
    "/feedback",
    "/feedback?state=done",
    "/policies",
    "/announcements",
    "/audit",
    "/sessions",
)


def word(random: Random, length: int) -> str:
    return "".join(random.choices(LETTERS, k=length))


def rows(random: Random, ids: list[uuid.UUID], first: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return one row for each table in which there are as many as accounts, or a fifth."""
    now = clock.now()
    for number, id_ in enumerate(ids, first):
        at, address = (
            now - timedelta(seconds=number),
            f"{word(random, 7)}.{word(random, 5)}{number}@example{number % 50}.org",
        )
        asked = now if number % 1000 == 0 else None
        yield Account, {
            "id": id_, "name": f"{word(random, 6)} {word(random, 8)}", "email": address, "password_hash": HASH,
            "credentials_id": uuid.uuid4(), "email_updates": True, "created_at": now,
            "closed_at": now if number % 20 == 0 else None, "erasure_requested_at": asked,
            "erase_after": now + timedelta(days=9) if asked else None,
        }  # fmt: skip
        yield (
            AuditEntry,
            {"id": uuid.uuid4(), "account_id": id_, "act": "closed", "actor": "person", "at": at, "details": {}},
        )
        if number % 5 == 0:
            yield Feedback, {"id": uuid.uuid4(), "account_id": id_, "message": word(random, 60), "received_at": at}
        if number % 100 == 0:
            day = now.date()
            yield DataRequest, {
                "id": uuid.uuid4(), "account_id": id_, "kind": "access", "way": "email", "identity": "mailbox",
                "received_on": day, "due_on": day + timedelta(days=random.randrange(-9, 30)), "recorded_at": now,
            }  # fmt: skip


def fill(connection: Connection, number: int, tick: Any) -> uuid.UUID:  # noqa: ANN401 - a progress bar
    """Store so many accounts with what belongs to them; return the id of one."""
    random = Random(1)
    for first in range(0, number, BATCH):
        ids = [uuid.UUID(int=random.getrandbits(128)) for _ in range(min(BATCH, number - first))]
        of_table: dict[Table, list[dict[str, Any]]] = {}
        for model, row in rows(random, ids, first):
            of_table.setdefault(model.__table__, []).append(row)
        for table, given in of_table.items():
            connection.execute(insert(table), given)
        tick.update(len(ids))
    return ids[0]


def prepare(app: Flask, kind: str, number: int, tick: Any) -> tuple[uuid.UUID, str, str, str]:  # noqa: ANN401
    """Fill the database and invite a data manager; return an account's id, address and name, and a sign-in token."""
    with app.app_context():
        with engine.db.engine.execution_options(writing=True).begin() as connection:
            account_id = fill(connection, number, tick)
        with engine.autocommit() as connection:
            connection.execute(text("ANALYZE" if kind == "postgresql" else "PRAGMA optimize"))
        managers.invite("mary@example.org", "Mary Somerville")
        with engine.reading() as session:
            account = session.execute(select(Account.email, Account.name).where(Account.id == account_id)).one()
            manager = session.execute(select(Manager.id, Manager.email, Manager.sign_in_id)).one()
        return account_id, account.email, account.name, tokens.issue_for_manager(manager)


def measure(kind: str, number: int, *, quiet: bool) -> Iterator[dict[str, Any]]:
    """Time every page and search on one kind of database."""
    with stage(kind) as found:
        with progress(number, kind) as bar:
            bar.hidden |= quiet
            account, email, name, token = prepare(found.app, kind, number, bar)
        client = found.app.test_client()
        client.post("/desk/sign-in/confirm", data={"token": token})
        (form_token, *_) = re.findall(r'name="form_token" value="(\w+)"', client.get("/desk/sessions").text)
        for path in (*PAGES, f"/people/{account}", f"/people/{account}/close"):
            yield timed(kind, path or "/", lambda path=path: client.get(f"/desk{path}"))
        searches = {
            "address": email, "name": name, "beginning": email[:5], "one letter": "a", "middle": email[8:18],
            "nothing": "zzqqzz",
        }  # fmt: skip
        for label, wanted in searches.items():
            form = {"form_token": form_token, "text": wanted}
            yield timed(kind, f"find: {label}", lambda form=form: client.post("/desk/people", data=form))


def timed(kind: str, name: str, ask: Any) -> dict[str, Any]:  # noqa: ANN401 - a call of Flask's client
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        answer = ask()
        assert answer.status_code == 200, (name, answer.status, answer.text)
        times.append(1000 * (time.perf_counter() - begun))
    return {"database": kind, "page": name, "median_ms": round(median(times), 1), "slow": median(times) > LIMIT_MS}


@click.command()
@click.option("--accounts", default=1_000_000, show_default=True, type=click.IntRange(1_000))
@click.option("--database", default="both", show_default=True, type=click.Choice([*DATABASES, "both"]))
@as_json_option
def main(*, accounts: int, database: str, as_json: bool) -> None:
    """Time each page of the desk with many accounts, and a request for every hundredth."""
    kinds = DATABASES if database == "both" else (database,)
    found = [row for kind in kinds for row in measure(kind, accounts, quiet=as_json)]
    click.echo(dump(found)) if as_json else show_rows(found, as_json=False, empty="")
    sys.exit(any(row["slow"] for row in found))


if __name__ == "__main__":
    main()
