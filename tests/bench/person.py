"""The path of one person: each page on a throttled phone, and the time until an email is in the peer's hands."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from shutil import which
from statistics import quantiles
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from aiosmtpd.smtp import SMTP, Envelope, Session
from bench.figures import Figure, Options, at_most
from bench.requests import Line, post, status_of
from bench.stage import EMAIL, Stage, register, stage
from peers import MailServer
from playwright.sync_api import Browser, CDPSession, sync_playwright
from reverse_proxy import Proxy
from server_process import ServerProcess
from sqlalchemy import insert, select

from backend import clock
from backend.database.engine import reading, transaction
from backend.database.models import Account, PreviousAddress
from backend.mail.news import News
from backend.privacy import announcements
from backend.security import tokens
from backend.security.tokens import Purpose

# Lighthouse's slow 4G, and a processor that is a quarter as fast.
NETWORK = {"offline": False, "latency": 150, "downloadThroughput": 1638 * 1024 / 8, "uploadThroughput": 675 * 1024 / 8}
SLOWDOWN = 4
MOST_LOAD, MOST_KIB = 1000.0, 30.0
EMAILS, FEW_EMAILS = 200, 20
MOST_P50, MOST_P99, MOST_BEHIND = 50.0, 300.0, 2000.0
ANNOUNCED, RETRIED = 10_000, 1_000


def measure(_options: Options) -> Iterator[Figure]:
    """Measure the pages, then the emails."""
    with stage() as on:
        yield from _pages(on)
    with TimedPeer() as peer, stage(mail_port=peer.port) as on, on.server() as server:
        idle = [_email(server, peer, number) for number in range(EMAILS)]
        percentiles = quantiles(idle, n=100)
        yield at_most("registration to email, idle: p50", percentiles[49], "ms", MOST_P50)
        yield at_most("registration to email, idle: p99", percentiles[98], "ms", MOST_P99)
        _backlog(on)
        behind = [_email(server, peer, number) for number in range(FEW_EMAILS)]
        left = on.waiting()
        yield at_most(f"the slowest behind {ANNOUNCED:,} announcements and {RETRIED:,} retries", max(behind), "ms",
                      MOST_BEHIND)  # fmt: skip
        yield Figure(name="emails that still waited then", value=left, unit="", bar=1)


# Emails


class TimedPeer(MailServer):
    """A mail server that notes when it has an email for whom, and refuses some recipients for now."""

    def __init__(self) -> None:
        """Note nothing yet."""
        super().__init__()
        self.arrivals: dict[str, float] = {}

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("full"):
            return "452 4.2.2 The mailbox is full"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.arrivals[envelope.rcpt_tos[0]] = time.perf_counter()
        return "250 OK"


def _email(server: ServerProcess, peer: TimedPeer, number: int) -> float:
    """Return the milliseconds from the request of a registration to its email."""
    email = f"eve{uuid4().hex}@example.org"
    # At another moment of the worker's pause each time.
    time.sleep(0.05 + number % 20 * 0.03)
    with Line(server.url) as line:
        begun = time.perf_counter()
        _, response = line.ask(post("/v1/registrations", name="Eve", email=email))
    assert status_of(response) == HTTPStatus.ACCEPTED, response
    while email not in peer.arrivals:
        assert time.perf_counter() - begun < 60, "no email came"
        time.sleep(0.001)
    return (peer.arrivals[email] - begun) * 1000


def _backlog(on: Stage) -> None:
    """Queue announcements, and emails that the peer refuses again."""
    register(on.app, EMAIL)
    with on.app.app_context():
        news = announcements.announce(News(subject="News", text="TILES can do more now."))
        with reading() as session:
            ada = session.scalars(select(Account.id)).first()
    on.enqueue(ANNOUNCED, kind="announcement", account_id=ada, about=news.announcement)
    on.enqueue(RETRIED, kind="registration", name="Eve", email="full@example.org", attempts=1, failure="452")


# Pages


@dataclass
class Visit:
    """What a browser fetched for a page, and when, in seconds of its clock."""

    hosts: set[str] = field(default_factory=set)
    size: int = 0
    begun: float = 0.0
    first_byte: float = 0.0
    end: float = 0.0

    def sent(self, event: dict[str, Any]) -> None:
        """Note a request."""
        self.hosts.add(urlsplit(event["request"]["url"]).netloc)
        self.begun = self.begun or event["timestamp"]

    def received(self, event: dict[str, Any]) -> None:
        """Note the head of a response."""
        self.first_byte = self.first_byte or event["timestamp"]

    def finished(self, event: dict[str, Any]) -> None:
        """Note the end of a response, or that the page has loaded."""
        self.size += event.get("encodedDataLength", 0)
        self.end = max(self.end, event["timestamp"])


def _pages(on: Stage) -> Iterator[Figure]:
    """Open each page through the proxy in a new browser profile, as a person does who comes for the first time."""
    folder = on.folder / "nginx"
    with on.server() as server, Proxy(folder, [server.port]) as proxy, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for name, path in _paths(on).items():
            yield from _page(browser, name, proxy.url + path)
        browser.close()


def _paths(on: Stage) -> dict[str, str]:
    """Return every page, with a working link where the page needs one."""
    on.have_ada()
    with on.app.app_context(), transaction() as session:
        ada = session.execute(select(Account.id, Account.email, Account.closed_at, Account.credentials_id)).one()
        change = uuid4()
        session.execute(insert(PreviousAddress).values(
            id=change, account_id=ada.id, email="old@example.org", changed_at=clock.now()))  # fmt: skip
        content = {
            Purpose.EMAIL_CHANGE: {"email": "new@example.org"},
            Purpose.EMAIL_CHANGE_UNDO: {"change": str(change)},
        }
        purposes = (Purpose.PASSWORD_RESET, Purpose.ERASURE, Purpose.EMAIL_CHANGE, Purpose.EMAIL_CHANGE_UNDO)
        links = {purpose: tokens.issue_for(purpose, ada, **content.get(purpose, {})) for purpose in purposes}
        links[Purpose.REGISTRATION] = tokens.issue(
            Purpose.REGISTRATION, {"account": str(uuid4()), "name": "Eve", "email": "eve@example.org"}
        )
        details = {"requested_at": None, "erased_at": clock.rfc3339(clock.now()), "removed": [], "kept": []}
        links[Purpose.RECEIPT] = tokens.issue_receipt(SimpleNamespace(account_id=uuid4(), details=details))  # type: ignore[arg-type]
        unsubscribe = tokens.issue(Purpose.UNSUBSCRIBE, {"account": str(ada.id)})
    plain = ("/", "/password-reset", "/erasure", "/privacy", "/privacy/2026-01", "/problems", "/desk/sign-in", "/docs")
    paths = {path: path for path in plain}
    paths |= {f"/{purpose} with a link": f"/{purpose}#{token}" for purpose, token in links.items()}
    return paths | {"/unsubscribe": f"/unsubscribe/{unsubscribe}"}


def _page(browser: Browser, name: str, url: str) -> Iterator[Figure]:
    with browser.new_context(
        viewport={"width": 390, "height": 844}, is_mobile=True, ignore_https_errors=True
    ) as context:
        page = context.new_page()
        visit = _watched(context.new_cdp_session(page))
        page.goto(url)
        # The script of a link's page has the link looked at after the page has loaded.
        page.wait_for_load_state("networkidle")
    milliseconds = [1000 * (moment - visit.begun) for moment in (visit.first_byte, visit.end)]
    yield Figure(name=f"{name}: first byte", value=milliseconds[0], unit="ms")
    yield at_most(f"{name}: everything there", milliseconds[1], "ms", MOST_LOAD)
    yield at_most(f"{name}: size", visit.size / 1024, "KiB", MOST_KIB)
    others = visit.hosts - {urlsplit(url).netloc}
    yield at_most(f"{name}: other hosts", len(others), "", 0)


def _watched(devtools: CDPSession) -> Visit:
    """Slow the page down, and note what it fetches."""
    visit = Visit()
    devtools.on("Network.requestWillBeSent", visit.sent)
    devtools.on("Network.responseReceived", visit.received)
    devtools.on("Network.loadingFinished", visit.finished)
    devtools.on("Page.loadEventFired", visit.finished)
    devtools.send("Page.enable")
    devtools.send("Network.enable")
    devtools.send("Network.emulateNetworkConditions", NETWORK)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    return visit
