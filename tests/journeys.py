"""Steps of a person through the service, with links from real emails."""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.message import EmailMessage
from threading import Barrier
from typing import Any, TypeVar

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from peers import MailServer, text_of, token_of
from sqlalchemy import text
from support import OTHER_PASSWORD, PASSWORD, Person, Service, bearer
from werkzeug.test import TestResponse

from backend.database.engine import Base, autocommit
from backend.desk import holds, requests
from backend.errors import Impossible
from backend.privacy import erasure, ledger
from backend.serving import worker

T = TypeVar("T")
MakeService = Callable[..., Service]
MoveClock = Callable[[timedelta], None]

CHANGE_CONFIRM = "Confirm your new TILES address"
CHANGED = "Your TILES email address was changed"
CLOSED = "Your TILES account is closed"
REOPENED = "Your TILES account is open again"
TAKEN_BACK = "Your TILES account has its earlier address again"
RESET = "Reset your TILES password"
PASSWORD_CHANGED = "Your TILES password was changed"
ERASE = "Erase your TILES account?"
ERASED = "Your TILES data have been erased"


def post(service: Service, path: str, headers: dict[str, str] | None = None, **body: Any) -> TestResponse:
    return service.http.post(f"/v1/{path}", json=body, headers=headers)


def the_mail(mails: Sequence[EmailMessage], to: str, subject: str) -> EmailMessage:
    """Return the one email to an address with a subject."""
    (email,) = [message for message in mails if (message["To"], message["Subject"]) == (to, subject)]
    return email


def to_and_subject(mails: Sequence[EmailMessage]) -> set[tuple[str, str]]:
    """Return the recipient and the subject of each email; no pair occurs twice."""
    pairs = [(message["To"], message["Subject"]) for message in mails]
    assert len(set(pairs)) == len(pairs), pairs
    return set(pairs)


def signed_in(service: Service, email: str, password: str = PASSWORD) -> dict[str, str]:
    """Sign in, and return the headers of the session."""
    response = service.sign_in(email, password)
    assert response.status_code == 201, response.text
    return bearer(response.json["session"]["token"])


def request_email_change(
    service: Service, headers: dict[str, str], email: str, password: str = PASSWORD
) -> TestResponse:
    return post(service, "account/email-changes", headers, email=email, password=password)


def ask_for_email_change(service: Service, headers: dict[str, str], email: str, password: str = PASSWORD) -> str:
    """Ask for another address, and return the token from the mail to it."""
    assert request_email_change(service, headers, email, password).status_code == 202
    return token_of(the_mail(service.deliver(), email, CHANGE_CONFIRM))


def confirm_email_change(service: Service, token: str) -> TestResponse:
    return post(service, "email-changes/confirm", token=token)


def change_email(service: Service, headers: dict[str, str], email: str, password: str = PASSWORD) -> list[EmailMessage]:
    """Change the address from the form to the last email, and return the resulting emails."""
    response = confirm_email_change(service, ask_for_email_change(service, headers, email, password))
    assert response.status_code == 204, response.text
    return service.deliver()


def undo(service: Service, token: str) -> TestResponse:
    return post(service, "email-changes/undo", token=token)


def undo_link(service: Service, headers: dict[str, str], old: str, new: str, password: str = PASSWORD) -> str:
    """Change the address, and return the token from the email to the old one."""
    return token_of(the_mail(change_email(service, headers, new, password), old, CHANGED))


def recover(service: Service, token: str, old: str) -> dict[str, str]:
    """Undo the change and choose a new password, as the notice says; return the headers of the new session."""
    response = undo(service, token)
    assert response.status_code == 204, response.text
    (reset,) = [message for message in service.deliver() if "/password-reset#" in text_of(message)]
    assert reset["To"] == old
    assert service.reset(token_of(reset)).status_code == 204
    return signed_in(service, old, OTHER_PASSWORD)


def change_password(service: Service, headers: dict[str, str], new: str, *, current: str = PASSWORD) -> None:
    passwords = {"current_password": current, "new_password": new}
    assert service.http.put("/v1/account/password", json=passwords, headers=headers).status_code == 204


def close(service: Service, headers: dict[str, str], *, erase: bool = False, password: str = PASSWORD) -> TestResponse:
    return post(service, "account/close", headers, password=password, erase=erase)


def closed_by(
    service: Service, headers: dict[str, str], email: str, *, erase: bool = False, password: str = PASSWORD
) -> str:
    """Close an account, and return the token from the mail that opens it again."""
    response = close(service, headers, erase=erase, password=password)
    assert response.status_code == 200, response.text
    return token_of(the_mail(service.deliver(), email, CLOSED))


def cancel(service: Service, token: str) -> TestResponse:
    return post(service, "erasure-requests/cancel", token=token)


def request_erasure(service: Service, email: str) -> TestResponse:
    return post(service, "erasure-requests", email=email)


def ask_for_erasure(service: Service, email: str) -> str:
    """Ask for erasure without the app, and return the token from the mail."""
    assert request_erasure(service, email).status_code == 202
    return token_of(the_mail(service.deliver(), email, ERASE))


def confirm_erasure(service: Service, token: str) -> TestResponse:
    return post(service, "erasure-requests/confirm", token=token)


def erase_due(service: Service) -> int:
    """Erase the accounts that are due; return their number."""
    return service.run(erasure.erase_due)


def people(service: Service, count: int) -> list[Person]:
    """Register people who close their accounts and request erasure."""
    registered = [service.register(name=f"Ada {number}", email=f"ada{number}@example.org") for number in range(count)]
    for person in registered:
        assert close(service, person.headers, erase=True).status_code == 200
    service.deliver()
    return registered


def receipt_of(message: EmailMessage) -> str:
    """Return the receipt that stands alone on a line of a mail's text."""
    line = re.search(r"^(\S{100,})$", text_of(message), re.MULTILINE)
    assert line, text_of(message)
    return line.group(1)


def at_once(*acts: Callable[[], T]) -> list[T]:
    """Run functions concurrently, each in its own thread, and return their results."""
    ready = Barrier(len(acts))

    def act(number: int) -> T:
        ready.wait()
        return acts[number]()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(act, range(len(acts))))


def refusals(act: Callable[[], object], times: int = 2) -> list[str]:
    """Run a function several times concurrently; return the sorted refusals, with "" for each success."""

    def refusal() -> str:
        try:
            act()
        except Impossible as error:
            return str(error)
        return ""

    return sorted(at_once(*[refusal] * times))


@contextmanager
def turning_away(mail_server: MailServer, address: str) -> Iterator[None]:
    """Let the mail server refuse one mailbox temporarily during the block."""

    async def handle_rcpt(_server: SMTP, _session: Session, envelope: Envelope, address_: str, _: list[str]) -> str:
        if address_ == address:
            return "451 4.7.1 try again later"
        envelope.rcpt_tos.append(address_)
        return "250 OK"

    mail_server.handle_RCPT = handle_rcpt  # type: ignore[method-assign]
    try:
        yield
    finally:
        del mail_server.handle_RCPT


def before_the_ledger(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Run `act` once, after the next accounts are marked and before the ledger names them."""
    opened = ledger.opened

    @contextmanager
    def act_first() -> Iterator[Callable[[Iterable[uuid.UUID], datetime], None]]:
        patch.setattr(ledger, "opened", opened)
        with opened() as append:

            def act_and_append(erased: Mapping[uuid.UUID, datetime]) -> None:
                act()
                append(erased)

            yield act_and_append

    patch.setattr(ledger, "opened", act_first)


@contextmanager
def no_ledger(service: Service) -> Iterator[None]:
    """Replace the ledger by a folder, which even root cannot write to, during the block."""
    path = service.run(ledger.path)
    path.mkdir()
    yield
    path.rmdir()


def fail_to_mail(service: Service, mail_server: MailServer, path: str, **body: str) -> None:
    """Request an email that the server refuses permanently."""
    mail_server.refuse = "550 5.1.1 no such mailbox"
    assert post(service, path, **body).status_code == 202
    assert service.deliver() == []
    mail_server.refuse = None


def finish_erasing(service: Service) -> int:
    """Erase until no account is due, and return the number of erased accounts."""
    erased = 0
    while done := erase_due(service):
        erased += done
    return erased


def in_ledger(service: Service) -> list[uuid.UUID]:
    """Return the account of each line of the ledger."""
    with service.app.app_context():
        return [uuid.UUID(account) for account, _ in ledger.read()]


def hold(service: Service, account: str, until: datetime) -> None:
    """Place a legal hold, as the data manager does."""
    service.run(holds.place, account, basis="Court order 12 of 2026", until=until)


def overdue(service: Service) -> list[uuid.UUID]:
    """Return the accounts whose erasure is shown as late to the data manager."""
    with service.app.app_context():
        return [request.account for request in requests.waiting(overdue=True) if request.account]


def account_id(service: Service, email: str) -> uuid.UUID:
    """Return the id of the one account with an address."""
    (stored_id,) = [row["id"] for row in service.rows("accounts") if row["email"] == email]
    return stored_id if isinstance(stored_id, uuid.UUID) else uuid.UUID(stored_id)


def moment(text: str) -> datetime:
    """Parse a time of a response, which is in UTC and has whole seconds."""
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z", text)
    return datetime.fromisoformat(text)


def everything_stored(service: Service) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table."""
    return {name: service.rows(name) for name in Base.metadata.tables}


def tidy(service: Service) -> None:
    """Let the worker delete expired rows."""
    service.run(lambda: list(worker.tidy()))


def waits_for_a_lock() -> bool:
    """Return whether a transaction waits for another's lock (PostgreSQL)."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with autocommit() as connection:
        return bool(connection.scalar(text(waiting)))
