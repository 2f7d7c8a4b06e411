"""A pytest plugin: the service as it is served, for tests with a browser or several clients."""

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from conftest import needs
from desk_door import MARY
from peers import MailServer, free_port, html_of, token_of, wait_for
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
from server_process import ServerProcess, run_tiles
from support import OTHER_PASSWORD, PASSWORD, Service
from werkzeug.serving import WSGIRequestHandler, make_server

from backend.config import Settings
from backend.desk import managers

with_and_without_javascript = pytest.mark.parametrize("javascript", [True, pytest.param(False, marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[[str], Browser]]:
    """Launch a browser. Not session-scoped: while Playwright runs, tests of its process cannot run an event loop."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    options = [*quiet, *root, "--disable-gpu", "--disable-quic"]
    with sync_playwright() as playwright:
        yield lambda program: playwright.chromium.launch(executable_path=program, args=options)


@pytest.fixture(scope="module")
def browser(launch: Callable[[str], Browser]) -> Iterator[Browser]:
    """A real Chromium, the headless build if there is one: it takes half of the processor time."""
    with launch(shutil.which("chromium-headless-shell") or needs("chromium")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with checked_page(browser) as page:
        yield page


@contextmanager
def checked_page(browser: Browser) -> Iterator[Page]:
    """Open a page in its own context; it must not violate the content security policy or throw."""
    complaints: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
    # The browser logs each response with 4xx as an error.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


@dataclass
class Site:
    """A server, the emails that it sent, and its command line."""

    url: str
    mail_server: MailServer
    instance_path: Path

    def mail(self, email: str, number: int = 1, *, subject: str = "") -> EmailMessage:
        """Wait for the first, second, ... email to an address with a subject."""

        def arrived() -> list[EmailMessage]:
            to = [message for message in self.mail_server.messages if message["To"] == email]
            return [message for message in to if subject in message["Subject"]][number - 1 :]

        return wait_for(arrived)[0]

    def post(self, path: str, status: int, *, session: str = "", **fields: object) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {session}"} if session else {}
        response = httpx2.post(f"{self.url}/v1/{path}", json=fields, headers=headers)
        assert response.status_code == status, response.text
        content: dict[str, Any] = response.json() if response.content else {}
        return content

    def account(self, session: str) -> dict[str, Any]:
        response = httpx2.get(f"{self.url}/v1/account", headers={"Authorization": f"Bearer {session}"})
        assert response.status_code == 200, response.text
        account: dict[str, Any] = response.json()
        return account

    def tiles(self, *arguments: object) -> None:
        """Run a command."""
        done = run_tiles(self.instance_path, *map(str, arguments))
        assert done.returncode == 0, done.stderr

    def ask_to_register(self, email: str, number: int = 1, *, subject: str = "") -> EmailMessage:
        self.post("registrations", 202, name="Ada Lovelace", email=email)
        return self.mail(email, number, subject=subject)

    def register(self, email: str) -> str:
        """Register, and return the session's token."""
        return self.finish_registering(self.ask_to_register(email))

    def finish_registering(self, message: EmailMessage) -> str:
        response = self.post("registrations/confirm", 201, token=token_of(message), password=PASSWORD)
        session: str = response["session"]["token"]
        return session

    def ask_to_change_email(self, session: str, new: str) -> EmailMessage:
        self.post("account/email-changes", 202, session=session, email=new, password=PASSWORD)
        return self.mail(new, subject="Confirm your new")

    def announce(self, folder: Path, subject: str) -> None:
        """Send an announcement to everybody, and wait until its emails are queued."""
        text = folder / "announcement.txt"
        text.write_text("TILES can do more now.\n\nSee https://tiles.example/news\nfor what it is.\n")
        self.tiles("announce", text, "--subject", subject, "--follow", "--yes")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with MailServer() as mail_server:
        peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
        with ServerProcess(tmp_path_factory.mktemp("site"), rate_limits="off", **peer) as server:
            yield Site(server.url, mail_server, server.instance_path)


@pytest.fixture
def email() -> str:
    """An address that only this test uses."""
    return f"{uuid4().hex}@example.org"


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in its own context, with options."""
    contexts = []

    def open_page(**options: object) -> Page:
        contexts.append(browser.new_context(**options))
        return contexts[-1].new_page()

    yield open_page
    for context in contexts:
        context.close()


def button_link(message: EmailMessage) -> str:
    """Return the target of the button in an email's HTML part."""
    (link,) = re.findall(r'<a class="button" href="([^"]+)"', html_of(message))
    return link


def open_link(page: Page, message: EmailMessage) -> None:
    """Open the link of an email; without JavaScript, paste the code."""
    page.goto(button_link(message))
    # Hidden until the script has checked the link.
    expect(page.locator("#view")).to_be_visible()
    code = page.get_by_label("Code from the email")
    if code.count() and code.input_value() == "":
        paste_code(page, token_of(message))


def paste_code(page: Page, code: str) -> None:
    page.get_by_label("Code from the email").fill(code)
    press(page, "Continue")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def expect_heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", name=text, level=1)).to_be_visible()


def create_account(page: Page, password: str = PASSWORD) -> None:
    page.get_by_label("Password", exact=True).fill(password)
    press(page, "Create my account")


def ask_for_mail(page: Page, email: str) -> None:
    page.get_by_label("Email address").fill(email)
    press(page, "Email me a link")


def change_password(page: Page) -> None:
    page.get_by_label("New password", exact=True).fill(OTHER_PASSWORD)
    press(page, "Change my password")


def requests_of(page: Page) -> list[Request]:
    """Collect the requests of a page from now on."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    page.on("request", note)
    return requests


@pytest.fixture
def serve_near(make_service: Callable[..., Service]) -> Iterator[Callable[..., Service]]:
    """Serve an app of this process at its public URL, so that a test can move its clock and choose its settings."""
    servers = []

    def serve(**settings: Any) -> Service:
        port = free_port()
        service = make_service(public_url=f"http://127.0.0.1:{port}", **settings)
        servers.append(make_server("127.0.0.1", port, service.app, threaded=True, request_handler=_Quiet))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return service

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def url_of(service: Service) -> str:
    settings: Settings = service.app.extensions["tiles.settings"]
    return settings.public_url


def sign_in(page: Page, service: Service) -> Page:
    """Invite a data manager, and sign her in at the desk."""
    with service.app.app_context():
        if not managers.listed():
            managers.invite(MARY, "Mary Somerville")
    page.goto(f"{url_of(service)}/desk/people")
    expect(page).to_have_url(f"{url_of(service)}/desk/sign-in")
    page.get_by_label("Email address").fill(MARY)
    press(page, "Email me a link")
    page.goto(button_link(service.mail()))
    expect(page.get_by_text("You are signing in as")).to_contain_text("Mary Somerville")
    press(page, "Sign in")
    return page


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Write no log."""
