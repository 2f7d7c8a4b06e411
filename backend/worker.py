"""What is done without anybody asking: sending mails, and forgetting what is no longer needed."""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from backend import mail, sessions
from backend.db import scrub
from backend.errors import stack_of
from backend.models import Mail
from backend.transport import ServerUnavailable

POLL_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
TIDY_SECONDS = 600.0

log = logging.getLogger(__name__)


def tidy() -> None:
    """Forget ended sessions and mails that were given up."""
    sessions.forget_ended()
    mail.tidy()


def work(app: Flask, stop: threading.Event) -> None:
    """Send mails and tidy up until told to stop; an outage is waited out, with growing pauses."""
    pause, next_tidy = POLL_SECONDS, 0.0
    while not stop.wait(pause):
        try:
            with app.app_context():
                try:
                    tried = mail.deliver(stop)
                finally:
                    # Sending comes first: what waited through a long stop of the service gets its chance.
                    if time.monotonic() >= next_tidy:
                        tidy()
                        next_tidy = time.monotonic() + TIDY_SECONDS
                    scrub(Mail)
            pause = 0.0 if tried else POLL_SECONDS
        except ServerUnavailable as error:
            pause = _longer(pause)
            log.warning("the mail server is away (%s); trying again in %.0f s", error.code, pause)
        except SQLAlchemyError as error:
            pause = _longer(pause)
            log.warning("the database is away (%s); trying again in %.0f s", type(error).__name__, pause)
        except Exception as error:  # noqa: BLE001 - the queue must outlive a mistake in one round
            pause = _longer(pause)
            log.error("the worker failed, and goes on in %.0f s: %s", pause, stack_of(error))  # noqa: TRY400 - names nobody


def _longer(pause: float) -> float:
    return min(max(pause, POLL_SECONDS) * 2, LONGEST_PAUSE_SECONDS)


def start(app: Flask) -> Callable[[], None]:
    """Work in a thread of this process; return what stops it, letting it finish the mail in hand."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(app, stop), name="worker", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(timeout=LONGEST_PAUSE_SECONDS)

    return end


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
