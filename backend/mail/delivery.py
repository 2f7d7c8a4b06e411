"""The worker's loop: claim a batch, make each email, hand it over, and store the outcome."""

import logging
import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event
from typing import TypeVar

from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from backend import clock
from backend.database.engine import AnyRow, sqlite_writer
from backend.errors import stack_of
from backend.mail import messages, queue
from backend.mail.queue import CLAIM
from backend.mail.refusals import Interrupted, Refused, ServerUnavailable, UnknownFate, code_of, explain, needs_operator
from backend.mail.transport import Connection, Draft

MOST_BATCHES = 20
RENEW_SECONDS = CLAIM.total_seconds() / 3
# The time for the present email after the worker's stop event.
STOP_SECONDS = 8.0
LOG_AGAIN_SECONDS = 60.0
LOW_PRIORITY, LOGGED, LAST_SECONDS = "tiles.mail.low_priority", "tiles.mail.logged", "tiles.mail.last_seconds"
# A batch with so many emails is a flood, in which nobody can tell what one of them takes.
FLOOD = queue.BATCH // 2
MOST_SECONDS = 1.0

T = TypeVar("T")
log = logging.getLogger(__name__)


def use_low_priority(app: Flask) -> None:
    """Render emails in a low-priority thread: while 200 leave, it cuts the p99 of reads by a third to a half."""

    def lower() -> None:
        # Not by niceness: Linux does not move a waiting thread to a core that runs a nice one.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    if hasattr(os, "SCHED_IDLE"):
        app.extensions[LOW_PRIORITY] = ThreadPoolExecutor(1, "rendering", lower)


def _at_low_priority(work: Callable[[], T]) -> T:
    """Return the result of `work`, which must not use the database."""
    executor: ThreadPoolExecutor | None = current_app.extensions.get(LOW_PRIORITY)
    if executor is None:
        return work()
    # The thread may be preempted while it holds the GIL: no transaction of this process may wait for it then.
    with sqlite_writer:
        return executor.submit(copy_context().run, work).result()


def log_once_a_minute(code: str, message: str, *values: object) -> None:
    """Log an error that concerns all emails, once a minute for each code."""
    logged: dict[str, float] = current_app.extensions.setdefault(LOGGED, {})
    now = time.monotonic()
    if now - logged.get(code, -LOG_AGAIN_SECONDS) >= LOG_AGAIN_SECONDS:
        logged[code] = now
        log.error(message, *values)


def log_blocked(code: str) -> None:
    """Log why emails wait for the operator."""
    log_once_a_minute(code, "emails do not leave (%s): %s; %s", code, *explain(code))


def deliver(stop: Event | None = None) -> int:
    """Send due emails, up to 20 batches; return how many were tried.

    Raises:
        ServerUnavailable: the mail server is away; unsent emails stay in the queue.
    """
    return _Delivery(stop or Event()).run()


@dataclass
class _Delivery:
    """One round of a worker: batches of claimed emails over one connection."""

    stop: Event
    accepted: int = 0
    claim: uuid.UUID = field(default_factory=uuid.uuid4)
    claimed_until: datetime = field(default_factory=clock.now)
    renewed_at: float = 0.0
    stopping_since: float | None = None
    in_hand: uuid.UUID | None = None
    is_flood: bool = False
    undecided: list[tuple[AnyRow, str]] = field(default_factory=list)
    to_nobody: list[AnyRow] = field(default_factory=list)

    def run(self) -> int:
        self.connection = Connection(self._wait)
        tried = 0
        try:
            for _ in range(MOST_BATCHES):
                self.claim, batch = queue.take()
                if not batch:
                    break
                tried += self._deliver(batch)
                if self.stop.is_set():
                    break
        finally:
            self.connection.close()
        return tried

    def _deliver(self, batch: list[AnyRow]) -> int:
        """Send claimed emails until the stop event is set or the claim is lost; return how many were tried."""
        self.claimed_until, self.renewed_at = clock.now() + CLAIM, time.monotonic()
        blocked_by = None
        try:
            # Before any look-up: while the server is away, an email to nobody waits like any other.
            self.connection.open()
            self.is_flood = len(batch) >= FLOOD
            for tried, row in enumerate(batch):
                self._renew()
                if clock.now() > self.claimed_until or self.stop.is_set():
                    return tried
                self._deliver_one(row)
            return len(batch)
        except ServerUnavailable as error:
            blocked_by = error.code if needs_operator(error.code) else None
            raise
        except Interrupted:
            return 0
        finally:
            self._decide()
            if self.accepted:
                queue.unblock()
            # In one transaction, because a flood of requests for addresses without an account must cost others little.
            queue.finish(self.to_nobody, self.claim, "mails_to_nobody")
            self.to_nobody.clear()
            queue.release(self.claim, blocked_by=blocked_by)

    def _deliver_one(self, row: AnyRow) -> None:
        begun = time.monotonic()
        try:
            draft = messages.draft(row)
        except SQLAlchemyError:
            raise
        except queue.UNREADABLE:
            queue.give_up(row, self.claim, queue.SET_ASIDE)
        except Exception as error:  # noqa: BLE001 - one email that cannot be made must not stop all others
            self._put_off_as_internal(row, error)
        else:
            if draft:
                self._send(row, draft)
                current_app.extensions[LAST_SECONDS] = min(time.monotonic() - begun, MOST_SECONDS)
            else:
                self.to_nobody.append(row)
                if not self.is_flood:
                    # As long as a real email takes: the time of the next one does not reveal that nobody gets this one.
                    self.stop.wait(current_app.extensions.get(LAST_SECONDS, 0.0))

    def _send(self, row: AnyRow, draft: Draft) -> None:
        self.in_hand = row.id
        try:
            self.connection.hand_over(_at_low_priority(lambda: messages.render(draft, row.id)))
        except Refused as error:
            self._refused(row, error)
        except UnknownFate as error:
            self._put_off(row, error.code, at_least=queue.UNKNOWN_FATE)
        except OSError as error:
            self._put_off(row, code_of(error))
        except (ServerUnavailable, Interrupted):
            raise
        except Exception as error:  # noqa: BLE001 - one email that cannot be made must not stop all others
            self._put_off_as_internal(row, error)
        else:
            self.accepted += 1
            queue.finish([row], self.claim, "mails_sent")

    def _refused(self, row: AnyRow, refused: Refused) -> None:
        if refused.names_the_mailbox:
            queue.give_up(row, self.claim, refused.code)
        elif refused.may_mean_the_mailbox:
            self.undecided.append((row, refused.code))
        else:
            self._put_off(row, refused.code, ours=refused.is_permanent)

    def _decide(self) -> None:
        """Give up bare 550 refusals if the server accepts other recipients; otherwise it refuses us."""
        undecided, self.undecided = self.undecided, []
        for row, code in undecided:
            if self.accepted:
                queue.give_up(row, self.claim, code)
            else:
                self._put_off(row, code, ours=True)

    def _put_off(self, row: AnyRow, code: str, *, ours: bool = False, at_least: timedelta = queue.FIRST_RETRY) -> None:
        if ours:
            log_blocked(code)
        queue.put_off(row, self.claim, code, blocked=ours, at_least=at_least)

    def _put_off_as_internal(self, row: AnyRow, error: Exception) -> None:
        log_once_a_minute("internal", "email %s cannot be made: %s", row.kind, stack_of(error))
        self._put_off(row, "internal", ours=True)

    def _wait(self) -> None:
        """Renew the claim and notice a stop, once a second while a reply is due."""
        now = time.monotonic()
        if self.stop.is_set():
            self.stopping_since = self.stopping_since or now
            if now - self.stopping_since > STOP_SECONDS:
                raise Interrupted("timeout")
        try:
            if self.connection.awaits_fate and self.in_hand:
                queue.renew(self.claim, unknown_fate=self.in_hand)
                self.in_hand = None
            self._renew()
        except SQLAlchemyError as error:
            # The next second tries again; a claim that is not renewed in time ends the batch.
            log.warning("a claim cannot be renewed now (%s)", type(error).__name__)

    def _renew(self) -> None:
        """Renew the claim when it is time. An expired one belongs to other workers."""
        now = time.monotonic()
        if now - self.renewed_at > RENEW_SECONDS and clock.now() < self.claimed_until:
            queue.renew(self.claim)
            self.claimed_until, self.renewed_at = clock.now() + CLAIM, now
