"""Whole lives of accounts in any order: swapped addresses, emails that arrive late, twice or never, any clock.

A model beside the service predicts each response, each email and each row.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta

import pytest
from generating import Count, amount, is_bench
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import get_state_machine_test, initialize, rule
from journeys import tidy
from lifecycle import Link
from lifecycle_model import IN_USE, INVALID
from lifecycle_run import PostOffice, Run
from lifecycle_signed_in import SignedIn, emails, mostly, passwords, picks, seldom
from lifecycle_steps import DOORS, PASSWORDS
from peers import MailServer
from support import Service

from backend.desk import holds, operations
from backend.errors import Impossible
from backend.mail import queue
from backend.mail.news import News
from backend.privacy import announcements
from backend.serving import worker

SEEN = ["/", "/privacy", "/registration", "/password-reset", "/email-change", "/email-change-undo", "/erasure",
        "/erasure-cancel", "/readyz", "/v1/policy"]  # fmt: skip
WAITS = [timedelta(minutes=1), timedelta(minutes=20), timedelta(hours=1), timedelta(hours=20), timedelta(hours=30),
         timedelta(days=3), timedelta(days=9), timedelta(days=15), timedelta(days=40)]  # fmt: skip
# With this seed, the long run reaches all of REACHED. Only the many lives of a fuzzing run reach SELDOM too.
SEED = 6
# So many lives contain everything.
MANY = 16
REACHED = {f"{purpose}: None" for purpose in [*DOORS, "unsubscribe"]} | {
    *[f"{purpose}: {INVALID}" for purpose in DOORS],
    *[f"erasure-cancel: {IN_USE}", "erased", "hold: True", "POST /v1/account/close: wrong-password"],
}
SELDOM = {f"{purpose}: {IN_USE}" for purpose in ("registration", "email-change", "email-change-undo")} | {
    *["release: True", "erase at once: False"],
}
ACTS = ["hold", "hold", "release", "release", "close", "erase", "erase at once"]


class Life(SignedIn):
    """One life. A rule is a step of a person, of the service, of the data manager, or of time."""

    # People without a session

    @initialize()
    def begin(self) -> None:
        for email in ("ada@example.org", "bob@example.org"):
            self.ask("registration", email, by_page=False)
            self.check()
        self.deliver_to({})
        for link in self.links:
            self.use_link(link, PASSWORDS[0], by_page=False)

    @rule(email=emails)
    def register_twice(self, email: str) -> None:
        for _ in range(2):
            self.ask("registration", email, by_page=False)
            self.check()
        self.deliver_to({})

    @rule(purpose=st.sampled_from(["registration", "password_reset", "erasure_request"]), email=emails, by_page=mostly)
    def ask(self, purpose: str, email: str, *, by_page: bool) -> None:
        path = purpose.replace("_", "-")
        if purpose == "registration":
            name = self.text()
            response = self.call("POST", "/v1/registrations", None, 202, json={"name": name, "email": email})
            self.world.enqueue(purpose, email=email, name=name)
        else:
            page = "/password-reset" if purpose == "password_reset" else "/erasure"
            response = (
                self.call("POST", page, None, 200, data={"email": email})
                if by_page
                else self.call("POST", f"/v1/{path}s", None, 202, json={"email": email})
            )
            self.world.enqueue(purpose, email=email)
        self.alike(f"{path} {response.mimetype}", response, typed=email)

    @rule(
        purpose=st.sampled_from(["registration", "password_reset", "erasure_request"]), email=emails, password=passwords
    )
    def ask_and_follow_the_link(self, purpose: str, email: str, password: str) -> None:
        self.ask(purpose, email, by_page=False)
        self.check()
        before = len(self.links)
        self.deliver_to({})
        for link in self.links[before:][-1:]:
            self.use_link(link, password, by_page=False)

    @rule(pick=picks, password=passwords)
    def register_where_somebody_was(self, pick: int, password: str) -> None:
        """Register with an address whose account was closed or moved to another address."""
        addresses = [account.email for account in self.world.living if account.closed_at]
        addresses += [previous.email for account in self.world.living for previous in account.previous]
        if free := [email for email in addresses if not self.world.open_with(email)]:
            self.ask_and_follow_the_link("registration", free[pick % len(free)], password)

    @rule(email=emails, right=mostly)
    def sign_in(self, email: str, *, right: bool) -> None:
        account = self.world.open_with(email)
        good = account is not None and account.password is not None and right
        body = {"email": email, "password": self.password(account, right=right)}
        response = self.call("POST", "/v1/sessions", None if good else "wrong-credentials", 201, json=body)
        if account is None or not good:
            self.alike("sign-in", response)
            return
        assert response.json["account"]["email"] == account.email
        self.opened(account, response.json["session"])

    @rule(pick=picks, password=passwords, by_page=seldom)
    def redeem(self, pick: int, password: str, *, by_page: bool) -> None:
        """Use a link that should work, if there is one."""
        self.use_one_of([link for link in self.links if self.world.works(link)], pick, password, by_page=by_page)

    @rule(pick=picks, which=st.sampled_from(["dead", "used", "erased"]), password=passwords, by_page=seldom)
    def try_a_dead_link(self, pick: int, which: str, password: str, *, by_page: bool) -> None:
        """Use a link that is no longer valid: for any reason, by its use, or by an erasure."""
        links = {
            "dead": [link for link in self.links if not self.world.works(link)],
            "used": [link for link in self.links if link.token in self.used],
            "erased": [link for link in self.links if (owner := link.account or link.mail.made) and owner.erased],
        }[which]
        self.use_one_of(links, pick, password, by_page=by_page)

    def use_one_of(self, links: list[Link], pick: int, password: str, *, by_page: bool) -> None:
        """Use one of these links; prefer a purpose that was seldom used, and a new link."""
        purposes = {str(link.purpose) for link in links}
        seldom_used = sorted(purposes, key=lambda purpose: (self.followed[purpose], purpose))
        if links:
            purpose = seldom_used[pick % len(purposes) // 2]
            self.followed[purpose] += 1
            same = [link for link in links if link.purpose == purpose]
            self.use_link(same[-1 - pick // 4 % len(same)], password, by_page=by_page)

    @rule(path=st.sampled_from(SEEN))
    def open_pages(self, path: str) -> None:
        before = self.run.rows()
        for page in [path, *[f"/unsubscribe/{link.token}" for link in self.links[-2:]]]:
            response = self.run.service.http.get(page)
            # The service is not ready while emails have waited for an hour.
            assert response.status_code in {200, 404, 503 if page == "/readyz" else 200}
        assert self.run.rows() == before

    # The service

    @rule()
    def deliver(self) -> None:
        self.deliver_to({})

    @rule(email=emails, way=st.sampled_from(["late", "never", "twice"]))
    def deliver_badly(self, email: str, way: str) -> None:
        self.deliver_to({email: way})

    @rule(by=st.sampled_from(WAITS))
    def wait(self, by: timedelta) -> None:
        self.world.now += by

    @rule()
    def wait_until_somebody_is_due(self) -> None:
        due = [account.due for account in self.world.living if account.due]
        self.world.now = max([self.world.now, *sorted(due)[:1]])

    @rule()
    def erase_due(self) -> None:
        held = {account.id for account in self.world.living if self.world.held_until(account)}
        expected = self.world.erase_due()
        assert self.run.service.run(worker.erase_due) == len(expected)
        accounts = self.run.rows()["accounts"]
        assert held <= {row["id"] for row in accounts}, "a held account was erased"
        late = {row["id"] for row in accounts if row["erase_after"] and row["erase_after"] <= self.world.now}
        assert late <= held, "an account that is due was not erased"
        self.run.reached["erased"] += len(expected)

    @rule()
    def tidy(self) -> None:
        self.world.tidy()
        tidy(self.run.service)

    @rule()
    def retry(self) -> None:
        self.world.retry()
        self.run.service.run(queue.retry)

    @rule()
    def announce(self) -> None:
        with self.run.service.app.app_context():
            announcements.announce(News("News", f"News {self.world.step}"))
            while announcements.queue_some():
                pass
        for account in self.world.living:
            if account.updates and not account.closed_at:
                self.world.enqueue("announcement", account=account)

    # The data manager

    @rule(number=st.integers(0, 2), act=st.sampled_from(ACTS), days=st.integers(1, 40))
    def manage(self, number: int, act: str, days: int) -> None:
        account = self.account(number)
        until = self.world.now + timedelta(days=days)
        possible = self.manage_in_the_model(account, act, until)
        acts: dict[str, Callable[[str], object]] = {
            "hold": lambda account_id: holds.place(account_id, basis="Court order 12 of 2026", until=until),
            "release": holds.release,
            "close": operations.close,
            "erase": operations.erase,
            "erase at once": lambda account_id: operations.erase(account_id, at_once=True),
        }
        with self.run.service.app.app_context(), nullcontext() if possible else pytest.raises(Impossible):
            acts[act](str(account.id))
        self.run.reached[f"{act}: {possible}"] += 1


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with PostOffice() as server:
        yield server


@pytest.mark.parametrize(
    ("database_url", "examples"),
    [("sqlite", 3), ("postgresql", 3), pytest.param("postgresql", MANY, marks=pytest.mark.long)],
    indirect=["database_url"],
)
def test_the_promises_hold_through_any_life(
    service: Service, count: Count, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    caplog.set_level(logging.ERROR)
    count(service.app)
    run = Run(service, monkeypatch)
    some = settings(max_examples=amount(examples), stateful_step_count=60)
    lives = get_state_machine_test(lambda: Life(run), settings=some)
    (lives if is_bench() else seed(SEED)(lives))()
    assert caplog.records == []
    everything = REACHED | SELDOM if is_bench() else REACHED
    expected = everything if examples == MANY else set()
    missing = expected - {event for event, number in run.reached.items() if number}
    assert missing == set(), "choose another SEED, under which all of this happens"
