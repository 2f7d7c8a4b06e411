"""`tiles db copy`: every row of SQLite goes to an empty PostgreSQL, unchanged, and the service goes on there."""

import json
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import KEY, dispose, make_app, make_settings
from sqlalchemy import BigInteger, Boolean, Column, Date, Integer, LargeBinary, String, Uuid, insert
from sqlalchemy.types import JSON, TypeEngine
from support import TILES, MailServer, Service, environment, run_tiles

from backend import clock
from backend.database import copying, engine
from backend.database.models import Feedback

ODD = "e\u0301 \U0001f600\u202eabc\u00a0\ufeff\ufffd ' \" \\ % \t\n\x7f"


# For each type values that a careless copy would change; of several types that fit, the first.
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


def odd(kind: TypeEngine[Any], number: int) -> object:
    found = next(make for type_, make in VALUES.items() if isinstance(kind, type_))(number)
    return found[: getattr(kind, "length", None)] if isinstance(found, str) else found


def value(column: Column[Any], number: int) -> object:
    if column.name in {"account_id", "id"}:
        return uuid.UUID(int=number + 1)
    return None if number == 2 and column.nullable else odd(column.type, number)


def fill(service: Service) -> None:
    """Store three rows in every table: odd values, and what may be empty empty."""
    with service.app.app_context(), engine.transaction() as session:
        for table in engine.Base.metadata.sorted_tables:
            session.execute(insert(table), [{column.name: value(column, number) for column in table.columns}
                                            for number in range(3)])  # fmt: skip


def everything(service: Service) -> dict[str, list[str]]:
    """Return every row of every table as the service reads it, in an order of its own."""
    with service.app.app_context(), engine.reading() as session:
        return {table.name: sorted(repr(tuple(row)) for row in session.execute(table.select()))
                for table in engine.Base.metadata.sorted_tables}  # fmt: skip


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The source."""
    return sqlite_url


@pytest.fixture
def copied(empty_postgresql_url: str, tmp_path: Path, mail_server: MailServer) -> Iterator[Callable[[], Service]]:
    """Return the service on the target."""
    peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
    app = make_app(make_settings(tmp_path, empty_postgresql_url, **peer))
    yield lambda: Service(app, mail_server)
    dispose(app)


def copy(folder: Path, source: str, target: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run_tiles(folder, "db", "copy", "--to", target, *options, database_url=source, secret_keys=KEY)


def test_every_row_of_every_table_is_copied_unchanged(
    service: Service, copied: Callable[[], Service], tmp_path: Path, database_url: str, empty_postgresql_url: str
) -> None:
    fill(service)
    with service.app.app_context(), engine.transaction() as session:
        session.execute(insert(Feedback), [{"id": uuid.uuid4(), "message": f"{number}", "received_at": clock.now()}
                                           for number in range(2 * copying.BATCH + 1)])  # fmt: skip
    before = everything(service)
    dispose(service.app)
    content = (tmp_path / "tiles.sqlite3").read_bytes()
    done = copy(tmp_path, database_url, empty_postgresql_url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"copied": {name: len(rows) for name, rows in before.items()}}
    assert all(len(rows) >= 3 for rows in before.values())
    assert (tmp_path / "tiles.sqlite3").read_bytes() == content
    assert everything(copied()) == before
    assert everything(service) == before


def test_the_service_goes_on_where_it_was(
    service: Service, copied: Callable[[], Service], tmp_path: Path, database_url: str, empty_postgresql_url: str
) -> None:
    ada = service.register()
    link = service.ask_for_reset()
    service.http.post("/v1/registrations", json={"name": "Bob", "email": "bob@example.org"})
    dispose(service.app)
    done = copy(tmp_path, database_url, empty_postgresql_url)
    assert done.returncode == 0, done.stderr
    assert "Set TILES_DATABASE_URL to the new database" in done.stderr
    later = copied()
    assert later.http.get("/readyz").status_code == 200
    assert later.account(ada.headers).json["name"] == "Ada Lovelace"
    assert [mail["To"] for mail in later.deliver()] == ["bob@example.org"]
    assert later.sign_in().status_code == 201
    assert later.reset(link).status_code == 204


def test_the_url_is_read_from_standard_input(
    service: Service, tmp_path: Path, database_url: str, empty_postgresql_url: str
) -> None:
    fill(service)
    done = subprocess.run([TILES, "db", "copy", "--to", "-", "--json"], input=f"{empty_postgresql_url}\n",
                          env=environment(tmp_path, database_url=database_url, secret_keys=KEY),
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["copied"]["accounts"] == 3


# What is refused


def rows_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        return sum(
            connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()[0]  # type: ignore[index]
            for name in names
            if name != "alembic_version"
        )


@pytest.mark.usefixtures("ada")
def test_a_target_that_has_rows_is_refused(tmp_path: Path, database_url: str, empty_postgresql_url: str) -> None:
    assert copy(tmp_path, database_url, empty_postgresql_url).returncode == 0
    rows = rows_of(empty_postgresql_url)
    again = copy(tmp_path, database_url, empty_postgresql_url)
    assert (again.returncode, again.stdout) == (1, "")
    assert "the target is not empty" in again.stderr
    assert rows_of(empty_postgresql_url) == rows


def test_a_target_of_another_program_is_refused(
    tmp_path: Path, service: Service, database_url: str, empty_postgresql_url: str
) -> None:
    dispose(service.app)
    with psycopg.connect(empty_postgresql_url) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num text)")
        connection.execute("INSERT INTO alembic_version VALUES ('3f1c')")
    done = copy(tmp_path, database_url, empty_postgresql_url)
    assert done.returncode == 1
    assert "another release or program" in done.stderr


@pytest.mark.parametrize("target", ["sqlite:////tmp/x.sqlite3", "mysql://a:marmalade@b/c", "nonsense"])
def test_what_is_no_postgresql_is_refused(tmp_path: Path, service: Service, database_url: str, target: str) -> None:
    dispose(service.app)
    done = copy(tmp_path, database_url, target)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the target: write a")
    assert "marmalade" not in done.stderr


def test_a_source_that_is_not_there_or_no_sqlite_is_refused(tmp_path: Path, empty_postgresql_url: str) -> None:
    missing = copy(tmp_path / "none", "sqlite:///tiles.sqlite3", empty_postgresql_url)
    assert missing.returncode == 1
    assert "there is no database yet" in missing.stderr
    other = copy(tmp_path, empty_postgresql_url, empty_postgresql_url)
    assert "is not SQLite's" in other.stderr
    assert rows_of(empty_postgresql_url) == 0


@pytest.mark.parametrize("stored", [("message", "a\x00b"), ("account_id", "f" * 32)], ids=["NUL", "of no account"])
def test_a_row_that_postgresql_refuses_is_said_without_what_is_in_it_and_nothing_is_copied(
    service: Service, tmp_path: Path, database_url: str, empty_postgresql_url: str, stored: tuple[str, str]
) -> None:
    column, what = stored
    fill(service)
    dispose(service.app)
    with closing(sqlite3.connect(tmp_path / "tiles.sqlite3")) as connection, connection:
        connection.execute(f"UPDATE feedback SET {column} = ? WHERE rowid = 1", (what,))
    done = copy(tmp_path, database_url, empty_postgresql_url)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: feedback: PostgreSQL refuses a row")
    assert what not in done.stderr
    assert rows_of(empty_postgresql_url) == 0


def test_a_copy_that_differs_is_noticed_and_taken_back(
    service: Service, tmp_path: Path, database_url: str, empty_postgresql_url: str
) -> None:
    fill(service)
    dispose(service.app)
    assert run_tiles(tmp_path, "db", "upgrade", database_url=empty_postgresql_url, secret_keys=KEY).returncode == 0
    with psycopg.connect(empty_postgresql_url) as connection:
        connection.execute("CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS "
                           "$$ BEGIN NEW.message = NEW.message || ' '; RETURN NEW; END $$")  # fmt: skip
        connection.execute("CREATE TRIGGER change BEFORE INSERT ON feedback FOR EACH ROW EXECUTE FUNCTION change()")
    done = copy(tmp_path, database_url, empty_postgresql_url)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: feedback: the copy differs from the source; nothing was copied")
    assert rows_of(empty_postgresql_url) == 0


def test_what_is_written_after_the_copy_began_is_not_in_it(
    service: Service, copied: Callable[[], Service], empty_postgresql_url: str
) -> None:
    fill(service)
    before = everything(service)

    def write_meanwhile(_number: int) -> None:
        service.http.post("/v1/feedback", json={"message": "Just now"})

    with service.app.app_context():
        copying.copy(copying.target(empty_postgresql_url), write_meanwhile)
    assert everything(copied()) == before
    assert len(service.rows("feedback")) > 3


def test_the_sum_tells_rows_apart_that_are_alike() -> None:
    def digest(*values: object) -> int:
        found = copying.Sum()
        found.add(values)  # type: ignore[arg-type]
        return found.digest

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    alike = [("a", "b"), ("ab",), ("b", "a"), (None,), ("null",), ("",), (b"a",), (1,), ("1",), (True,), ({"a": 1},),
             (["a", 1],), (moment,), (str(moment),), (moment + timedelta(microseconds=1),), (uuid.UUID(int=1),),
             (uuid.UUID(int=1).hex,)]  # fmt: skip
    assert len({digest(*each) for each in alike}) == len(alike)
