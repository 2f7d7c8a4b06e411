"""Databases that are large from the first moment: their rows are made by the database itself."""

import hashlib
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, String, cast, func, insert, literal, select, text
from stage import Stage, register

from backend import clock
from backend.database.engine import autocommit, db
from backend.database.models import Account, Session

# SQLite builds its trees in memory: without, each row of a large table would cost a page read and a page written.
BUILDING = "PRAGMA cache_size = -1000000"
AT_ONCE = 500


def address(number: int) -> str:
    """Return the address of one of the people."""
    return f"person{number}@example.org"


def seed(stage: Stage, accounts: int) -> float:
    """Have so many people, each signed in once; return how many bytes on the disk each of them takes."""
    register(stage.app, "template@example.org")
    before = _size(stage)
    with stage.app.app_context():
        with db.engine.begin() as connection:
            _fill(connection, accounts)
        if db.engine.dialect.name == "postgresql":
            # Or the database would do it by itself, while something is measured.
            with autocommit() as connection:
                connection.execute(text("VACUUM (ANALYZE)"))
        db.engine.dispose()
    return (_size(stage) - before) / accounts


def _fill(connection: Connection, accounts: int) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(BUILDING)
    indexes = [index for table in (Account, Session) for index in table.__table__.indexes]  # type: ignore[attr-defined]
    for index in indexes:
        index.drop(connection)
    numbers = select(literal(0).label("number")).cte(recursive=True)
    numbers = numbers.union_all(select(numbers.c.number + 1).where(numbers.c.number < accounts - 1))
    template = connection.execute(select(Account.__table__)).mappings().one()
    known = [Account.name, Account.password_hash, Account.email_updates, Account.created_at]
    email = literal("person") + cast(numbers.c.number, String) + literal("@example.org")
    id_, token = _random(connection)
    person = {column: literal(template[column.key], column.type) for column in known}
    _insert(
        connection, Account, numbers, {**person, Account.id: id_, Account.email: email, Account.credentials_id: id_}
    )
    _insert(connection, Session, Account, _session(Account.id, Account.credentials_id, id_, token))
    for index in indexes:
        index.create(connection)


def _session(account: Any, credentials: Any, id_: Any, token: Any) -> dict[Any, Any]:  # noqa: ANN401 - values or columns
    now = clock.now()
    return {
        Session.id: id_, Session.account_id: account, Session.token_sha256: token, Session.credentials_id: credentials,
        Session.created_at: literal(now, Session.created_at.type),
        Session.last_used_on: literal(now.date(), Session.last_used_on.type),
    }  # fmt: skip


def _random(connection: Connection) -> tuple[Any, Any]:
    """Return what makes a new id and what makes 32 bytes, in each row others."""
    if connection.dialect.name == "sqlite":
        return func.lower(func.hex(func.randomblob(16))), func.randomblob(32)
    return func.gen_random_uuid(), func.sha256(func.uuid_send(func.gen_random_uuid()))


def _insert(connection: Connection, table: type[Any], source: Any, values: dict[Any, Any]) -> None:  # noqa: ANN401
    rows: Select[Any] = select(*values.values()).select_from(source)
    connection.execute(insert(table.__table__).from_select([column.key for column in values], rows))


def sign_in(stage: Stage, accounts: int, number: int) -> list[str]:
    """Have so many sessions of people whom chance picks; return their tokens."""
    emails = [address(random.randrange(accounts)) for _ in range(number)]
    tokens, now = [], clock.now()
    with stage.app.app_context(), db.engine.begin() as connection:
        for row in _accounts(connection, emails):
            tokens.append(f"tiles_{uuid.uuid4().hex}")
            digest = hashlib.sha256(tokens[-1].encode()).digest()
            connection.execute(
                insert(Session).values(id=uuid.uuid4(), account_id=row.id, token_sha256=digest,
                                       credentials_id=row.credentials_id, created_at=now, last_used_on=now.date())
            )  # fmt: skip
    random.shuffle(tokens)
    return tokens


def _accounts(connection: Connection, emails: list[str]) -> Iterator[Any]:
    for first in range(0, len(emails), AT_ONCE):
        wanted = func.lower(Account.email).in_(emails[first : first + AT_ONCE])
        found = select(Account.id, Account.credentials_id).where(wanted, Account.closed_at.is_(None))
        yield from connection.execute(found).all()


def _size(stage: Stage) -> int:
    """Return the bytes of a database on the disk."""
    with stage.app.app_context(), db.engine.connect() as connection:
        if db.engine.dialect.name == "postgresql":
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
        connection.rollback()
        connection.connection.dbapi_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    return Path(str(db_file(stage))).stat().st_size


def db_file(stage: Stage) -> Path:
    """Return SQLite's file."""
    return Path(str(stage.settings["database_url"]).removeprefix("sqlite:///"))
