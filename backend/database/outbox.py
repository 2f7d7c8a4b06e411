"""The outbox: what requests in the event loop write is collected, and committed together by one thread."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Engine, Executable
from sqlalchemy.exc import OperationalError

from backend.database.engine import changed, sqlite_writer, transaction

MAX_REQUESTS = 256
Writes = list[tuple[Executable, dict[str, Any]]]


@dataclass(slots=True)
class Collected:
    """What a request in the event loop leaves to be done before its response is sent."""

    outbox: "Outbox | None"
    failure: Exception | None = None  # Each write raises it.
    failed: bool = False  # A read would have had to wait.
    writes: Writes = field(default_factory=list)
    afterwards: list[Callable[[], object]] = field(default_factory=list)


collected: ContextVar[Collected | None] = ContextVar("collected", default=None)  # None in a thread.


@contextmanager
def collecting(outbox: "Outbox | None", failure: Exception | None = None) -> Iterator[Collected]:
    """Collect the writes of the block, or make each of them raise an earlier failure."""
    token = collected.set(request := Collected(outbox, failure))
    try:
        yield request
    finally:
        collected.reset(token)


def write(statement: Executable, **values: object) -> int:
    """Execute a statement in a transaction of its own and return how many rows it changed.

    In the event loop, return 1; if that turns out to be wrong, a thread answers the request again. Build each statement
    once: executions of the same object are sent together.
    """
    if (request := collected.get()) is None:
        with transaction():
            return changed(statement, **values)
    if request.failure:
        raise request.failure
    request.writes.append((statement, values))
    return 1


def write_soon(statement: Executable, **values: object) -> None:
    """Execute a statement that the response does not depend on; in the event loop, do not wait for it."""
    if (request := collected.get()) and request.outbox:
        request.outbox.commit_soon([(statement, values)])
    else:
        write(statement, **values)


def afterwards(call: Callable[[], object]) -> None:
    """Make a call once the writes of this request are durable."""
    request = collected.get()
    request.afterwards.append(call) if request else call()


class Outbox:
    """A thread that waits for the disk and for SQLite's write lock, which the event loop must not."""

    def __init__(self, engine: Engine) -> None:
        """Start the thread, and open a connection for reads in the event loop."""
        self._engine = engine.execution_options(writing=True)
        self.connection = engine.raw_connection()
        self.connection.cursor().execute("PRAGMA busy_timeout = 0")
        self._queue = SimpleQueue[tuple[Writes, asyncio.Future[bool] | None]]()
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    async def commit(self, request: Collected) -> bool:
        """Return True once all writes are durable, or False if a thread has to answer the request again."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put((request.writes, done))
        return await done

    def commit_soon(self, writes: Writes) -> None:
        """Commit these writes together, or none of them, without waiting for it."""
        self._queue.put((writes, None))

    def _work(self) -> None:
        while True:
            number = min(max(self._queue.qsize(), 1), MAX_REQUESTS)
            requests, futures = zip(*[self._queue.get() for _ in range(number)], strict=True)
            outcomes = self._commit(requests)
            waiting = [(done, outcome) for done, outcome in zip(futures, outcomes, strict=True) if done]
            if waiting:
                # Once for all, because each call wakes the event loop.
                waiting[0][0].get_loop().call_soon_threadsafe(_resolve, waiting)

    def _commit(self, requests: Sequence[Writes]) -> list[bool | OperationalError]:
        """Commit all requests at once; if a statement fails, each half alone, down to the request that fails."""
        try:
            self._execute([write for writes in requests for write in writes])
        except OperationalError as error:
            return [error] * len(requests)
        except Exception:  # noqa: BLE001 - the thread that answers the request again reports the error
            middle = len(requests) // 2
            return [*self._commit(requests[:middle]), *self._commit(requests[middle:])] if middle else [False]
        return [True] * len(requests)

    def _execute(self, writes: Writes) -> None:
        with sqlite_writer, self._engine.begin() as connection:
            for statement, group in groupby(writes, key=lambda write: write[0]):
                rows = [values for _, values in group]
                if connection.execute(statement, rows).rowcount != len(rows):
                    raise LookupError("a statement did not change one row each time")


def _resolve(waiting: "list[tuple[asyncio.Future[bool], bool | OperationalError]]") -> None:
    for done, outcome in waiting:
        # A request may have been cancelled.
        if not done.done():
            done.set_result(outcome) if isinstance(outcome, bool) else done.set_exception(outcome)
