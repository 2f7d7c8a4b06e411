"""Delivering: what is in the queue is looked up, signed, rendered and handed over, in a worker.

The look-up, the token and the text are made when a mail is sent, and its row goes once it was handed over.
"""

import logging
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from backend import clock
from backend.database import totals
from backend.database.engine import AnyRow, transaction
from backend.errors import stack_of
from backend.mail.aside import aside, give_way
from backend.mail.messages import Draft, draft, render
from backend.mail.queue import (
    CLAIM,
    FIRST_RETRY,
    SET_ASIDE,
    UNKNOWN_FATE,
    UNREADABLE,
    finish,
    give_up,
    put_off,
    release,
    renew,
    take,
    unblock,
)
from backend.mail.smtp import Interrupted, Refused, UnknownFate, code_of
from backend.mail.transport import SAID, Courier, Message, ServerUnavailable, trouble

MOST_BATCHES = 20
FRESH_SECONDS = 1.0
RENEW_SECONDS = CLAIM.total_seconds() / 3
# A mail in hand may take so long when the worker is told to stop.
STOP_SECONDS = 8.0
SAY_AGAIN_SECONDS = 60.0

log = logging.getLogger(__name__)

Made = Message | Exception | None


def complain(code: str, message: str, *values: object) -> None:
    """Log what all mails fail with, once a minute for each code."""
    said: dict[str, float] = current_app.extensions[SAID]
    now = time.monotonic()
    if now - said.get(code, -SAY_AGAIN_SECONDS) >= SAY_AGAIN_SECONDS:
        said[code] = now
        log.error(message, *values)


def _drafted(mail: AnyRow) -> Draft | Exception | None:
    """Look up what a claimed mail says: None when there is nobody to send it to, what was raised when it cannot be."""
    give_way()
    try:
        return draft(mail)
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001 - one mail that cannot be made must not stop all others
        return _Unreadable() if isinstance(error, UNREADABLE) else error


class _Unreadable(Exception):
    """A row does not say what its kind needs."""


def _rendered(mail: AnyRow, drafted: Draft | Exception | None) -> Made:
    """Render a mail, or pass on what became of it."""
    if not isinstance(drafted, Draft):
        return drafted
    try:
        message = render(drafted, mail.id)
        # Made here, and not while the server waits for it.
        _ = message.content
    except Exception as error:  # noqa: BLE001 - one mail that cannot be made must not stop all others
        return error
    return message


def _made(batch: list[AnyRow]) -> list[Made]:
    """Make claimed mails; in two steps, of which only the former may hold others up."""
    drafts = [_drafted(mail) for mail in batch]
    return aside(lambda: [_rendered(mail, drafted) for mail, drafted in zip(batch, drafts, strict=True)])


@dataclass
class _Delivery:
    """One round of a worker: batches of claimed mails, sent over one connection where the server allows it."""

    stop: Event
    done: Counter[totals.Event] = field(default_factory=Counter)
    accepted: int = 0
    claim: uuid.UUID | None = None
    renewed: float = 0.0
    stopping: float | None = None
    in_hand: uuid.UUID | None = None
    undecided: list[tuple[AnyRow, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.courier, self.claimed_until = Courier(self._wait), clock.now()

    def run(self) -> int:
        """Send what is due; return how many mails were tried."""
        tried = 0
        try:
            for _ in range(MOST_BATCHES):
                claim, batch = take()
                if not batch:
                    break
                tried += self._deliver(batch, claim)
                if self.stop.is_set():
                    break
        finally:
            self.courier.close()
            if self.accepted:
                unblock()
            self._count()
        return tried

    def _count(self) -> None:
        """Note what became of mails; a worker that is killed takes its last count along, and no mail."""
        if self.done:
            with transaction():
                for outcome, number in sorted(self.done.items()):
                    totals.add(outcome, number)

    def _deliver(self, batch: list[AnyRow], claim: uuid.UUID) -> int:
        """Send claimed mails until told to stop, or the claim is lost; return how many were tried."""
        self.claim, self.claimed_until, self.renewed = claim, clock.now() + CLAIM, time.monotonic()
        blocked_by = None
        try:
            # Before anything is looked up: while the server is away, a mail to nobody waits like any other.
            self.courier.open()
            return self._send_all(batch)
        except ServerUnavailable as error:
            blocked_by = error.code if error.is_ours else None
            raise
        except Interrupted:
            return 0
        finally:
            self._decide()
            release(claim, blocked_by=blocked_by)
            self.claim = None

    def _send_all(self, batch: list[AnyRow]) -> int:
        # One after the other is twice as quick as to change between making and sending.
        begun, messages = time.monotonic(), _made(batch)
        for tried, (mail, made) in enumerate(zip(batch, messages, strict=True)):
            self._renew()
            if clock.now() > self.claimed_until or self.stop.is_set():
                return tried
            # What it says may not be so any more.
            is_old = made and time.monotonic() - begun > FRESH_SECONDS
            message = _made([mail])[0] if is_old else made
            # As one that is sent: many to nobody would else be let go of while others ask for theirs.
            give_way()
            self._settle(mail, message)
        return len(batch)

    def _settle(self, mail: AnyRow, message: Made) -> None:
        """Send one mail, and store what became of it."""
        assert self.claim
        match message:
            case None:
                finish(mail.id, self.claim)
                self.done["mails_to_nobody"] += 1
            case _Unreadable():
                self._give_up(mail, SET_ASIDE)
            case Message():
                self.in_hand = mail.id
                self._send(mail, message)
            case _:
                self._put_off_as_internal(mail, message)

    def _send(self, mail: AnyRow, message: Message) -> None:
        assert self.claim
        try:
            self.courier.send(message)
        except Refused as error:
            self._refused(mail, error)
        except UnknownFate as error:
            self._put_off(mail, error.code, at_least=UNKNOWN_FATE)
        except OSError as error:
            self._put_off(mail, code_of(error))
        except (ServerUnavailable, Interrupted):
            raise
        except Exception as error:  # noqa: BLE001 - one mail that cannot be handed over must not stop all others
            self._put_off_as_internal(mail, error)
        else:
            self.accepted += 1
            finish(mail.id, self.claim)
            self.done["mails_sent"] += 1

    def _refused(self, mail: AnyRow, refused: Refused) -> None:
        if refused.names_the_mailbox:
            self._give_up(mail, refused.code)
        elif refused.may_mean_the_mailbox:
            self.undecided.append((mail, refused.code))
        else:
            self._put_off(mail, refused.code, ours=refused.is_permanent)

    def _decide(self) -> None:
        """Tell a mailbox that is not there from a server that takes nothing from us: it takes other recipients."""
        undecided, self.undecided = self.undecided, []
        for mail, code in undecided:
            if self.accepted:
                self._give_up(mail, code)
            else:
                self._put_off(mail, code, ours=True)

    def _give_up(self, mail: AnyRow, code: str) -> None:
        assert self.claim
        give_up(mail, self.claim, code)
        self.done["mails_given_up"] += 1

    def _put_off(self, mail: AnyRow, code: str, *, ours: bool = False, at_least: timedelta = FIRST_RETRY) -> None:
        assert self.claim
        if ours:
            complain(code, "mails do not leave (%s): %s; %s", code, *trouble(code))
        put_off(mail, self.claim, code, blocked=ours, at_least=at_least)
        self.done["mails_put_off"] += 1

    def _put_off_as_internal(self, mail: AnyRow, error: Exception) -> None:
        complain("internal", "mail %s cannot be made: %s", mail.kind, stack_of(error))
        self._put_off(mail, "internal", ours=True)

    def _wait(self) -> None:
        """Do once a second while the mail server makes us wait: keep what is claimed, and mind a stop."""
        now = time.monotonic()
        if self.stop.is_set():
            self.stopping = self.stopping or now
            if now - self.stopping > STOP_SECONDS:
                raise Interrupted
        if not self.claim:
            return
        try:
            if self.courier.awaits_fate and self.in_hand:
                renew(self.claim, unknown_fate=self.in_hand)
                self.in_hand = None
            self._renew()
        except SQLAlchemyError as error:
            # The next second tries again; a claim that is not renewed in time ends the batch.
            log.warning("a claim cannot be renewed now (%s)", type(error).__name__)

    def _renew(self) -> None:
        """Renew the claim when it is time. A lost one, as of a process that was stopped, is others' by now."""
        assert self.claim
        now = time.monotonic()
        if now - self.renewed > RENEW_SECONDS and clock.now() < self.claimed_until:
            renew(self.claim)
            self.claimed_until, self.renewed = clock.now() + CLAIM, now


def deliver(stop: Event | None = None) -> int:
    """Send what is due until nothing is or enough was; return how many mails were tried.

    Raises:
        ServerUnavailable: the mail server is away; what was not sent stays in the queue.
    """
    return _Delivery(stop or Event()).run()
