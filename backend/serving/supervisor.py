"""The process that starts the others, and restarts each that ends, with growing pauses.

It answers no request, so that no client and no mail server can end it.
"""

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.context import ForkProcess
from pathlib import Path

from backend import logs
from backend.errors import stack_of

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
# After a life of this length, a process is restarted after the first pause.
SETTLED_SECONDS = 60.0
POLL_SECONDS = 0.1
PARENT_SECONDS = 0.5
# The signals by which a terminal or a service manager ends a process, and signals that mean nothing to us.
FINISH = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
IGNORED = signal.SIGUSR1, signal.SIGUSR2

log = logging.getLogger(__name__)


class _Child:
    """A process that is kept running."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name, self._work = name, work
        self._pause, self._due, self._started = FIRST_PAUSE_SECONDS, 0.0, 0.0
        self.process: ForkProcess | None = None

    def keep(self) -> None:
        """Start it if it is due; if it has ended, log that and wait before the restart."""
        now = time.monotonic()
        if self.process is None:
            if now >= self._due:
                self._start(now)
        elif not self.process.is_alive():
            if now - self._started >= SETTLED_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            log.error("%s has ended (%s): starting it again in %.1f s", self._name, self.process.exitcode, self._pause)
            self.process, self._due = None, now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _start(self, now: float) -> None:
        self.process, self._started = ForkProcess(target=self._run, name=self._name), now
        # The child inherits this process's handlers, which would swallow a signal there.
        signal.pthread_sigmask(signal.SIG_BLOCK, FINISH)
        self.process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FINISH)

    def _run(self) -> None:
        """Do the work, in the new process."""
        for number in FINISH:
            if not _is_nohup(number):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FINISH)
        end_with_parent()
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - multiprocessing would print the message, which may hold client data
            log.error("%s failed: %s", self._name, stack_of(error))  # noqa: TRY400
            sys.exit(1)
        finally:
            logs.finish()


def supervise(works: Mapping[str, Callable[[], None]], grace_seconds: float) -> None:
    """Keep a process running for each piece of work until told to stop; then give all of them so long to finish."""
    stop: list[int] = []
    on_finish(lambda number, _frame: stop.append(number))
    children = [_Child(name, work) for name, work in works.items()]
    while not stop:
        for child in children:
            child.keep()
        time.sleep(POLL_SECONDS)
    processes = [child.process for child in children if child.process]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        process.kill()
        process.join()


def on_finish(handler: Callable[[int, object], object]) -> None:
    """Call this for every signal that ends a process; ignore the signals that mean nothing to us."""
    for number in FINISH:
        if not _is_nohup(number):
            signal.signal(number, handler)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def _is_nohup(number: signal.Signals) -> bool:
    """Tell whether `nohup` made this process ignore SIGHUP. A shell ignores other signals for background jobs."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def finish_event() -> threading.Event:
    """Return an event that is set when this process is told to finish.

    A thread sets it: the signal may come while the main thread, which waits for the event, holds its lock.
    """
    event = threading.Event()
    on_finish(lambda *_: threading.Thread(target=event.set).start())
    return event


def end_with_parent() -> None:
    """End this process when its parent has ended, so that a killed service leaves none that still answers."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def leave_no_core() -> None:
    """Prevent core dumps: they may hold a password or a key."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core that the kernel pipes to a program (core(5), core_pattern) ignores the limit: let it be empty.
    with suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0", "ascii")


def open_standard_streams() -> None:
    """Open the standard streams that the caller closed: otherwise the database's file could become standard error."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
