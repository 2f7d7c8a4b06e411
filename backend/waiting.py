"""How a request waits for what another thread does: where the event loop answers it, nobody else waits too."""

import asyncio
from concurrent.futures import Future
from typing import TypeVar

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
