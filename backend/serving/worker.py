"""What is done without anybody asking: sending mails, erasing what is due, forgetting what is no longer needed."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from flask import Flask
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from backend.accounts import audit, credentials, sessions
from backend.database import scrub
from backend.database.models import Mail
from backend.desk import operations
from backend.errors import Impossible, stack_of
from backend.mail import delivery, mailboxes, queue
from backend.mail.aside import let_give_way
from backend.mail.transport import ServerUnavailable, trouble
from backend.privacy import announcements, erasure
from backend.security import keys, lockout
from backend.serving.supervisor import finish_event

POLL_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
TIDY_SECONDS = 600.0
SELDOM_PAUSES = 50
SCRUB_SECONDS = 3.0
# Longer than the mail in hand may take, and within what a service manager grants.
STOP_SECONDS = delivery.STOP_SECONDS + 4

log = logging.getLogger(__name__)


def tidy() -> Iterator[None]:
    """Forget ended sessions and holds, mails that were given up, and whatever else has had its time, in small steps."""
    credentials.forget_previous_addresses()
    credentials.forget_costs()
    lockout.tidy()
    mailboxes.tidy()
    operations.forget_ended_holds()
    audit.tidy()
    queue.tidy()
    yield from sessions.forget_ended()


def deliver(stop: threading.Event | None = None) -> int:
    """Send what is due, and when nothing is, make the next mails of an announcement; return how many of either.

    Raises:
        ServerUnavailable: the mail server is away; what was not sent stays in the queue.
        Impossible: links would be signed with keys that are not those of the database.
    """
    keys.require()
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
    if not scrub.has_remains():
        return
    try:
        scrub.compact()
    except OperationalError as error:
        # Everything else goes on: the next time there may be space, or nobody who locks it.
        log.warning("the database cannot be written anew (%s)", getattr(error.orig, "sqlite_errorname", None))


def work(app: Flask, stop: threading.Event) -> None:
    """Erase, send mails and tidy up until told to stop, each in a thread that waits for no other.

    It returns soon after `stop` is set, also while a mail server makes the mail in hand wait.
    """
    jobs = {"erasing": erase_due, "mailing": partial(_deliver, stop), "tidying": _tidying()}
    threads = [
        threading.Thread(target=_repeat, args=(app, job, stop), name=name, daemon=True) for name, job in jobs.items()
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    deadline = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _repeat(app: Flask, job: Callable[[], int], stop: threading.Event) -> None:
    """Do a job again and again; an outage is waited out, with growing pauses."""
    pause = POLL_SECONDS
    while not stop.wait(pause):
        with app.app_context():
            try:
                pause = 0.0 if job() else POLL_SECONDS
            except ServerUnavailable as error:
                pause = _longer(pause)
                what, todo = trouble(error.code)
                delivery.complain(error.code, "the mail server is away (%s): %s; %s", error.code, what, todo)
            except Impossible as error:
                pause = _longer(pause)
                log.error("%s", error)  # noqa: TRY400 - the operator mends it
            except SQLAlchemyError as error:
                pause = _longer(pause)
                log.warning("the database is away (%s); trying again in %.0f s", type(error).__name__, pause)
            except Exception as error:  # noqa: BLE001 - a job must outlive a mistake in one round
                pause = _longer(pause)
                log.error("the worker failed, and goes on in %.0f s: %s", pause, stack_of(error))  # noqa: TRY400 - names nobody


def _deliver(stop: threading.Event) -> int:
    """Send what is due, and say what keeps mails from leaving."""
    done = deliver(stop)
    for code in queue.blocked():
        delivery.complain(code, "mails do not leave (%s): %s; %s", code, *trouble(code))
    return done


def _tidying() -> Callable[[], int]:
    """Return what tidies up, and leaves nothing of what was deleted in SQLite's files."""
    steps = (
        Seldom(Tidying().step, POLL_SECONDS),
        Seldom(compact, POLL_SECONDS),
        Seldom(lambda: scrub.scrub(Mail), SCRUB_SECONDS),
    )

    def tidy_up() -> int:
        with ExitStack() as stack:
            # What fails keeps nothing else from being done.
            for step in reversed(steps):
                stack.callback(step.run)
        return 0

    return tidy_up


def erase_due() -> int:
    """Erase some of what is due; without a ledger nothing is erased, and everything else goes on."""
    try:
        return erasure.erase_due()
    except OSError as error:
        log.error("no account can be erased: the ledger cannot be written (%s)", error.strerror)  # noqa: TRY400
        return 0


def _longer(pause: float) -> float:
    return min(max(pause, POLL_SECONDS) * 2, LONGEST_PAUSE_SECONDS)


def work_beside(app: Flask) -> None:
    """Work in this process, which has nothing else to do and gives way to requests, until told to finish."""
    let_give_way(app)
    work(app, finish_event())
