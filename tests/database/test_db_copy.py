"""`tiles db copy`: copies every row of SQLite unchanged to an empty PostgreSQL, where the service continues."""

import json
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from apps import KEY, dispose, make_app, make_settings
from forking import TILES
from peers import MailServer
from running import error_of, invoke, json_of
from server_process import environment, run_tiles
from sqlalchemy import BigInteger, Boolean, Column, Date, Integer, LargeBinary, String, Uuid, insert, make_url
from sqlalchemy.types import JSON, TypeEngine
from support import Service

from backend import clock
from backend.database import copying, engine
from backend.database.models import Feedback

ODD = "e\u0301 \U0001f600\u202eabc\u00a0\ufeff\ufffd ' \" \\ % \t\n\x7f"
# For each type, values that a careless copy would change. The first matching type counts.
VALUES: dict[type[TypeEngine[Any]], Callable[[int], object]] = {
    Uuid: lambda number: uuid.UUID(int=2**128 - 1 - number),
    LargeBinary: lambda number: bytes(range(number, number + 32)),
    Boolean: lambda number: number % 2 == 0,
    BigInteger: lambda number: 2**63 - 1 - number,
    Integer: lambda number: 2**31 - 1 - number,
    JSON: lambda number: {ODD: [2**70, -number, None, True, {"": 1.5}, "\u0000"], "b": 1, "a": 2},
    Date: lambda number: date.min if number else date.max,
    String: lambda number: f"{number}{ODD}",
    engine.UTCDateTime: lambda number: (
        datetime(1, 1, 1, 0, 0, 0, 1, UTC) if number else datetime.max.replace(tzinfo=UTC)
    ),
}


def value(column: Column[Any], number: int) -> object:
    if column.foreign_keys or column.name in {"account_id", "id"}:
        return uuid.UUID(int=number + 1)
    if number == 2 and column.nullable:
        return None
    odd = next(make for type_, make in VALUES.items() if isinstance(column.type, type_))(number)
    return odd[: getattr(column.type, "length", None)] if isinstance(odd, str) else odd


def fill(service: Service) -> None:
    """Store three rows in every table: two with odd values, and one with as many NULLs as possible."""
    with service.app.app_context(), engine.transaction() as session:
        for table in engine.Base.metadata.sorted_tables:
            session.execute(insert(table), [{column.name: value(column, number) for column in table.columns}
                                            for number in range(3)])  # fmt: skip


def everything(service: Service) -> dict[str, list[str]]:
    """Return every row of every table as the service reads it, sorted."""
    with service.app.app_context(), engine.reading() as session:
        return {table.name: sorted(repr(tuple(row)) for row in session.execute(table.select()))
                for table in engine.Base.metadata.sorted_tables}  # fmt: skip


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The source."""
    return sqlite_url


@pytest.fixture
def copied(empty_postgresql_url: str, tmp_path: Path, mail_server: MailServer) -> Iterator[Service]:
    """The service on the target."""
    peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
    app = make_app(make_settings(tmp_path, empty_postgresql_url, **peer))
    yield Service(app, mail_server)
    dispose(app)


def rows_of(url: str) -> int:
    """Return how many rows a database has."""
    with psycopg.connect(url) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        return sum(
            connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()[0]  # type: ignore[index]
            for name in names
            if name != "alembic_version"
        )


def test_every_row_of_every_table_is_copied_unchanged(
    service: Service, copied: Service, tmp_path: Path, empty_postgresql_url: str
) -> None:
    fill(service)
    with service.app.app_context(), engine.transaction() as session:
        session.execute(insert(Feedback), [{"id": uuid.uuid4(), "message": f"{number}", "received_at": clock.now()}
                                           for number in range(2 * copying.BATCH + 1)])  # fmt: skip
    before, content = everything(service), (tmp_path / "tiles.sqlite3").read_bytes()
    result = json_of(service.app, "db", "copy", "--to", empty_postgresql_url)
    assert result == {"copied": {table: len(rows) for table, rows in before.items()}}
    assert all(len(rows) >= 3 for rows in before.values())
    assert (tmp_path / "tiles.sqlite3").read_bytes() == content
    assert everything(copied) == before
    assert everything(service) == before


@pytest.mark.long
def test_the_service_continues_on_the_copy(
    service: Service, copied: Service, tmp_path: Path, database_url: str, empty_postgresql_url: str
) -> None:
    ada = service.register()
    link = service.ask_for_reset()
    service.http.post("/v1/registrations", json={"name": "Bob", "email": "bob@example.org"})
    dispose(service.app)
    # The URL of the target comes from standard input.
    done = subprocess.run([TILES, "db", "copy", "--to", "-", "--json"], input=f"{empty_postgresql_url}\n",
                          env=environment(tmp_path, database_url=database_url, secret_keys=KEY),
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["copied"]["accounts"] == 1
    assert copied.http.get("/readyz").status_code == 200
    assert copied.account(ada.headers).json["name"] == "Ada Lovelace"
    assert [mail["To"] for mail in copied.deliver()] == ["bob@example.org"]
    assert copied.sign_in().status_code == 201
    assert copied.reset(link).status_code == 204


def test_rows_written_after_the_copy_began_are_not_in_it(
    service: Service, copied: Service, empty_postgresql_url: str
) -> None:
    fill(service)
    before = everything(service)

    def write_meanwhile(_number: int) -> None:
        service.http.post("/v1/feedback", json={"message": "Just now"})

    with service.app.app_context():
        copying.copy(copying.target(empty_postgresql_url), write_meanwhile)
    assert everything(copied) == before
    assert len(service.rows("feedback")) > 3


@pytest.mark.usefixtures("ada")
def test_a_target_with_rows_or_of_another_program_is_refused(service: Service, empty_postgresql_url: str) -> None:
    done = invoke(service.app, "db", "copy", "--to", empty_postgresql_url)
    assert "Set TILES_DATABASE_URL to the new database" in done.stderr
    rows = rows_of(empty_postgresql_url)
    assert rows
    assert "the target is not empty" in error_of(service.app, "db", "copy", "--to", empty_postgresql_url)
    assert rows_of(empty_postgresql_url) == rows
    with psycopg.connect(empty_postgresql_url) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE TABLE alembic_version (version_num text)")
        connection.execute("INSERT INTO alembic_version VALUES ('3f1c')")
    assert "another release or program" in error_of(service.app, "db", "copy", "--to", empty_postgresql_url)


@pytest.mark.parametrize("target", ["sqlite:////tmp/x.sqlite3", "mysql://a:marmalade@b/c", "nonsense"])
def test_a_target_other_than_postgresql_is_refused(service: Service, target: str) -> None:
    error = error_of(service.app, "db", "copy", "--to", target)
    assert error.startswith("Error: the target: write a")
    assert "marmalade" not in error


@pytest.mark.parametrize("part", ["nobody", "absent"])
def test_a_target_that_cannot_be_used_is_named_as_such(service: Service, empty_postgresql_url: str, part: str) -> None:
    url = make_url(empty_postgresql_url)
    target = url.set(port=1) if part == "absent" else url.set(username="nobody")
    error = error_of(service.app, "db", "copy", "--to", target.render_as_string(hide_password=False))
    assert error.startswith("Error: the target: it cannot be used (OperationalError")
    assert "Nothing was copied" in error


def test_a_source_that_is_missing_or_no_sqlite_is_refused(
    copied: Service, tmp_path: Path, empty_postgresql_url: str
) -> None:
    missing = run_tiles(tmp_path / "none", "db", "copy", "--to", empty_postgresql_url, secret_keys=KEY)
    assert missing.returncode == 1
    assert "there is no database yet" in missing.stderr
    assert "is not SQLite's" in error_of(copied.app, "db", "copy", "--to", empty_postgresql_url)
    assert rows_of(empty_postgresql_url) == 0


@pytest.mark.parametrize("stored", [("message", "a\x00b"), ("account_id", "f" * 32)], ids=["NUL", "of no account"])
def test_a_row_that_postgresql_refuses_is_reported_without_its_content_and_nothing_is_copied(
    service: Service, tmp_path: Path, empty_postgresql_url: str, stored: tuple[str, str]
) -> None:
    fill(service)
    column, content = stored
    with closing(sqlite3.connect(tmp_path / "tiles.sqlite3")) as connection, connection:
        connection.execute(f"UPDATE feedback SET {column} = ? WHERE rowid = 1", (content,))
    error = error_of(service.app, "db", "copy", "--to", empty_postgresql_url)
    assert error.startswith("Error: feedback: PostgreSQL refuses a row")
    assert content not in error
    assert rows_of(empty_postgresql_url) == 0


def test_a_copy_that_differs_is_detected_and_rolled_back(
    service: Service, copied: Service, empty_postgresql_url: str
) -> None:
    fill(service)
    json_of(copied.app, "db", "upgrade")
    with psycopg.connect(empty_postgresql_url) as connection:
        connection.execute("CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS "
                           "$$ BEGIN NEW.message = NEW.message || ' '; RETURN NEW; END $$")  # fmt: skip
        connection.execute("CREATE TRIGGER change BEFORE INSERT ON feedback FOR EACH ROW EXECUTE FUNCTION change()")
    error = error_of(service.app, "db", "copy", "--to", empty_postgresql_url)
    assert error == "Error: feedback: the copy differs from the source; nothing was copied"
    assert rows_of(empty_postgresql_url) == 0
