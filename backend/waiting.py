"""How work waits for what another thread does: so that others are answered meanwhile, or gives way to them."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from flask import Flask, current_app
from sqlalchemy.util.concurrency import await_, in_greenlet

# Where the system knows no work for idle moments only: on a busy machine a tenth of a processor is left.
GIVE_WAY = 10
ASIDE = "tiles.aside"

T = TypeVar("T")


def wait(future: Future[T], seconds: float | None = None) -> T:
    """Return what comes of it.

    Raises:
        TimeoutError: nothing came within so many seconds; it may still come.
    """
    if in_greenlet():
        return await_(asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds))
    return future.result(seconds)


def let_give_way(app: Flask) -> None:
    """Let what this process does aside give way to everybody else; elsewhere than on Linux, all that it does."""
    app.extensions[ASIDE] = ThreadPoolExecutor(1, "aside", initializer=_give_way)


def _give_way() -> None:
    """Let the calling thread have what nobody else wants: a busy processor leaves it three thousandths (sched(7)).

    With a low niceness alone it is in the way: Linux wakes nobody up on a processor that is at work, and takes one that
    does only such work for an idle one.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        # Elsewhere than on Linux, or where it is forbidden.
        os.nice(GIVE_WAY)


def aside(work: Callable[[], T]) -> T:
    """Return what comes of work that holds nothing for which others wait, such as a transaction.

    A process of low priority that holds the write lock is not let on by whoever waits for the lock. So where a process
    gives way it does so in a thread, and here only.
    """
    executor: ThreadPoolExecutor | None = current_app.extensions.get(ASIDE)
    return executor.submit(copy_context().run, work).result() if executor else work()
