"""Attacks that need a real browser: a scanner that runs scripts, a page that frames ours, a page that sends our forms.

Each test is named after its attack; `docs/threats.md` says who wants what, and what stops them.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from playwright.sync_api import Page, expect
from support import PASSWORD, MailServer, ServerProcess, text_of, wait_for

FORMS = ["/registration", "/password-reset", "/email-change", "/email-change-undo", "/erasure", "/erasure-cancel"]


@dataclass
class Site:
    """The service as it is served, and the mails that came from it."""

    url: str
    mail_server: MailServer

    def post(self, path: str, **members: str) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/{path}", json=members)

    def link(self, email: str, page: str) -> str:
        """Return the link to a page that an address was mailed, as soon as it has come."""

        def arrived() -> list[str]:
            mails = [message for message in self.mail_server.messages if message["To"] == email]
            return [word for mail in mails for word in text_of(mail).split() if word.startswith(f"{self.url}/{page}#")]

        return wait_for(arrived)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with MailServer() as mail_server:
        peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
        with ServerProcess(tmp_path_factory.mktemp("threats"), rate_limits="off", **peer) as server:
            yield Site(server.url, mail_server)


@pytest.fixture
def email() -> str:
    """An address of this test alone."""
    return f"{uuid4().hex}@example.org"


@pytest.fixture
def evil_site() -> Iterator[Callable[[str], str]]:
    """Serve a page from another site; return its address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(content: str) -> str:
        class Evil(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Evil))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        # For a browser `localhost` is another site than 127.0.0.1.
        return f"http://localhost:{servers[-1].server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def register(site: Site, email: str) -> None:
    assert site.post("registrations", name="Ada", email=email).status_code == 202
    token = site.link(email, "registration").partition("#")[2]
    assert site.post("registrations/confirm", token=token, password=PASSWORD).status_code == 201


def scan(page: Page, link: str) -> None:
    """Open a link as a scanner does that runs a browser, twice, and go away."""
    for _ in range(2):
        page.goto(link)
        page.wait_for_load_state("networkidle")
        page.goto("about:blank")


def test_a_mail_scanner_that_runs_scripts_burns_no_link(site: Site, email: str, page: Page) -> None:
    assert site.post("registrations", name="Ada", email=email).status_code == 202
    for ask, kind, confirm, more in (
        ("password-resets", "registration", "registrations/confirm", {"password": PASSWORD}),
        ("erasure-requests", "password-reset", "password-resets/confirm", {"password": PASSWORD}),
        ("password-resets", "erasure", "erasure-requests/confirm", {}),
    ):
        link = site.link(email, kind)
        scan(page, link)
        done = site.post(confirm, token=link.partition("#")[2], **more)
        assert done.status_code in {200, 201, 204}, done.text
        assert site.post(ask, email=email).status_code == 202


def test_clickjacking_shows_an_empty_frame(site: Site, page: Page, evil_site: Callable[[str], str]) -> None:
    frames = "".join(f'<iframe src="{site.url}{path}#a-code"></iframe>' for path in FORMS)
    # In a page of its own: the browser complains in its console, as it should.
    attacked = page.context.new_page()
    attacked.goto(evil_site(f"<title>Win</title>{frames}"))
    attacked.wait_for_load_state("networkidle")
    assert len(attacked.frames) == 1 + len(FORMS)
    for frame in attacked.frames[1:]:
        assert frame.url.startswith("chrome-error://")
        assert frame.locator("form").count() == 0


def test_cross_site_request_forgery_by_a_real_browser_mails_nobody(
    site: Site, email: str, page: Page, evil_site: Callable[[str], str]
) -> None:
    register(site, email)
    before = len(site.mail_server.messages)
    for path in ("/password-reset", "/erasure"):
        form = f'<form method="post" action="{site.url}{path}"><input name="email" value="{email}"></form>'
        attacked = page.context.new_page()
        with attacked.expect_response(f"{site.url}{path}") as answered:
            attacked.goto(evil_site(f"{form}<script>document.forms[0].submit()</script>"))
        assert answered.value.status == 422
    # What was not refused would have come before this.
    assert site.post("password-resets", email=email).status_code == 202
    site.link(email, "password-reset")
    assert len(site.mail_server.messages) == before + 1


def test_a_password_field_is_masked_takes_a_paste_and_welcomes_a_password_manager(site: Site, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    long = "quiet lemon gravel piano " * 8
    for path, label in (("/registration#a-code", "Password"), ("/password-reset#a-code", "New password")):
        page.goto(f"{site.url}{path}")
        field = page.get_by_label(label, exact=True)
        assert field.get_attribute("type") == "password"
        assert field.get_attribute("autocomplete") == "new-password"
        page.evaluate("text => navigator.clipboard.writeText(text)", long)
        field.focus()
        page.keyboard.press("Control+V")
        expect(field).to_have_value(long)
