"""The outbox: rows that arrive together are committed together.

A request that the event loop answers must not wait for the disk or for SQLite's write lock. What it writes is collected
here; one thread commits all that was collected meanwhile, and the response is sent once that is durable. Everywhere
else `write` commits at once.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Engine, Executable
from sqlalchemy.exc import DBAPIError, OperationalError

from backend.database.engine import changed, sqlite_writer, transaction, writing

MOST_AT_ONCE = 256

Write = tuple[Executable, dict[str, Any]]


@dataclass(slots=True)
class Collected:
    """What one request in the event loop leaves to be done.

    `writes` are statements and their values, `afterwards` is called once they are durable. `failure` is what each
    write raises instead of being collected; `failed` tells that a read could not be done without waiting.
    """

    outbox: "Outbox | None"
    failure: Exception | None = None
    failed: bool = False
    writes: list[Write] = field(default_factory=list)
    afterwards: list[Callable[[], object]] = field(default_factory=list)


_collected: ContextVar[Collected | None] = ContextVar("collected", default=None)


def collected() -> Collected | None:
    """Return what the present request leaves to be done; None outside of the event loop."""
    return _collected.get()


@contextmanager
def collecting(outbox: "Outbox | None", failure: Exception | None = None) -> Iterator[Collected]:
    """Collect what is written inside the block, or let each write raise an earlier failure."""
    collected = Collected(outbox, failure)
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def write(statement: Executable, **values: object) -> int:
    """Execute a statement in a transaction of its own and return how many rows it changed.

    A collected statement counts as one row: where that turns out to be wrong, the request is answered again in a
    thread. Build each statement once, because those that are the same object are executed together.

    Raises:
        DBAPIError: the statement fails; as an OperationalError, the database is unavailable.
    """
    collected = _collected.get()
    if collected is None:
        with transaction():
            return changed(statement, **values)
    if collected.failure:
        raise collected.failure
    collected.writes.append((statement, values))
    return 1


def write_soon(statement: Executable, **values: object) -> None:
    """Execute a statement of which no response speaks: the event loop does not wait until it is durable."""
    collected = _collected.get()
    if collected and collected.outbox:
        collected.outbox.add(Collected(None, writes=[(statement, values)]))
    else:
        write(statement, **values)


def afterwards(call: Callable[[], object]) -> None:
    """Call once what this request wrote is durable: now, unless it is still being collected."""
    if collected := _collected.get():
        collected.afterwards.append(call)
    else:
        call()


class Outbox:
    """The thread that commits what requests in the event loop have collected."""

    def __init__(self, engine: Engine) -> None:
        """Start the thread, which ends with the process, and open a connection for reads in the event loop."""
        self._engine = engine
        self.connection = engine.raw_connection()
        self.connection.cursor().execute("PRAGMA busy_timeout = 0")
        self._waiting = SimpleQueue[tuple[Collected, asyncio.Future[bool] | None]]()
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    async def commit(self, collected: Collected) -> bool:
        """Return True once all of it is durable, False where a statement did not change one row.

        Raises:
            DBAPIError: the database is unavailable.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.add(collected, done)
        return await done

    def add(self, collected: Collected, done: "asyncio.Future[bool] | None" = None) -> None:
        """Have it committed soon, and then the future resolved."""
        self._waiting.put((collected, done))

    def _work(self) -> None:
        writing.set(True)
        while True:
            batch = [self._waiting.get()]
            while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            outcomes = self._written([collected.writes for collected, _ in batch])
            waiting = [(done, outcome) for (_, done), outcome in zip(batch, outcomes, strict=True) if done]
            if waiting:
                waiting[0][0].get_loop().call_soon_threadsafe(_resolve, waiting)

    def _written(self, requests: list[list[Write]]) -> list[bool | DBAPIError]:
        """Write everything in one transaction; where something fails, each request's part in one of its own."""
        try:
            self._execute([write for writes in requests for write in writes])
        except OperationalError as error:
            return [error] * len(requests)
        except (DBAPIError, _NotAllChanged):
            return [False] if len(requests) == 1 else [self._written([writes])[0] for writes in requests]
        return [True] * len(requests)

    def _execute(self, writes: list[Write]) -> None:
        with sqlite_writer, self._engine.begin() as connection:
            for _, group in groupby(writes, key=lambda write: id(write[0])):
                same = list(group)
                result = connection.execute(same[0][0], [values for _, values in same])
                if result.rowcount != len(same):
                    raise _NotAllChanged


class _NotAllChanged(Exception):
    """A statement changed fewer rows than it was given."""


def _resolve(waiting: "list[tuple[asyncio.Future[bool], bool | DBAPIError]]") -> None:
    for done, outcome in waiting:
        if done.done():
            continue
        if isinstance(outcome, DBAPIError):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)
