"""The worker: sends emails, erases what is due, and deletes what is no longer needed."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from flask import Flask
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.accounts import audit, password_hashes, previous_addresses, sessions
from backend.database import scrub
from backend.database.models import Mail
from backend.database.schema import is_current
from backend.desk import holds, managers
from backend.errors import Impossible, stack_of
from backend.mail import delivery, mailboxes, queue
from backend.mail.refusals import ServerUnavailable, explain
from backend.privacy import announcements, erasure
from backend.security import keys, lockout
from backend.serving.supervisor import finish_event

POLL_SECONDS = 0.5
# How soon an email leaves an idle service: a look is one query, a round several.
LOOK_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 15.0
TIDY_SECONDS = 600.0
SCRUB_SECONDS = 3.0
# A job for which others wait gets a fiftieth of the time at most.
PAUSE_FACTOR = 50
# Longer than the present email may take, and within what a service manager grants.
STOP_SECONDS = delivery.STOP_SECONDS + 4

log = logging.getLogger(__name__)


def tidy() -> Iterator[object]:
    """Delete ended sessions and holds, abandoned emails and other expired rows, in small steps."""
    previous_addresses.forget_expired()
    password_hashes.forget_costs()
    yield from lockout.tidy()
    yield from mailboxes.tidy()
    holds.forget_ended()
    managers.forget_ended()
    yield from audit.tidy()
    yield from queue.tidy()
    announcements.forget_tests()
    yield from sessions.forget_ended()


def deliver(stop: threading.Event | None = None) -> int:
    """Send due emails or, when none is due, queue the next emails of an announcement; return how many.

    Raises:
        ServerUnavailable: the mail server is away; unsent emails stay in the queue.
        Impossible: the keys here are not those of the database.
    """
    keys.require()
    return delivery.deliver(stop) or announcements.queue_some()


class Tidying:
    """Tidies up every ten minutes, one step at a time."""

    def __init__(self) -> None:
        """Let the first step be due now."""
        self._steps, self._next = tidy(), 0.0

    def step(self) -> None:
        """Do the next step if it is due; start again after a failure."""
        if time.monotonic() < self._next:
            return
        steps, self._steps = self._steps, tidy()
        for _ in steps:
            self._steps = steps
            return
        self._next = time.monotonic() + TIDY_SECONDS


def erase_due() -> int:
    """Erase some accounts that are due; without a ledger none is erased, and everything else goes on."""
    try:
        return erasure.erase_due()
    except OSError as error:
        log.error("no account can be erased: the ledger cannot be written (%s)", error.strerror)  # noqa: TRY400
        return 0


def compact() -> None:
    """Rewrite SQLite's file after erasures."""
    try:
        if scrub.has_remains():
            scrub.compact()
    except OperationalError as error:
        log.warning("the database cannot be written anew (%s)", getattr(error.orig, "sqlite_errorname", None))


class Job(NamedTuple):
    """Work that a thread of its own repeats: at once if a round did something, unless others wait meanwhile.

    `factor` is how many times the round's own duration the pause lasts at least. `is_due` ends a pause early, but not
    one after a failure.
    """

    run: Callable[[], object]
    pause: float = POLL_SECONDS
    factor: float = 0.0
    is_due: Callable[[], bool] | None = None


def work(app: Flask, stop: threading.Event) -> None:
    """Erase, send emails and tidy up until told to stop.

    It returns soon after `stop` is set, even if the mail server does not reply.
    """
    jobs = {
        "erasing": Job(erase_due),
        "mailing": Job(partial(_deliver, stop), is_due=queue.is_due),
        "tidying": Job(Tidying().step, factor=PAUSE_FACTOR),
        "compacting": Job(compact, factor=PAUSE_FACTOR),
        "scrubbing": Job(partial(scrub.scrub, Mail), SCRUB_SECONDS, PAUSE_FACTOR),
    }
    threads = [
        threading.Thread(target=_repeat, args=(app, job, stop), name=name, daemon=True) for name, job in jobs.items()
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    deadline = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _repeat(app: Flask, job: Job, stop: threading.Event) -> None:
    """Run a job again and again, with growing pauses while it fails."""
    pause = POLL_SECONDS
    while not _rest(app, job, pause, stop):
        begun = time.monotonic()
        with app.app_context():
            try:
                is_busy = job.run() and not job.factor
                pause = 0.0 if is_busy else max(job.pause, job.factor * (time.monotonic() - begun))
            except Exception as error:  # noqa: BLE001 - a job must outlive a mistake in one round
                pause = min(max(pause, POLL_SECONDS) * 2, LONGEST_PAUSE_SECONDS)
                _log(error, pause)


def _rest(app: Flask, job: Job, pause: float, stop: threading.Event) -> bool:
    """Wait until the pause is over or the job is due; return whether to stop."""
    if job.is_due is None or pause > POLL_SECONDS:
        return stop.wait(pause)
    end = time.monotonic() + pause
    while (left := end - time.monotonic()) > 0 and not stop.wait(min(left, LOOK_SECONDS)):
        with app.app_context():
            if job.is_due():
                break
    return stop.is_set()


def _log(error: Exception, pause: float) -> None:
    match error:
        case ServerUnavailable():
            message = "the mail server is away (%s): %s; %s"
            delivery.log_once_a_minute(error.code, message, error.code, *explain(error.code))
        case Impossible():
            log.error("%s", error)
        case SQLAlchemyError() if _is_outdated():
            log.error("the database schema is older than this release's: run `tiles db upgrade`")
        case SQLAlchemyError():
            log.warning("the database is away (%s); trying again in %.0f s", type(error).__name__, pause)
        case _:
            log.error("the worker failed, and goes on in %.0f s: %s", pause, stack_of(error))


def _is_outdated() -> bool:
    """Return whether the schema is older than this release's; False where the database does not respond."""
    with suppress(SQLAlchemyError):
        return not is_current()
    return False


def _deliver(stop: threading.Event) -> int:
    """Send due emails, and log what keeps emails from leaving."""
    sent = deliver(stop)
    for code in queue.blocked():
        delivery.log_blocked(code)
    return sent


def work_beside(app: Flask) -> None:
    """Work in a process of its own, beside the servers, until told to finish."""
    delivery.use_low_priority(app)
    work(app, finish_event())
