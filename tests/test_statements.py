"""Statements of the busiest requests: alone on each database, and those of the event loop together on SQLite."""

import asyncio
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import bindparam, event, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from support import PASSWORD, Service, any_database

from backend import clock, driver, mail, statements
from backend.db import LOCK_NOT_AVAILABLE, db
from backend.driver import Statement
from backend.models import Account, Mail, Total
from backend.server import HERE
from backend.statements import fetch, write
from backend.waiting import Greenlets

only_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

COUNT = Statement(lambda: insert(Total).values(event=bindparam("event"), value=bindparam("value")))
ALL = Statement(lambda: select(Total.event, Total.value).where(Total.value > bindparam("above")))


def together(service: Service, *works: Callable[[], object]) -> list[object]:
    """Do them as an event loop does that answers so many requests at once; return what each returned or raised."""

    def work_in_app(work: Callable[[], object]) -> object:
        with service.app.app_context():
            return work()

    async def main() -> list[object]:
        spawned = (Greenlets().do(partial(work_in_app, work)) for work in works)
        return await asyncio.gather(*spawned, return_exceptions=True)

    return asyncio.run(main())


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the transactions that an event loop begins."""
    found, begin = Counter[str](), statements.begin_now

    def count(cursor: sqlite3.Cursor) -> None:
        found["asked"] += 1
        begin(cursor)
        found["begun"] += 1

    monkeypatch.setattr(statements, "begin_now", count)
    return found


def test_a_statement_takes_and_returns_what_its_columns_hold(service: Service) -> None:
    service.register()
    wanted = Statement(lambda: select(Account.id, Account.created_at, Account.email_updates, Account.closed_at))
    with service.app.app_context():
        (row,) = fetch(wanted)
        assert (type(row.id), row.created_at.tzinfo, row.email_updates, row.closed_at) == (
            uuid.UUID, clock.now().tzinfo, True, None,
        )  # fmt: skip
        assert write(COUNT, event="erasures", value=7) == ([], 1)
        assert [tuple(found) for found in fetch(ALL, above=6)] == [("erasures", 7)]
        assert fetch(ALL, above=7) == []


def test_a_statement_that_fails_raises_what_sqlalchemy_raises_and_shows_no_value(service: Service) -> None:
    with service.app.app_context():
        write(COUNT, event="mails_sent", value=4815162342)
        with pytest.raises(IntegrityError) as raised:
            write(COUNT, event="mails_sent", value=4815162342)
    assert "4815162342" not in str(raised.value)


@any_database
def test_what_a_loop_writes_at_once_is_one_transaction(service: Service, begun: Counter[str]) -> None:
    works = [
        lambda number=number: mail.accept("password_reset", email=f"ada{number}@example.org") for number in range(20)
    ]
    assert together(service, *works) == [None] * 20
    assert len({row["email"] for row in service.rows("mails")}) == 20
    assert begun == {"asked": 1, "begun": 1}


@any_database
def test_of_those_that_write_together_only_the_one_that_fails_fails(service: Service) -> None:
    names = ["mails_sent", "mails_put_off", "mails_sent", "erasures"]
    works = [lambda name=name: write(COUNT, event=name, value=1) for name in names]
    outcomes = together(service, *works)
    assert [isinstance(outcome, IntegrityError) for outcome in outcomes] == [False, False, True, False]
    assert {row["event"] for row in service.rows("totals")} == set(names)


@any_database
def test_a_value_that_does_not_fit_is_nobody_elses_concern(service: Service) -> None:
    naive = clock.now().replace(tzinfo=None)
    wrong = Statement(lambda: select(Mail.id).where(Mail.created_at < bindparam("moment")))
    right, failed = together(
        service, lambda: write(COUNT, event="mails_sent", value=1), lambda: write(wrong, moment=naive)
    )
    assert right == ([], 1)
    assert isinstance(failed, ValueError)


@any_database
def test_a_connection_on_which_something_failed_is_let_go(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cursor: sqlite3.Cursor) -> None:
        begin(cursor)
        raise sqlite3.OperationalError("disk I/O error")

    begin = statements.begin_now
    monkeypatch.setattr(statements, "begin_now", fail)
    (failure,) = together(service, lambda: write(COUNT, event="erasures", value=1))
    assert isinstance(failure, OperationalError)
    monkeypatch.setattr(statements, "begin_now", begin)
    # The transaction that it had begun would be in the way.
    assert together(service, lambda: write(COUNT, event="mails_sent", value=1)) == [([], 1)]
    assert [row["event"] for row in service.rows("totals")] == ["mails_sent"]


class Locked:
    """Another process that is writing, until told to stop."""

    def __init__(self, service: Service) -> None:
        with service.app.app_context():
            file = statements.db.engine.url.database
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._connection.execute("BEGIN IMMEDIATE")

    def stop(self) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


@any_database
def test_while_another_process_writes_a_loop_goes_on_and_writes_after_it(service: Service, begun: Counter[str]) -> None:
    locked = Locked(service)
    threading.Timer(0.3, locked.stop).start()
    order: list[str] = []

    def read() -> None:
        assert fetch(ALL, above=0) == []
        order.append("read")

    def count() -> None:
        write(COUNT, event="mails_sent", value=1)
        order.append("written")

    assert together(service, count, read) == [None, None]
    assert order == ["read", "written"]
    assert begun["asked"] > begun["begun"] == 1


@any_database
def test_each_waits_for_another_process_as_long_as_any_other(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "SQLITE_BUSY_SECONDS", 0.4)
    locked = Locked(service)
    threading.Timer(0.5, locked.stop).start()

    async def main() -> list[object]:
        early = asyncio.create_task(Greenlets().do(lambda: count("mails_sent")))
        await asyncio.sleep(0.3)
        return await asyncio.gather(early, Greenlets().do(lambda: count("erasures")), return_exceptions=True)

    def count(what: str) -> None:
        with service.app.app_context():
            write(COUNT, event=what, value=1)

    failure, done = asyncio.run(main())
    assert (type(failure), done) == (OperationalError, None)
    assert [row["event"] for row in service.rows("totals")] == ["erasures"]


@any_database
def test_another_process_that_never_stops_writing_is_waited_for_only_so_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "SQLITE_BUSY_SECONDS", 0.2)
    locked = Locked(service)
    try:
        failures = together(service, *[lambda: write(COUNT, event="mails_sent", value=1)] * 2)
    finally:
        locked.stop()
    assert [type(failure) for failure in failures] == [OperationalError, OperationalError]
    assert service.rows("totals") == []


@any_database
def test_a_transaction_that_is_taken_back_whole_is_written_for_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cursor: sqlite3.Cursor, sql: str, parameters: object) -> None:
        sent(cursor, sql, parameters)
        if "mails_sent" in str(parameters):
            # As SQLite itself does when the disk is full.
            cursor.execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")

    sent = driver.send
    monkeypatch.setattr(driver, "send", fail)
    works = [
        lambda name=name: write(COUNT, event=name, value=1) for name in ("erasures", "mails_sent", "mails_put_off")
    ]
    assert [isinstance(outcome, DBAPIError) for outcome in together(service, *works)] == [True] * 3
    monkeypatch.undo()
    assert service.rows("totals") == []
    # The next one finds nothing left of it.
    assert together(service, works[0]) == [([], 1)]


@any_database
def test_the_loop_answers_only_what_waits_for_nothing_else(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it answers goes past sessions: their transactions would stop everybody."""
    service = make_service(rate_limits="")
    person = service.register()
    bodies = {
        "/v1/sessions": {"email": person.email, "password": PASSWORD},
        "/v1/registrations": {"name": "Bob", "email": "bob@example.org"},
        "/v1/password-resets": {"email": person.email},
        "/v1/erasure-requests": {"email": person.email},
        "/v1/feedback": {"message": "Thank you"},
    }

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a session was used")

    monkeypatch.setattr("sqlalchemy.orm.Session.execute", refuse)
    monkeypatch.setattr("sqlalchemy.orm.Session.scalars", refuse)
    monkeypatch.setattr("sqlalchemy.orm.Session.commit", refuse)
    for method, path in sorted(HERE):
        response = service.http.open(path, method=method, json=bodies.get(path), headers=person.headers)
        assert response.status_code < 300, (method, path, response.text)


@only_postgresql
def test_on_postgresql_a_statement_and_its_transaction_are_one_round_trip(service: Service, tmp_path: Path) -> None:
    with service.app.app_context(), (tmp_path / "protocol").open("w") as file:

        def listen(connection: psycopg.Connection, *_: object) -> None:
            connection.pgconn.trace(file.fileno())

        event.listen(db.engine, "checkout", listen)
        event.listen(db.engine, "checkin", lambda connection, _: connection.pgconn.untrace())
        write(COUNT, event="mails_sent", value=1)
        fetch(ALL, above=0)
    # From whom each message is: F is who asks, B is who answers.
    lines = (line.split("\t") for line in (tmp_path / "protocol").read_text().splitlines())
    directions = [words[1] for words in lines if len(words) > 1]
    assert [direction for direction, _ in groupby(directions)] == ["F", "B"] * 2


@only_postgresql
def test_on_postgresql_a_statement_waits_for_no_lock_for_ever(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "set_config('lock_timeout', '10s', true)" in driver.POSTGRESQL_WAIT
    monkeypatch.setattr(driver, "POSTGRESQL_WAIT", driver.POSTGRESQL_WAIT.replace("'10s'", "'100ms'"))
    with service.app.app_context(), psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE totals")
        with pytest.raises(OperationalError) as raised:
            write(COUNT, event="mails_sent", value=1)
    assert raised.value.orig
    assert getattr(raised.value.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE
    with service.app.app_context():
        assert fetch(ALL, above=0) == []
        write(COUNT, event="mails_sent", value=1)
        assert [tuple(row) for row in fetch(ALL, above=0)] == [("mails_sent", 1)]


@only_postgresql
def test_on_postgresql_what_a_statement_sets_stays_with_nobody(service: Service) -> None:
    wanted = Statement(lambda: select(func.current_setting("lock_timeout"), func.current_setting("statement_timeout")))
    with service.app.app_context():
        assert [tuple(row) for row in fetch(wanted)] == [("10s", "1min")]
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.scalar(text("SHOW lock_timeout")) == "0"
