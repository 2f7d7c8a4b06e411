"""The outbox: writes of requests in the event loop are committed together, and the event loop never waits."""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, Table, bindparam, event, insert, update
from sqlalchemy.exc import IntegrityError, OperationalError
from support import Service, any_database

from backend.database import engine as db
from backend.database import outbox
from backend.database.outbox import Outbox, collecting
from backend.database.service_tables import Total
from backend.mail import queue
from backend.web.api import operations

pytestmark = any_database

TOTALS: Table = Total.metadata.tables[Total.__tablename__]
INSERT = insert(TOTALS).values(event=bindparam("event"), value=bindparam("value"))
UPDATE = update(TOTALS).where(TOTALS.c.event == bindparam("name")).values(value=bindparam("number"))


@pytest.fixture
def engine(service: Service) -> Engine:
    with service.app.app_context():
        return db.db.engine


def together(service: Service, engine: Engine, *requests: Callable[[], object]) -> list[bool | BaseException]:
    """Answer requests in an event loop at the same time; return the outcome of each commit."""

    async def respond(box: Outbox, request: Callable[[], object]) -> bool:
        with service.app.app_context(), collecting(box) as collected:
            request()
        return await box.commit(collected)

    async def main() -> list[bool | BaseException]:
        box = Outbox(engine)
        return await asyncio.gather(*(respond(box, request) for request in requests), return_exceptions=True)

    return asyncio.run(main())


@contextmanager
def locked(engine: Engine) -> Iterator[threading.Timer]:
    """Let another process hold the write lock; starting the timer releases it."""
    connection = sqlite3.connect(str(engine.url.database), isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, connection.rollback)
    yield timer
    timer.cancel()
    connection.close()


def count(name: str, value: int = 1) -> Callable[[], object]:
    return lambda: outbox.write(INSERT, event=name, value=value)


def events(service: Service) -> set[str]:
    return {row["event"] for row in service.rows("totals")}


def test_statements_that_arrive_during_a_transaction_share_the_next_one(service: Service, engine: Engine) -> None:
    begun = Counter[str]()
    event.listen(engine, "before_cursor_execute", lambda _, __, statement, *___: begun.update([statement]))
    requests = [
        lambda number=number: queue.accept("password_reset", email=f"a{number}@example.org") for number in range(20)
    ]
    with locked(engine) as unlock:
        unlock.start()
        assert together(service, engine, *requests) == [True] * 20
    assert len(service.rows("mails")) == 20
    # The first request waits alone, and all others together.
    assert begun["BEGIN IMMEDIATE"] <= 3


@pytest.mark.parametrize(
    "fail",
    [count("mails_sent"), count("mails_over_limit", 2**70), lambda: outbox.write(UPDATE, name="none", number=7)],
    ids=["a taken value", "a value that the driver refuses", "no row changed"],
)
def test_a_failing_statement_fails_no_other_request(
    service: Service, engine: Engine, fail: Callable[[], object]
) -> None:
    requests = [count("mails_sent"), count("erasures"), fail, count("mails_put_off")]
    assert together(service, engine, *requests) == [True, True, False, True]
    assert events(service) == {"mails_sent", "erasures", "mails_put_off"}


def test_the_event_loop_continues_while_the_outbox_waits_for_another_process(service: Service, engine: Engine) -> None:
    async def main(unlock: threading.Timer) -> bool:
        box = Outbox(engine)
        with service.app.app_context(), collecting(box) as collected:
            count("mails_sent")()
        commit = asyncio.ensure_future(box.commit(collected))
        for _ in range(20):
            await asyncio.sleep(0.01)
        # If the event loop had waited for the lock, the commit would have failed by now.
        assert not commit.done()
        unlock.start()
        return await commit

    with locked(engine) as unlock:
        assert asyncio.run(main(unlock))


def test_a_cancelled_request_cancels_no_other(service: Service, engine: Engine) -> None:
    async def main() -> bool:
        box = Outbox(engine)
        commits = []
        for name in ("mails_sent", "erasures"):
            with service.app.app_context(), collecting(box) as collected:
                count(name)()
            commits.append(asyncio.ensure_future(box.commit(collected)))
        await asyncio.sleep(0)
        commits[0].cancel()
        return await commits[1]

    with locked(engine) as unlock:
        unlock.start()
        assert asyncio.run(main())
    assert events(service) == {"mails_sent", "erasures"}


def test_the_wait_for_another_writing_process_is_bounded(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.dispose()
    monkeypatch.setattr(db, "SQLITE_PRAGMAS", (*db.SQLITE_PRAGMAS, "busy_timeout = 200"))
    with locked(engine):
        failures = together(service, engine, count("mails_sent"), count("erasures"))
    assert [type(failure) for failure in failures] == [OperationalError] * 2
    assert service.rows("totals") == []


def test_outside_of_the_event_loop_a_statement_is_durable_at_once(service: Service) -> None:
    with service.app.app_context():
        assert outbox.write(INSERT, event="erasures", value=4815162342) == 1
        assert outbox.write(UPDATE, name="mails_sent", number=7) == 0
        with pytest.raises(IntegrityError) as raised:
            outbox.write(INSERT, event="erasures", value=4815162342)
    assert "4815162342" not in str(raised.value)
    assert events(service) == {"erasures"}


def test_requests_in_the_event_loop_use_no_session_and_no_pooled_connection(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = service.register()
    bodies = {
        "/v1/registrations": {"name": "Bob", "email": "bob@example.org"},
        "/v1/password-resets": {"email": person.email},
        "/v1/erasure-requests": {"email": person.email},
        "/v1/feedback": {"message": "Thank you"},
    }
    box = Outbox(engine)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the event loop would wait")

    monkeypatch.setattr("sqlalchemy.orm.Session.execute", refuse)
    monkeypatch.setattr("sqlalchemy.engine.Engine.connect", refuse)
    routes = [operation for operation in operations.declared if operation.runs == "loop"]
    assert len(routes) > 5
    for route in routes:
        with collecting(box) as collected:
            response = service.http.open(
                route.path, method=route.method, json=bodies.get(route.path), headers=person.headers
            )
        assert response.status_code < 300, (route.path, response.text)
        assert len(collected.writes) == (route.path in bodies)


def test_a_read_that_would_wait_is_repeated_in_a_thread(service: Service, engine: Engine) -> None:
    person = service.register()
    box = Outbox(engine)
    box.connection.driver_connection.close()
    with collecting(box) as collected:
        assert service.account(person.headers).status_code == 503
    assert collected.failed
    assert service.account(person.headers).status_code == 200
