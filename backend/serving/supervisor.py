"""The process that starts the others, and starts again each that ends, alone and with growing pauses.

It answers nothing and has no thread of its own, so that nothing that a client or a mail server does can end it.
"""

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

from backend import logs
from backend.errors import stack_of

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
# A process that lived as long is started again after the first pause.
SETTLED_SECONDS = 60.0
POLL_SECONDS = 0.1
PARENT_SECONDS = 0.5

log = logging.getLogger(__name__)

# What a terminal or a service manager sends to end a process, and what it sends for reasons that we do not have.
FINISH = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
IGNORED = signal.SIGUSR1, signal.SIGUSR2


class _Child:
    """A process that is kept running."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name, self._work = name, work
        self._pause, self._due, self._started = FIRST_PAUSE_SECONDS, 0.0, 0.0
        self.process = get_context("fork").Process(target=self._run, name=name)

    def keep(self) -> None:
        """Start it if it is due; if it has ended, say so and wait before starting it again."""
        now = time.monotonic()
        if self._started:
            if not self.process.is_alive():
                self._wait_again(now)
        elif now >= self._due:
            self.process = get_context("fork").Process(target=self._run, name=self._name)
            self._started = now
            with _finish_signals_held():
                self.process.start()

    def _wait_again(self, now: float) -> None:
        if now - self._started >= SETTLED_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        log.error("%s has ended (%s): starting it again in %.1f s", self._name, self.process.exitcode, self._pause)
        self._due, self._started = now + self._pause, 0.0
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def end(self, deadline: float) -> None:
        """Wait for its end; kill it at the deadline."""
        if self._started:
            self.process.join(max(deadline - time.monotonic(), 0))
            self.process.kill()
            self.process.join()

    def terminate(self) -> None:
        """Ask it to finish."""
        if self._started:
            self.process.terminate()

    def _run(self) -> None:
        """Do the work, in the new process."""
        for number in FINISH:
            if not _is_nohup(number):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FINISH)
        end_with_parent()
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - what the library would print may hold what somebody sent
            log.error("%s failed: %s", self._name, stack_of(error))  # noqa: TRY400
            sys.exit(1)
        finally:
            logs.finish()


@contextmanager
def _finish_signals_held() -> Iterator[None]:
    """Hold back signals until the new process has handlers of its own: this one's would swallow them there."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FINISH)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FINISH)


def supervise(works: Mapping[str, Callable[[], None]], grace_seconds: float) -> None:
    """Keep a process running for each piece of work until told to stop, then let all finish within so many seconds."""
    stop: list[int] = []
    on_finish(lambda number, _frame: stop.append(number))
    children = [_Child(name, work) for name, work in works.items()]
    while not stop:
        for child in children:
            child.keep()
        time.sleep(POLL_SECONDS)
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_seconds
    for child in children:
        child.end(deadline)


def on_finish(handler: Callable[[int, object], object]) -> None:
    """Call this for every signal that is to end this process; ignore those that mean nothing to us."""
    for number in FINISH:
        if not _is_nohup(number):
            signal.signal(number, handler)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def _is_nohup(number: signal.Signals) -> bool:
    """Tell whether `nohup` has this process ignore SIGHUP; shells ignore others for background jobs."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def finish_event() -> threading.Event:
    """Return an event that is set when this process is told to finish.

    It is set by a thread of its own: the signal may come while the one that waits for the event holds its lock.
    """
    event = threading.Event()
    on_finish(lambda *_: threading.Thread(target=event.set).start())
    return event


def end_with_parent() -> None:
    """End this process when its parent is gone, so that a killed service leaves nothing that still answers."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def leave_no_core() -> None:
    """Let no process of ours leave its memory in a file when it dies: it may hold a password or a key."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A program that the kernel gives cores to (core(5), core_pattern) may not ask for the limit: it gets an empty one.
    with suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0", "ascii")


def open_standard_streams() -> None:
    """Open what the caller closed: else the database's file may become standard error, and be written to."""
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
