"""How the state machine uses the service: it sends requests, reads emails, and compares everything with the model.

Promises are checked without the model too, so that the service and the model cannot share a mistake.
"""

import re
from collections import Counter
from datetime import datetime, timedelta
from email.message import EmailMessage
from hashlib import sha256
from typing import Any
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine, invariant
from journeys import in_ledger, moment, receipt_of
from lifecycle import Account, Link, Session, mail_row
from lifecycle_model import GRACE, IN_USE, INVALID, World
from lifecycle_run import TABLES, PostOffice, Run
from peers import html_of, text_of
from support import bearer, comparable
from werkzeug.test import TestResponse

from backend.database.inventory import basis_of

# Two mailboxes, one of them in two spellings, and a third without an account at the beginning.
EMAILS = ["ada@example.org", "Ada@example.org", "bob@example.org", "eve@example.net"]
PASSWORDS = ["quiet lemon gravel piano", "seven wooden boats drift", "copper violin under snow"]
STATUS = {
    INVALID: 400,
    IN_USE: 409,
    "wrong-password": 403,
    "wrong-credentials": 401,
    "unauthenticated": 401,
    "not-found": 404,
}
# For each purpose: the API's path and status, and the path of the page's form.
DOORS = {
    "registration": ("/v1/registrations/confirm", 201, "/registration"),
    "password-reset": ("/v1/password-resets/confirm", 204, "/password-reset/confirm"),
    "email-change": ("/v1/email-changes/confirm", 204, "/email-change"),
    "email-change-undo": ("/v1/email-changes/undo", 204, "/email-change-undo"),
    "erasure": ("/v1/erasure-requests/confirm", 200, "/erasure/confirm"),
    "erasure-cancel": ("/v1/erasure-requests/cancel", 204, "/erasure-cancel"),
}
WITH_PASSWORD = {"registration", "password-reset"}


def whole_seconds(time: datetime | None) -> datetime | None:
    """Return a time as a response has it."""
    return time and time.replace(microsecond=0)


SHOWN = {
    "accounts": lambda r: (r["id"], r["name"], r["email"], r["email_updates"], r["closed_at"],
                           r["erasure_requested_at"], r["erase_after"]),
    "sessions": lambda r: (r["id"], r["account_id"], r["created_at"], r["last_used_on"]),
    "previous_addresses": lambda r: (r["account_id"], r["email"], r["changed_at"]),
    "holds": lambda r: (r["account_id"], r["until"]),
    "feedback": lambda r: (r["account_id"], r["id"]),
    "mails": lambda r: (r["kind"], r["email"], r["name"], r["account_id"],
                        r["about"] if r["kind"] == "email_changed" else None,
                        # An abandoned email is never due.
                        r["created_at"], None if r["abandoned_at"] else r["due_at"], r["attempts"], r["abandoned_at"]),
}  # fmt: skip


class Steps(RuleBasedStateMachine):
    """The steps that the rules consist of."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.world = run, World()
        self.links: list[Link] = []
        self.sessions: list[Session] = []
        self.used: set[str] = set()
        self.followed: Counter[str] = Counter()
        # The unique texts that a person wrote.
        self.texts_of: dict[Account, list[str]] = {}
        self.run.begin(self.world)

    # Requests

    def call(
        self, method: str, path: str, refusal: str | None, status: int, session: Session | None = None, **options: Any
    ) -> TestResponse:
        """Send a request, and check that the response is as predicted."""
        headers = options.pop("headers", {}) | (bearer(session.token) if session else {})
        response = self.run.service.http.open(path, method=method, headers=headers, **options)
        assert response.status_code == (STATUS[refusal] if refusal else status), (path, response.text)
        if refusal and path.startswith("/v1/"):
            assert response.json["code"] == refusal
        place = re.sub("/(unsubscribe|sessions)/.+", "/…", path)
        self.run.reached[f"{method} {place}: {refusal}"] += 1
        return response

    def alike(self, kind: str, response: TestResponse, typed: str = "") -> None:
        """Check that a response is the same for everybody, with an account or without."""
        visible = comparable(response, typed)
        assert self.run.alike.setdefault(kind, visible) == visible

    def use(self, session: Session) -> str | None:
        if not self.world.use(session):
            return "unauthenticated"
        assert session.step >= session.account.renewed, "a session is older than the password"
        return None

    def account(self, number: int) -> Account:
        return self.world.accounts[number % len(self.world.accounts)]

    def password(self, account: Account | None, *, right: bool) -> str:
        others = [password for password in PASSWORDS if account is None or password != account.password]
        return account.password if account and account.password and right else others[0]

    def opened(self, account: Account, session: dict[str, Any]) -> None:
        session_ = Session(
            account, UUID(session["id"]), session["token"], self.world.now, self.world.now.date(), self.world.step
        )
        self.world.sessions.append(session_)
        self.sessions.append(session_)

    def text(self, account: Account | None = None) -> str:
        """Return a unique text."""
        text = f"Nemoquill {self.world.step}."
        if account:
            self.texts_of.setdefault(account, []).append(text)
        return text

    # Links

    def use_link(self, link: Link, password: str, *, by_page: bool) -> None:
        assert link.purpose
        renewed = link.account.renewed if link.account else 0
        refusal = self.world.redeem(link, password)
        self.run.reached[f"{link.purpose}: {refusal}"] += 1
        if link.purpose == "unsubscribe":
            self.call("POST", f"/unsubscribe/{link.token}", refusal, 200)
            return
        body = {"token": link.token} | ({"password": password} if link.purpose in WITH_PASSWORD else {})
        path, status, page = DOORS[link.purpose]
        if by_page:
            self.call("POST", page, refusal, 200, data=body)
        else:
            response = self.call("POST", path, refusal, status, json=body)
        if refusal:
            return
        assert link.token not in self.used, "a link worked twice"
        assert link.step > renewed or link.purpose == "registration", "a link is older than the password"
        self.used.add(link.token)
        if link.purpose == "registration":
            assert link.mail.made
            self.texts_of[link.mail.made] = [str(link.mail.name)]
            if not by_page:
                self.opened(link.mail.made, response.json["session"])
        elif link.purpose == "erasure" and not by_page:
            self.shown_as_closed(link.account, response)

    def shown_as_closed(self, account: Account | None, response: TestResponse) -> None:
        assert account
        due = self.world.erased_from(account)
        assert moment(response.json["closed_at"]) == whole_seconds(account.closed_at)
        erase_after = response.json["erase_after"]
        assert (moment(erase_after) if erase_after else None) == whole_seconds(due)

    def again(self, session: Session, *, right: bool) -> str | None:
        """Return the expected refusal of a request that repeats the password."""
        return self.use(session) or (None if right else "wrong-password")

    def manage_in_the_model(self, account: Account, act: str, until: datetime) -> bool:
        """Repeat an act of the data manager in the model, and return whether it is possible."""
        held, now = self.world.held_until(account), self.world.now
        if account.erased or (act == "release" and not held) or (act == "close" and account.closed_at):
            return False
        match act:
            case "hold":
                account.holds.append(until)
            case "release":
                account.holds = [until for until in account.holds if until <= now]
            case "erase at once" if held:
                return False
            case _:
                grace = timedelta(0) if act == "erase at once" else GRACE
                self.world.shut(account, erase=act != "close", grace=grace)
                return True
        if account.due:
            self.world.enqueue("account_closed", account=account)
        return True

    # Emails

    def deliver_to(self, way: dict[str, str]) -> None:
        """Let the worker send the due emails, and check that the predicted ones arrive."""
        office = self.run.service.mail_server
        assert isinstance(office, PostOffice)
        office.way, links = way, []
        for due in self.world.due_mails():
            link = self.world.compose(due)
            how = way.get(link.to, "") if link else ""
            if link and how in {"", "twice"}:
                links.append(link)
            {"": self.world.handed_over, "never": self.world.give_up}.get(how, self.world.put_off)(due)
        arrived = {str(message["Message-ID"])[1:33]: message for message in self.run.service.deliver()}
        expected = {sha256(link.mail.id.bytes).hexdigest()[:32]: link for link in links if link.mail.id}
        assert arrived.keys() == expected.keys()
        for name, link in expected.items():
            self.read(arrived[name], link)
        self.links += [link for link in links if link.purpose]

    def read(self, message: EmailMessage, link: Link) -> None:
        assert (message["To"], message["Subject"]) == (link.to, link.subject)
        text = text_of(message)
        assert "Nemoquill" not in f"{message.items()}{text}{html_of(message)}", "an email repeats what was typed"
        if link.purpose:
            match = re.search(rf"^https://accounts\.tiles\.test/{link.purpose}[#/](\S+)$", text, re.MULTILINE)
            assert match, text
            link.token, link.step = match.group(1), self.world.step
        elif link.mail.kind == "erased":
            body = {"receipt": receipt_of(message)}
            receipt = self.call("POST", "/v1/erasure-receipts/verify", None, 200, json=body).json
            assert UUID(receipt["account"]) in {account.id for account in self.world.accounts if account.erased}

    # Checks after each step

    @invariant()
    def check(self) -> None:
        rows = self.run.rows()
        self.learn(rows)
        expected = self.world.stored()
        for table, show in SHOWN.items():
            assert Counter(map(show, rows[table])) == expected[table], table
        opened = Counter(row["email"].lower() for row in rows["accounts"] if row["closed_at"] is None)
        assert all(number == 1 for number in opened.values()), "an address has two open accounts"
        self.check_erased(rows)
        self.world.now += timedelta(seconds=1)
        self.world.step += 1

    def learn(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Learn the random ids of new rows."""
        changes = {
            (row["account_id"], row["email"], row["changed_at"]): row["id"] for row in rows["previous_addresses"]
        }
        for account in self.world.living:
            for previous in account.previous:
                previous.id = previous.id or changes.get((account.id, previous.email, previous.changed_at))
        known = {mail.id for mail in self.world.queue}
        new = [row for row in rows["mails"] if row["id"] not in known]
        for mail in [mail for mail in self.world.queue if mail.id is None]:
            mine = [row for row in new if SHOWN["mails"](row) == mail_row(mail)]
            assert mine, (mail, new)
            mail.id = mine[0]["id"]
            new.remove(mine[0])

    def check_erased(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        erased = {account for account in self.world.accounts if account.erased}
        ids = {account.id for account in erased}
        assert set(in_ledger(self.run.service)) == ids
        gone = [row for table in TABLES if not basis_of(table) for row in rows[table.name]]
        assert all(row.get("account_id", row["id"]) not in ids for row in gone), "an erased account has a row"
        stored = str(rows)
        for account in erased:
            assert not any(text in stored for text in self.texts_of.get(account, [])), (
                "a text of an erased person is left"
            )
