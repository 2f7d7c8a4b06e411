"""How work waits for what others do, so that others are answered meanwhile."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]
from sqlalchemy.util.concurrency import await_, in_greenlet

T = TypeVar("T")


def wait(future: Future[T], seconds: float | None = None) -> T:
    """Return what comes of it.

    Raises:
        TimeoutError: nothing came within so many seconds; it may still come.
    """
    if in_greenlet():
        return await_(asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds))
    return future.result(seconds)


@dataclass(slots=True)
class _Done:
    """What came of a piece of work."""

    result: object = None
    error: BaseException | None = None

    def take(self) -> object:
        """Return it, or raise it."""
        if self.error:
            raise self.error
        return self.result


class _Greenlet(greenlet):  # type: ignore[misc]
    """Does one piece of work after the other.

    Its parent, in which the event loop runs, is given what the work waits for (SQLAlchemy's `await_`), or what came of
    it, and gives what came of the waiting, or the next work.
    """

    __sqlalchemy_greenlet_provider__ = True

    def run(self, work: Callable[[], object]) -> None:
        """Do this work, then what comes next."""
        while True:
            try:
                done = _Done(work())
            except GreenletExit:
                raise
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                done = _Done(error=error)
            work = self.parent.switch(done)


class Greenlets:
    """Work that an event loop does itself, and meanwhile other work while it waits (`wait`).

    As SQLAlchemy's `greenlet_spawn`, which makes a greenlet for each: the system maps a stack for it, and unmaps it
    again, while other threads stand still. Those here are kept, as many as were ever busy at a time.
    """

    def __init__(self) -> None:
        """Make none yet."""
        self._idle: list[_Greenlet] = []

    async def do(self, work: Callable[[], T]) -> T:
        """Return what comes of it."""
        doing = self._idle.pop() if self._idle else _Greenlet()
        doing.gr_context = getcurrent().gr_context
        found = doing.switch(work)
        while not isinstance(found, _Done):
            try:
                value = await found
            except BaseException:  # noqa: BLE001 - it is raised where the work waits
                found = doing.throw(*sys.exc_info())
            else:
                found = doing.switch(value)
        doing.gr_context = None
        self._idle.append(doing)
        return cast(T, found.take())
