"""Delivering: what is in the queue is looked up, signed, rendered and handed over, in a worker.

The look-up, the token and the text are made when a mail is sent, and its row goes once it was handed over.
"""

import logging
import smtplib
import time
import uuid
from collections import Counter
from contextlib import closing
from functools import partial
from threading import Event

from sqlalchemy.exc import SQLAlchemyError

from backend import clock, totals
from backend.aside import aside, give_way
from backend.compose import Draft, draft, render
from backend.db import AnyRow, transaction
from backend.errors import stack_of
from backend.mail import CLAIM, Done, finish, put_off, release, take
from backend.transport import Courier, Message, ServerUnavailable, code_of, reply_of

MOST_BATCHES = 20
FRESH_SECONDS = 1.0
SMTP_PERMANENT = 500

log = logging.getLogger(__name__)


def _drafted(mail: AnyRow) -> Draft | Exception | None:
    """Look up what a claimed mail says: None when there is nobody to send it to, what was raised when it cannot be."""
    give_way()
    try:
        return draft(mail)
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001 - one mail that cannot be made must not stop all others
        return error


def _rendered(mail: AnyRow, drafted: Draft | Exception | None) -> Message | Exception | None:
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


def _made(batch: list[AnyRow]) -> list[Message | Exception | None]:
    """Make claimed mails; in two steps, of which only the former may hold others up."""
    drafts = [_drafted(mail) for mail in batch]
    return aside(lambda: [_rendered(mail, drafted) for mail, drafted in zip(batch, drafts, strict=True)])


def _send(mail: AnyRow, message: Message, claim: uuid.UUID, courier: Courier, done: Done) -> None:
    """Hand a mail over, or put it off."""
    try:
        aside(partial(courier.send, message))
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException) as error:
        put_off(mail, claim, code_of(error), done, for_good=reply_of(error) >= SMTP_PERMANENT)
    except OSError as error:
        put_off(mail, claim, code_of(error), done)
    except ServerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - one mail that cannot be handed over must not stop all others
        _give_to_log(mail, claim, error, done)
    else:
        finish(mail.id, claim)
        done["mails_sent"] += 1


def _deliver_batch(batch: list[AnyRow], claim: uuid.UUID, courier: Courier, done: Done, stop: Event | None) -> int:
    """Send claimed mails until told to stop, or the claim is half over; return how many were tried."""
    # Half the claim is left for the last mail of the batch; the rest is taken anew.
    until = clock.now() + CLAIM / 2
    # Before anything is looked up: while the server is away, a mail to nobody waits like any other.
    courier.open()
    # One after the other is twice as quick as to change between making and sending.
    begun, messages = time.monotonic(), _made(batch)
    for tried, (mail, made) in enumerate(zip(batch, messages, strict=True)):
        if clock.now() > until or (stop and stop.is_set()):
            return tried
        # What it says may not be so any more.
        is_old = made and time.monotonic() - begun > FRESH_SECONDS
        message = _made([mail])[0] if is_old else made
        if message is None:
            # As one that is sent: many to nobody would else be let go of while others ask for theirs.
            give_way()
            finish(mail.id, claim)
            done["mails_to_nobody"] += 1
        elif isinstance(message, Exception):
            _give_to_log(mail, claim, message, done)
        else:
            _send(mail, message, claim, courier, done)
    return len(batch)


def _give_to_log(mail: AnyRow, claim: uuid.UUID, error: Exception, done: Done) -> None:
    log.error("mail %s cannot be made: %s", mail.kind, stack_of(error))
    put_off(mail, claim, "internal", done)


def _count(done: Done) -> None:
    """Note what became of mails; a worker that is killed takes its last count along, and no mail."""
    with transaction():
        for outcome, number in sorted(done.items()):
            totals.add(outcome, number)


def deliver(stop: Event | None = None) -> int:
    """Send what is due, over one connection, until nothing is or enough was; return how many mails were tried.

    Raises:
        ServerUnavailable: the mail server is away; what was not sent stays in the queue.
    """
    tried, done = 0, Counter[totals.Event]()
    try:
        with closing(Courier()) as courier:
            for _ in range(MOST_BATCHES):
                claim, batch = take()
                if not batch:
                    break
                sent = 0
                try:
                    sent = _deliver_batch(batch, claim, courier, done, stop)
                finally:
                    if sent < len(batch):
                        release(claim)
                tried += sent
                if stop and stop.is_set():
                    break
    finally:
        _count(done)
    return tried
