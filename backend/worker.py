"""What is done without anybody asking: sending mails, erasing what is due, forgetting what is no longer needed."""

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context

from flask import Flask
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend import (
    announcements,
    audit,
    credentials,
    delivery,
    desk,
    erasure,
    lockout,
    mail,
    mailboxes,
    remains,
    sessions,
)
from backend.aside import let_give_way
from backend.console import stopped_by
from backend.errors import stack_of
from backend.models import Mail
from backend.transport import ServerUnavailable

POLL_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
TIDY_SECONDS = 600.0
SELDOM_PAUSES = 50
SCRUB_SECONDS = 3.0

log = logging.getLogger(__name__)


def tidy() -> Iterator[None]:
    """Forget ended sessions and holds, mails that were given up, and whatever else has had its time, in small steps."""
    credentials.forget_previous_addresses()
    credentials.forget_costs()
    lockout.tidy()
    mailboxes.tidy()
    desk.forget_ended_holds()
    audit.tidy()
    mail.tidy()
    yield from sessions.forget_ended()


def deliver(stop: threading.Event | None = None) -> int:
    """Send what is due, and when nothing is, make the next mails of an announcement; return how many of either.

    Raises:
        ServerUnavailable: the mail server is away; what was not sent stays in the queue.
    """
    return delivery.deliver(stop) or announcements.queue_some()


class Seldom:
    """Does something for which others wait, so seldom that it takes a fiftieth of the time at most."""

    def __init__(self, what: Callable[[], object], least_seconds: float) -> None:
        """Be free to do it at once, and then not for so many seconds."""
        self._what, self._least, self._next = what, least_seconds, 0.0

    def run(self) -> None:
        """Do it, if it is time."""
        begun = time.monotonic()
        if begun >= self._next:
            self._what()
            self._next = time.monotonic() + max(self._least, SELDOM_PAUSES * (time.monotonic() - begun))


class Tidying:
    """Tidies up every ten minutes."""

    def __init__(self) -> None:
        """Begin at once."""
        self._steps, self._next = tidy(), 0.0

    def step(self) -> None:
        """Do the next step, if it is time; after one that failed the first comes next."""
        if time.monotonic() < self._next:
            return
        steps, self._steps = self._steps, tidy()
        for _ in steps:
            self._steps = steps
            return
        self._next = time.monotonic() + TIDY_SECONDS


def compact() -> None:
    """Write SQLite's file anew after erasures."""
    if not remains.has_remains():
        return
    try:
        remains.compact()
    except OperationalError as error:
        # Everything else goes on: the next time there may be space, or nobody who locks it.
        log.warning("the database cannot be written anew (%s)", getattr(error.orig, "sqlite_errorname", None))


def work(app: Flask, stop: threading.Event) -> None:
    """Erase, send mails and tidy up until told to stop; an outage is waited out, with growing pauses."""
    pause, tidying = POLL_SECONDS, Seldom(Tidying().step, POLL_SECONDS)
    compaction, scrubbing = Seldom(compact, POLL_SECONDS), Seldom(lambda: remains.scrub(Mail), SCRUB_SECONDS)
    while not stop.wait(pause):
        done = 0
        try:
            with app.app_context():
                try:
                    # Before anything that a mail server could hold up.
                    done = erase_due()
                    compaction.run()
                    done += deliver(stop)
                finally:
                    # Sending comes first: what waited through a long stop of the service gets its chance.
                    tidying.run()
                    scrubbing.run()
            pause = 0.0 if done else POLL_SECONDS
        except ServerUnavailable as error:
            # Whoever is to be erased does not wait for a mail server.
            pause = 0.0 if done else _longer(pause)
            log.warning("the mail server is away (%s); trying again in %.0f s", error.code, pause)
        except SQLAlchemyError as error:
            pause = _longer(pause)
            log.warning("the database is away (%s); trying again in %.0f s", type(error).__name__, pause)
        except Exception as error:  # noqa: BLE001 - the queue must outlive a mistake in one round
            pause = _longer(pause)
            log.error("the worker failed, and goes on in %.0f s: %s", pause, stack_of(error))  # noqa: TRY400 - names nobody


def erase_due() -> int:
    """Erase some of what is due; without a ledger nothing is erased, and everything else goes on."""
    try:
        return erasure.erase_due()
    except OSError as error:
        log.error("no account can be erased: the ledger cannot be written (%s)", error.strerror)  # noqa: TRY400
        return 0


def _longer(pause: float) -> float:
    return min(max(pause, POLL_SECONDS) * 2, LONGEST_PAUSE_SECONDS)


def fork(app: Flask) -> Callable[[], None]:
    """Work in a process of its own, which shares this one's memory and in its long work gives way to requests.

    To be called while this process has one thread. Should that process die, this one ends too, and whoever started it
    starts both anew. Returns what stops it, letting it finish the mail in hand.
    """
    # What is never freed is not looked at either, and so stays shared.
    gc.freeze()
    process = get_context("fork").Process(target=_work_alone, args=(app,), name="worker")
    process.start()
    ending = threading.Event()

    def watch() -> None:
        process.join()
        if ending.is_set():
            return
        if process.exitcode == 0:
            # Told to stop. So is the whole service, as a rule, and this process finishes what it has in hand; else the
            # supervisor starts both anew. To this process itself a second signal would be one too many for the server.
            os.kill(os.getppid(), signal.SIGHUP)
        else:
            log.error("the worker's process has died: starting anew")
            os._exit(1)

    threading.Thread(target=watch, name="worker", daemon=True).start()

    def end() -> None:
        ending.set()
        process.terminate()
        process.join(LONGEST_PAUSE_SECONDS)

    return end


def _work_alone(app: Flask) -> None:
    let_give_way(app)
    watch_parent()
    try:
        work(app, stopped_by(signal.SIGTERM, signal.SIGINT))
    finally:
        logging.shutdown()


def watch_parent() -> None:
    """End this process when its parent is gone, so that a killed server leaves nothing that still answers."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
