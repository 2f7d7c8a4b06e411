"""An announcement that is interrupted, or that several workers queue at once, reaches everybody once."""

import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from announcing import (
    BATCH,
    add_recipients,
    announce,
    progress,
    queue_all,
    queue_some,
    queued,
    recipients,
    work_off,
)
from forking import TILES
from journeys import MakeService, at_once
from peers import wait_for
from server_process import environment
from sqlalchemy import event
from support import Service, any_database

from backend.database import engine as db
from backend.privacy.announcements import Progress
from backend.serving import worker

pytestmark = pytest.mark.usefixtures("small_batches")


class Interrupted(Exception):
    """Ends the process at this point."""


@contextmanager
def interrupted(service: Service, after: int) -> Iterator[None]:
    """Simulate the end of the process before a statement: neither it nor any later one reaches the database."""
    statements: list[str] = []

    def end(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)
        if len(statements) > after:
            raise Interrupted

    with service.app.app_context():
        engine = db.db.engine
    event.listen(engine, "before_cursor_execute", end)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", end)


def test_an_interruption_at_any_point_skips_nobody_and_repeats_nobody(service: Service) -> None:
    total = BATCH + 3
    add_recipients(service, total)
    for number in count():
        begun = announce(service, f"News {number}")
        before, is_complete = len(queued(service)), False
        try:
            with interrupted(service, number):
                queue_all(service)
                is_complete = True
        except Interrupted:
            queue_all(service)
        assert len(queued(service)) == before + total
        assert progress(service, begun) == Progress(begun.announcement, total, total, finished=True)
        if is_complete:
            break
    assert number >= 5
    assert set(Counter(queued(service)).values()) == {number + 1}


@any_database
def test_a_killed_worker_leaves_the_rest_to_the_next(service: Service, tmp_path: Path, database_url: str) -> None:
    people = add_recipients(service, 150)
    begun = announce(service)
    settings = {"mail_server": service.mail_server.host, "mail_port": service.mail_server.port}
    with subprocess.Popen(
        [TILES, "mail", "work"], env=environment(tmp_path, database_url=database_url, **settings)
    ) as process:
        wait_for(lambda: progress(service, begun).queued)
        process.send_signal(signal.SIGKILL)
    queue_all(service)
    assert progress(service, begun).queued == 150
    reached = {message["To"] for message in service.mail_server.messages}
    emails = {uuid.UUID(str(row["id"])): row["email"] for row in service.rows("accounts")}
    assert reached | {emails[account] for account in queued(service)} == set(people)


@pytest.mark.long
def test_several_concurrent_workers_email_everybody_once(service: Service, make_service: MakeService) -> None:
    people = add_recipients(service, 3 * BATCH + 1)
    begun = announce(service)

    def work(own: Service) -> Callable[[], None]:
        def until_finished() -> None:
            while not progress(service, begun).finished:
                own.run(worker.deliver)

        return until_finished

    at_once(*(work(make_service()) for _ in range(4)))
    work_off(service)
    assert recipients(service.mail_server.messages) == people
    assert progress(service, begun).queued == len(people)


def test_of_several_concurrent_workers_one_queues_a_batch(service: Service) -> None:
    add_recipients(service, BATCH)
    begun = announce(service)
    assert max(at_once(*[lambda: queue_some(service)] * 8)) == BATCH
    queue_all(service)
    assert progress(service, begun).queued == len(queued(service)) == BATCH
