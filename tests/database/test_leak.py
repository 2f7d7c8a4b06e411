"""A copy of the database in the wrong hands: it holds addresses, but nothing that opens, changes or ends an account."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from journeys import (
    ask_for_email_change,
    ask_for_erasure,
    cancel,
    change_email,
    close,
    closed_by,
    erase_due,
    hold,
    post,
    request_email_change,
    request_erasure,
)
from pydantic import SecretStr
from sqlalchemy import inspect, select
from support import OTHER_PASSWORD, Person, Service, bearer, text_of

from backend import clock
from backend.database import engine
from backend.database.models import Account, AuditEntry, Mail, PreviousAddress
from backend.desk import operations
from backend.privacy import announcements, policy
from backend.security import keys, tokens
from backend.security.tokens import Purpose
from backend.serving import worker

# Where a token of each purpose is redeemed, and what is sent with it.
ENDPOINTS: dict[Purpose, tuple[str, str]] = {
    Purpose.REGISTRATION: ("registrations/confirm", "token"),
    Purpose.PASSWORD_RESET: ("password-resets/confirm", "token"),
    Purpose.EMAIL_CHANGE: ("email-changes/confirm", "token"),
    Purpose.EMAIL_CHANGE_UNDO: ("email-changes/undo", "token"),
    Purpose.ERASURE: ("erasure-requests/confirm", "token"),
    Purpose.ERASURE_CANCEL: ("erasure-requests/cancel", "token"),
    Purpose.RECEIPT: ("erasure-receipts/verify", "receipt"),
}
WITH_PASSWORD = {Purpose.REGISTRATION, Purpose.PASSWORD_RESET}
REFUSED = {400, 401, 404, 422}


@dataclass
class Leak:
    """The service, everything in its database, and what opens accounts of it: sessions and mailed tokens."""

    service: Service
    rows: dict[str, list[dict[str, Any]]]
    raw: bytes
    people: list[Person]
    mailed: list[str]

    @property
    def values(self) -> list[str]:
        """Every value of every column, and the strings within those that are JSON, each once and as it is written."""
        cells = (value for rows in self.rows.values() for row in rows for value in row.values())
        return sorted({text for cell in cells for text in texts(cell)})


def texts(cell: object) -> Iterator[str]:
    """Return how a value can be written: as a dump does it, and as a token may hold it."""
    match cell:
        case None | bool():
            return
        case bytes():
            yield from (cell.decode("latin-1"), cell.hex(), str(UUID(bytes=cell[:16])))
            yield from (base64.b64encode(cell).decode(), base64.urlsafe_b64encode(cell).decode().rstrip("="))
        case UUID():
            yield from (str(cell), *texts(cell.bytes))
        case dict() | list():
            for part in cell.values() if isinstance(cell, dict) else cell:
                yield from texts(part)
        case str() if cell[:1] in {"{", "["}:
            yield from (cell, *texts(json.loads(cell)))
        case str() if re.fullmatch("[0-9a-f]{32}", cell):
            yield from texts(UUID(cell))
        case _:
            yield from {str(cell), *str(cell).split("$"), *str(cell).split("@")} - {""}


def dump(service: Service) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table that the database has, declared or not."""
    with service.app.app_context():
        tables = inspect(engine.db.engine).get_table_names()
    return {table: service.rows(table) for table in tables}


def mailed_tokens(service: Service) -> list[str]:
    """Return every token that was mailed: links, codes, headers and receipts are the only words as long."""
    words = [word for message in service.mail_server.messages for word in text_of(message).split() if len(word) > 90]
    return sorted({word.rpartition("#")[2].rpartition("/")[2] for word in words})


def lives(service: Service) -> list[Person]:
    """Have people in every state; return those with a session."""
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=clock.now().date(), text="We keep it to ourselves.")
    names = ("Ada", "Bob", "Carl", "Dora", "Eve")
    ada, bob, carl, dora, eve = (service.register(name=name, email=f"{name.lower()}@example.org") for name in names)
    change_email(service, ada.headers, "countess@example.org")
    ask_for_email_change(service, ada.headers, "lovelace@example.org")
    service.http.post("/v1/feedback", json={"message": "More!"}, headers=ada.headers | {"Idempotency-Key": "k" * 32})
    closed_by(service, bob.headers, bob.email, erase=True)
    cancel(service, closed_by(service, carl.headers, carl.email))
    with service.app.app_context():
        operations.disclose(dora.email, authority="Amtsgericht", basis="Order 12")
        announcements.announce(subject="News", text="New tiles are here.")
        while worker.deliver():
            pass
    hold(service, dora.email, clock.now() + timedelta(days=9))
    ask_for_erasure(service, dora.email)
    service.ask_for_reset(dora.email)
    close(service, eve.headers)
    with service.app.app_context():
        operations.erase(eve.email, at_once=True)
    erase_due(service)
    service.deliver()
    service.ask_to_register(name="Fay", email="fay@example.org")
    return [ada, bob, carl, dora, eve]


def queue(service: Service, ada: Person) -> None:
    """Have a mail of each kind that a request makes wait in the queue."""
    post(service, "registrations", name="Gus", email="gus@example.org")
    post(service, "password-resets", email="countess@example.org")
    request_erasure(service, "countess@example.org")
    request_email_change(service, ada.headers, "grace@example.org")


@pytest.fixture
def leak(service: Service, tmp_path: Path) -> Leak:
    """A copy of a database in which everything has happened and everything waits."""
    people = lives(service)
    queue(service, people[0])
    rows = dump(service)
    expected = {"accounts", "announcements", "audit", "disclosures", "feedback", "holds", "mails", "policies"}
    assert {table for table, found in rows.items() if found} >= expected | {"previous_addresses", "sessions"}
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("tiles.sqlite3*"))
    return Leak(service, rows, raw, people, mailed_tokens(service))


def offer(service: Service, token: str) -> Iterator[tuple[str, int]]:
    """Offer something as a token wherever one is taken, and as a session; return what was answered."""
    for purpose in Purpose:
        yield purpose, redeem(service, purpose, token)
    if token.isascii() and token.isprintable():
        yield "session", service.account(bearer(token)).status_code


def accepted(service: Service, token: str) -> list[str]:
    return [where for where, status in offer(service, token) if status not in REFUSED]


def test_a_leaked_database_holds_no_session_and_no_mailed_token(leak: Leak) -> None:
    assert len(leak.mailed) >= 14
    written = json.dumps(leak.rows, default=str).encode() + "\n".join(leak.values).encode() + leak.raw
    for person in leak.people:
        token = person.session["token"]
        bare = token.removeprefix("tiles_")
        for form in (bare.encode(), base64.urlsafe_b64decode(f"{bare}="), base64.urlsafe_b64decode(f"{bare}=").hex()):
            assert (form if isinstance(form, bytes) else form.encode()) not in written
    for token in leak.mailed:
        payload, _time, signature = token.rsplit(".", 2)
        assert len(signature) == 43
        for part in (payload, signature, base64.urlsafe_b64decode(f"{signature}=").hex()):
            assert part.encode() not in written


def test_a_leaked_database_holds_nothing_that_opens_an_account(leak: Leak) -> None:
    values = [value for value in leak.values if len(value) >= 8]
    assert len(values) > 100
    found = {value: accepted(leak.service, value) for value in values}
    assert {value: where for value, where in found.items() if where} == {}
    for value in filter(str.isascii, values):
        assert leak.service.account(bearer(f"tiles_{value}")).status_code == 401
    assert dump(leak.service) == leak.rows


def test_no_value_of_a_leaked_database_is_a_password(leak: Leak) -> None:
    for account in leak.rows["accounts"]:
        for value in (account["password_hash"], account["password_hash"].rpartition("$")[2], str(account["id"])):
            assert leak.service.sign_in(account["email"], value).status_code == 401


# What somebody makes of it who has the code as well


def forge(leak: Leak) -> list[tuple[Purpose, str]]:
    """Return a token of each purpose for each account that one may be for, signed with the key in use."""
    made: list[tuple[Purpose, str]] = []
    with leak.service.app.app_context(), engine.reading() as session:
        for account in session.scalars(select(Account)):
            contents: dict[Purpose, dict[str, str]] = {purpose: {} for purpose in ENDPOINTS}
            contents[Purpose.EMAIL_CHANGE] = {"email": "thief@example.org"}
            del contents[Purpose.REGISTRATION], contents[Purpose.RECEIPT]
            for change in session.scalars(select(PreviousAddress.id).where(PreviousAddress.account_id == account.id)):
                contents[Purpose.EMAIL_CHANGE_UNDO] = {"change": str(change)}
            made += [(purpose, tokens.issue_for(purpose, account, **more)) for purpose, more in contents.items()]
            made.append((Purpose.UNSUBSCRIBE, tokens.issue(Purpose.UNSUBSCRIBE, {"account": str(account.id)})))
        for mail in session.scalars(select(Mail).where(Mail.kind == "registration")):
            content = {"account": str(mail.id), "name": "Thief", "email": "thief@example.org"}
            made.append((Purpose.REGISTRATION, tokens.issue(Purpose.REGISTRATION, content)))
        for entry in session.scalars(select(AuditEntry).where(AuditEntry.act == "erased")):
            made.append((Purpose.RECEIPT, tokens.issue_receipt(entry)))
    return made


def redeem(service: Service, purpose: Purpose, token: str) -> int:
    """Redeem a token where one of its purpose is; return what was answered."""
    if purpose is Purpose.UNSUBSCRIBE:
        return service.http.post(f"/unsubscribe/{token}").status_code
    path, member = ENDPOINTS[purpose]
    password = {"password": OTHER_PASSWORD} if purpose in WITH_PASSWORD else {}
    return post(service, path, **{member: token}, **password).status_code


def test_of_a_leaked_database_no_token_can_be_made_without_the_key(leak: Leak, monkeypatch: pytest.MonkeyPatch) -> None:
    guesses = {"", "secret", "dev", "TILES", "tiles", leak.service.app.import_name, *leak.values}
    for guess in sorted(guesses):
        with monkeypatch.context() as guessing:
            guessing.setattr(keys, "in_use", lambda guess=guess: (SecretStr(guess),))
            made = forge(leak)
        assert {purpose for purpose, _ in made} == set(Purpose)
        # Which account a forged signature is about makes no difference.
        for purpose, token in dict(made).items():
            assert redeem(leak.service, purpose, token) == 400, guess
    assert dump(leak.service) == leak.rows


@pytest.mark.parametrize("purpose", Purpose)
def test_with_the_key_a_token_could_be_made(leak: Leak, purpose: Purpose) -> None:
    made = [token for its_purpose, token in forge(leak) if its_purpose is purpose]
    assert {redeem(leak.service, purpose, token) for token in made} & {200, 201, 204}
