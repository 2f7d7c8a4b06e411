"""How work gives way to everybody else: in a thread of its own, that holds nothing for which others wait."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import TypeVar, cast

from flask import Flask, current_app

from backend.database.engine import sqlite_writer

# Where the system knows no work for idle moments only: on a busy machine a tenth of a processor is left.
GIVE_WAY = 10
ASIDE = "tiles.aside"

T = TypeVar("T")


def _nothing() -> None:
    pass


def let_give_way(app: Flask) -> None:
    """Let what this process does aside give way to everybody else; elsewhere than on Linux, all that it does."""
    app.extensions[ASIDE] = _Aside()


class _Aside:
    """A thread for what may wait, which does one piece of work at a time for one other thread.

    That one goes on to what others wait for, such as a transaction, and this one may have to wait in the middle of
    anything. So when it has told that it is done, it does next to nothing before it waits for the next work: until
    then it may take Python's one lock, and keep it while it is not let on.
    """

    def __init__(self) -> None:
        self._begin, self._done = threading.Lock(), threading.Lock()
        self._begin.acquire()
        self._done.acquire()
        self._work: Callable[[], object] = _nothing
        self._found = Future[object]()
        threading.Thread(target=self._run, name="aside", daemon=True).start()

    def do(self, work: Callable[[], T]) -> T:
        """Return what comes of it. Other threads of this process begin no transaction on SQLite meanwhile.

        This one may be preempted while it holds the GIL: one of theirs would then keep every writer waiting.
        """
        with sqlite_writer:
            return self._do(work)

    def _do(self, work: Callable[[], T]) -> T:
        self._work = partial(copy_context().run, work)
        self._begin.release()
        self._done.acquire()
        # What is in a mail stays no longer than it has to.
        found, self._found, self._work = self._found, Future(), _nothing
        return cast(T, found.result())

    def _run(self) -> None:
        _lower_priority()
        begin, done = self._begin.acquire, self._done.release
        while begin():
            try:
                self._found.set_result(self._work())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                self._found.set_exception(error)
            done()


def _lower_priority() -> None:
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
    """Return what comes of work that holds nothing for which others wait: that asks no database.

    A process of low priority that holds the write lock is not let on by whoever waits for the lock. So where a process
    gives way it does so in a thread, and here only.
    """
    found: _Aside | None = current_app.extensions.get(ASIDE)
    return found.do(work) if found else work()


def give_way() -> None:
    """Return when nobody else wants the processor: now, where nothing is done aside."""
    aside(_nothing)
