"""`tiles check` finds faults of the database, late emails and late erasures."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from apps import dispose
from checking import probe
from support import Person, Service, any_database

from backend.commands import check, check_database
from backend.database import engine
from backend.desk import operations
from backend.privacy import erasure


@any_database
def test_sqlite_on_a_network_file_system_is_found_also_at_a_path_with_a_space(
    make_service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (tmp_path / "mounts").write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path}/a\\040b nfs4 rw 0 0\n")
    monkeypatch.setattr(check_database, "MOUNTS", tmp_path / "mounts")
    with make_service(instance_path=folder).app.app_context():
        findings = check_database.file_system(folder / "tiles.sqlite3")
        assert [finding.code for finding in findings] == ["database-network"]


POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize("database_url", ["lost_postgresql", "lost_sqlite"], indirect=True)
def test_an_unreachable_database_is_the_only_finding_about_it(service: Service, database_url: str) -> None:
    codes = [finding.code for group in check.run(service.app) for finding in group]
    expected = "database-none" if database_url.startswith("sqlite") else "database"
    assert [code for code in codes if code.startswith(("database", "queue", "erasures"))] == [expected]


def test_a_schema_of_another_release_is_found(service: Service) -> None:
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text("UPDATE alembic_version SET version_num = '0001'"))
    assert probe(service, "database") == {"schema": "error"}


@POSTGRESQL
def test_a_postgresql_that_breaks_a_promise_is_found(
    service: Service, database_url: str, move_clock: Callable[[timedelta], None]
) -> None:
    assert probe(service, "database") == {}
    for settings, expected in (
        ({"synchronous_commit": "off"}, {"postgresql-durability": "error"}),
        ({"log_min_duration_statement": "0"}, {"postgresql-log": "warning"}),
        ({"log_min_duration_statement": "0", "log_parameter_max_length": "0"}, {}),
        ({"log_parameter_max_length_on_error": "-1"}, {"postgresql-log": "warning"}),
    ):
        with psycopg.connect(database_url, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
            for setting, value in settings.items():
                connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'".encode())
        dispose(service.app)
        assert probe(service, "database") == expected
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
    dispose(service.app)
    move_clock(timedelta(seconds=-10))
    assert probe(service, "database") == {"clock": "error"}


def test_mails_that_do_not_leave_are_found(service: Service, move_clock: Callable[[timedelta], None]) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    assert probe(service, "queue") == {}
    move_clock(timedelta(minutes=61))
    assert probe(service, "queue") == {"mails-waiting": "error"}
    service.mail_server.refuse = "550 5.1.1 No such mailbox"
    service.deliver()
    assert probe(service, "queue") == {"mails-given-up": "warning"}


def test_erasures_that_are_late_and_a_ledger_that_lacks_them_are_found(
    service: Service, ada: Person, tmp_path: Path, database_url: str
) -> None:
    with service.app.app_context():
        operations.erase(ada.email, at_once=True)
        assert probe(service, "erasures") == {"erasures-late": "error"}
        erasure.erase_due()
    assert probe(service, "erasures") == {}
    ledger = tmp_path / "erasures.jsonl"
    ledger.rename(tmp_path / "elsewhere")
    lacks = {"ledger-lacks": "error" if database_url.startswith("sqlite") else "warning"}
    assert probe(service, "erasures") == lacks
    ledger.write_text("nonsense\n")
    assert probe(service, "erasures") == {"ledger-damaged": "error"}
    ledger.unlink()
    ledger.mkdir()
    assert probe(service, "erasures") == {"ledger-locked": "error"}
