"""Every emailed link: how a person gets it, and how it is used."""

import re
from collections.abc import Callable
from email.message import EmailMessage
from typing import NamedTuple

from desk_door import MARY
from journeys import (
    cancel,
    change_email,
    close,
    confirm_email_change,
    confirm_erasure,
    post,
    request_email_change,
    undo,
)
from peers import text_of
from support import Person, Service
from werkzeug.test import TestResponse

from backend.desk import managers, operations
from backend.mail.news import News
from backend.privacy import announcements, erasure
from backend.security.tokens import Purpose
from backend.serving import worker

NEW = "countess@example.org"


class Link(NamedTuple):
    """How to request the email of a person with a link, and how to use the token in it."""

    request: Callable[[Service, Person], EmailMessage]
    use: Callable[..., TestResponse]


def emailed(service: Service, response: TestResponse) -> EmailMessage:
    """Return the email that a successful request sends."""
    assert response.status_code < 300, response.text
    return service.mail()


def token_in(message: EmailMessage) -> str:
    """Return the token of the first link in an email, also of one to unsubscribe."""
    token: str = re.findall(r"(?:#|/unsubscribe/)(\S{40,})", text_of(message))[0]
    return token


def announce(service: Service, news: News | None = None) -> list[EmailMessage]:
    """Announce something, and return the emails."""
    before = len(service.mail_server.messages)
    with service.app.app_context():
        announcements.announce(news or News("News", "New tiles are here."))
        while worker.deliver():
            pass
    return service.mail_server.messages[before:]


def erased(service: Service, person: Person) -> EmailMessage:
    """Erase an account, and return the email with the receipt."""
    with service.app.app_context():
        operations.erase(person.email, at_once=True)
        assert erasure.erase_due() == 1
    return service.mail()


def invite_to_the_desk(service: Service) -> EmailMessage:
    """Invite a data manager, and return the email with a link to sign in."""
    with service.app.app_context():
        managers.invite(MARY, "Mary Somerville")
    return emailed(service, service.http.post("/desk/sign-in", data={"email": MARY}))


LINKS = {
    Purpose.REGISTRATION: Link(
        lambda s, _: emailed(s, post(s, "registrations", email=NEW, name="Grace")), Service.confirm
    ),
    Purpose.PASSWORD_RESET: Link(lambda s, ada: emailed(s, post(s, "password-resets", email=ada.email)), Service.reset),
    Purpose.EMAIL_CHANGE: Link(
        lambda s, ada: emailed(s, request_email_change(s, ada.headers, NEW)), confirm_email_change
    ),
    Purpose.EMAIL_CHANGE_UNDO: Link(lambda s, ada: change_email(s, ada.headers, NEW)[-1], undo),
    Purpose.ERASURE: Link(lambda s, ada: emailed(s, post(s, "erasure-requests", email=ada.email)), confirm_erasure),
    Purpose.ERASURE_CANCEL: Link(lambda s, ada: emailed(s, close(s, ada.headers)), cancel),
    Purpose.UNSUBSCRIBE: Link(
        lambda s, _: announce(s)[-1],
        lambda s, token: s.http.post(f"/unsubscribe/{token}", data={"List-Unsubscribe": "One-Click"}),
    ),
    Purpose.RECEIPT: Link(erased, lambda s, receipt: post(s, "erasure-receipts/verify", receipt=receipt)),
    Purpose.DESK: Link(
        lambda s, _: invite_to_the_desk(s),
        lambda s, token: s.http.post("/desk/sign-in/confirm", data={"token": token}),
    ),
}
SINGLE_USE = [purpose for purpose in LINKS if purpose not in {Purpose.UNSUBSCRIBE, Purpose.RECEIPT}]
CHOOSE_A_PASSWORD = (Purpose.REGISTRATION, Purpose.PASSWORD_RESET)
