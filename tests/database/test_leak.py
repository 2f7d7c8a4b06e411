"""A leaked database has addresses, but no secret that opens, changes or closes an account."""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from desk_door import Desk
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
from links import LINKS
from peers import text_of
from pydantic import SecretStr
from sqlalchemy import inspect, select
from support import Person, Service, bearer

from backend import clock
from backend.database import engine
from backend.database.desk_tables import Manager
from backend.database.models import Account, AuditEntry, Mail, PreviousAddress
from backend.desk import disclosures, operations
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.security import keys, tokens
from backend.security.tokens import Purpose
from backend.serving import worker

# Purposes whose tokens are about an account and its state
ABOUT_ACCOUNTS = (Purpose.ERASURE_CANCEL, Purpose.EMAIL_CHANGE_UNDO, Purpose.EMAIL_CHANGE, Purpose.PASSWORD_RESET,
                  Purpose.ERASURE)  # fmt: skip
SHARES = pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.long, id="all"), pytest.param(20, id="some")]
)


@dataclass
class Leak:
    """The service, everything in its database, and the sessions and emailed tokens that open accounts."""

    service: Service
    rows: dict[str, list[dict[str, Any]]]
    raw: bytes
    people: list[Person]
    mailed: list[str]

    @property
    def values(self) -> list[str]:
        """Every value of every column, and the strings within JSON, in every notation."""
        cells = (value for rows in self.rows.values() for row in rows for value in row.values())
        return sorted({text for cell in cells for text in texts(cell)})


def texts(cell: object) -> Iterator[str]:
    """Yield the notations of a value in a dump or a token."""
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
    """Return every token that was emailed: no other word is as long."""
    words = [word for message in service.mail_server.messages for word in text_of(message).split() if len(word) > 90]
    return sorted({word.rpartition("#")[2].rpartition("/")[2] for word in words})


def populate(service: Service) -> list[Person]:
    """Store accounts in every state and an email of each kind in the queue; return the people with a session."""
    service.run(policy.publish, version="2026-01", effective_on=clock.now().date(), text="We keep it to ourselves.")
    names = ("Ada", "Bob", "Carl", "Dora", "Eve")
    ada, bob, carl, dora, eve = (service.register(name=name, email=f"{name.lower()}@example.org") for name in names)
    change_email(service, ada.headers, "countess@example.org")
    ask_for_email_change(service, ada.headers, "lovelace@example.org")
    service.http.post("/v1/feedback", json={"message": "More!"}, headers=ada.headers | {"Idempotency-Key": "k" * 32})
    closed_by(service, bob.headers, bob.email, erase=True)
    cancel(service, closed_by(service, carl.headers, carl.email))
    with service.app.app_context():
        disclosures.disclose(dora.email, authority="Amtsgericht", basis="Order 12")
        announcements.announce(News("News", "New tiles are here."))
        while worker.deliver():
            pass
    hold(service, dora.email, clock.now() + timedelta(days=9))
    Desk(service)
    ask_for_erasure(service, dora.email)
    service.ask_for_reset(dora.email)
    close(service, eve.headers)
    service.run(operations.erase, eve.email, at_once=True)
    erase_due(service)
    service.deliver()
    service.ask_to_register(name="Fay", email="fay@example.org")
    post(service, "registrations", name="Gus", email="gus@example.org")
    post(service, "password-resets", email="countess@example.org")
    request_erasure(service, "countess@example.org")
    request_email_change(service, ada.headers, "grace@example.org")
    return [ada, bob, carl, dora, eve]


@pytest.fixture(scope="module")
def leak(shared_service: Service) -> Leak:
    """A copy of a database with accounts in every state and an email of each kind."""
    people = populate(shared_service)
    rows = dump(shared_service)
    expected = {"accounts", "announcements", "audit", "disclosures", "feedback", "holds", "mails", "policies",
                "previous_addresses", "sessions", "managers", "desk_sessions"}  # fmt: skip
    assert {table for table, contents in rows.items() if contents} >= expected
    folder = shared_service.app.extensions["tiles.settings"].instance_path
    raw = b"".join(path.read_bytes() for path in folder.glob("tiles.sqlite3*"))
    return Leak(shared_service, rows, raw, people, mailed_tokens(shared_service))


def test_a_leaked_database_holds_no_session_and_no_mailed_token(leak: Leak) -> None:
    assert len(leak.mailed) >= 14
    stored = json.dumps(leak.rows, default=str).encode() + "\n".join(leak.values).encode() + leak.raw
    for person in leak.people:
        bare = person.session["token"].removeprefix("tiles_")
        raw = base64.urlsafe_b64decode(f"{bare}=")
        assert not [form for form in (bare.encode(), raw, raw.hex().encode()) if form in stored]
    for token in leak.mailed:
        payload, _time, signature = token.rsplit(".", 2)
        assert len(signature) == 43
        for part in (payload, signature, base64.urlsafe_b64decode(f"{signature}=").hex()):
            assert part.encode() not in stored


@SHARES
def test_a_leaked_database_holds_nothing_that_opens_an_account(leak: Leak, step: int) -> None:
    values = [value for value in leak.values if len(value) >= 8]
    assert len(values) > 100
    for value in values[::step]:
        statuses = {link.use(leak.service, value).status_code for link in LINKS.values()}
        if value.isascii() and value.isprintable():
            statuses |= {leak.service.account(bearer(token)).status_code for token in (value, f"tiles_{value}")}
        assert statuses <= {400, 401, 404, 422}, value
    assert dump(leak.service) == leak.rows


def test_no_value_of_a_leaked_database_is_a_password(leak: Leak) -> None:
    for account in leak.rows["accounts"]:
        for value in (account["password_hash"], account["password_hash"].rpartition("$")[2], str(account["id"])):
            assert leak.service.sign_in(account["email"], value).status_code == 401


# An attacker who also has the code


def forge(leak: Leak, name: str = "") -> dict[Purpose, list[str]]:
    """Return tokens of each purpose, signed with the key in use, for each account or the one with this name."""
    forged = defaultdict(list)
    with leak.service.app.app_context(), engine.reading() as session:
        for account in session.scalars(select(Account).where(Account.name == name if name else True)):
            contents: dict[Purpose, dict[str, str]] = {purpose: {} for purpose in ABOUT_ACCOUNTS}
            contents[Purpose.EMAIL_CHANGE] = {"email": "thief@example.org"}
            for change in session.scalars(select(PreviousAddress.id).where(PreviousAddress.account_id == account.id)):
                contents[Purpose.EMAIL_CHANGE_UNDO] = {"change": str(change)}
            for purpose, content in contents.items():
                forged[purpose].append(tokens.issue_for(purpose, account, **content))
            forged[Purpose.UNSUBSCRIBE].append(tokens.issue(Purpose.UNSUBSCRIBE, {"account": str(account.id)}))
        for manager in session.execute(select(Manager.id, Manager.email, Manager.sign_in_id)):
            forged[Purpose.DESK].append(tokens.issue_for_manager(manager))
        for mail in session.scalars(select(Mail).where(Mail.kind == "registration")):
            content = {"account": str(mail.id), "name": "Thief", "email": "thief@example.org"}
            forged[Purpose.REGISTRATION].append(tokens.issue(Purpose.REGISTRATION, content))
        for entry in session.scalars(select(AuditEntry).where(AuditEntry.act == "erased")):
            forged[Purpose.RECEIPT].append(tokens.issue_receipt(entry))
    assert set(forged) == set(Purpose)
    return forged


@SHARES
def test_no_token_can_be_forged_from_a_leaked_database_without_the_key(
    leak: Leak, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    guesses = ["", "secret", "dev", "TILES", "tiles", leak.service.app.import_name, *leak.values[::step]]
    for guess in guesses:
        with monkeypatch.context() as guessing:
            guessing.setattr(keys, "in_use", lambda guess=guess: (SecretStr(guess),))
            forged = forge(leak, "Ada")
        for purpose, (token, *_) in forged.items():
            assert LINKS[purpose].use(leak.service, token).status_code == 400, guess
    assert dump(leak.service) == leak.rows


def test_a_token_can_be_forged_with_the_key(leak: Leak) -> None:
    """Shows that the tests above depend on the key only. It comes last, because it changes accounts."""
    for purpose in Purpose:
        statuses = [LINKS[purpose].use(leak.service, token).status_code for token in forge(leak)[purpose]]
        assert min(statuses) < 400, purpose
