"""Attacks on the pages in a real browser: a scanner that runs scripts, frames, forms of another site, leaking codes."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urldefrag

import pytest
from browsing import (
    Site,
    ask_for_mail,
    button_link,
    change_password,
    create_account,
    expect_heading,
    press,
    requests_of,
)
from peers import token_of
from playwright.sync_api import Page, expect
from support import PASSWORD

FORMS = ["/registration", "/password-reset", "/email-change", "/email-change-undo", "/erasure", "/erasure-cancel"]


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
        # A browser takes `localhost` for another site than 127.0.0.1.
        return f"http://localhost:{servers[-1].server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def scan(page: Page, link: str) -> None:
    """Open a link twice, as a scanner with a browser does."""
    for _ in range(2):
        page.goto(link)
        page.wait_for_load_state("networkidle")
        page.goto("about:blank")


def test_a_mail_scanner_that_runs_scripts_burns_no_link(site: Site, email: str, page: Page) -> None:
    registration = site.ask_to_register(email)
    scan(page, button_link(registration))
    site.finish_registering(registration)
    for ask, subject, status, fields in (
        ("password-resets", "Reset", 204, {"password": PASSWORD}),
        ("erasure-requests", "Erase", 200, {}),
    ):
        site.post(ask, 202, email=email)
        message = site.mail(email, subject=subject)
        scan(page, button_link(message))
        site.post(f"{ask}/confirm", status, token=token_of(message), **fields)


def test_clickjacking_shows_an_empty_frame(site: Site, page: Page, evil_site: Callable[[str], str]) -> None:
    frames = "".join(f'<iframe src="{site.url}{path}#a-code"></iframe>' for path in FORMS)
    # In a separate page, because the browser logs an error in its console.
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
    site.register(email)
    for path in ("/password-reset", "/erasure"):
        form = f'<form method="post" action="{site.url}{path}"><input name="email" value="{email}"></form>'
        attacked = page.context.new_page()
        with attacked.expect_response(f"{site.url}{path}") as response:
            attacked.goto(evil_site(f"{form}<script>document.forms[0].submit()</script>"))
        assert response.value.status == 422
    # An email of a forged request would arrive before this one.
    site.post("password-resets", 202, email=email)
    site.mail(email, subject="Reset")
    assert len([message for message in site.mail_server.messages if message["To"] == email]) == 2


def test_the_unsubscribe_link_reaches_no_other_page(site: Site, page: Page) -> None:
    requests = requests_of(page)
    for press_it, leave_by in [(False, "Privacy"), (True, "TILES accounts")]:
        page.goto(f"{site.url}/unsubscribe/a-code")
        assert page.locator("meta[name=robots]").get_attribute("content") == "noindex"
        if press_it:
            press(page, "Unsubscribe")
            expect(page.get_by_role("alert")).to_contain_text("Open it from the email again")
        page.get_by_role("link", name=leave_by, exact=True).click()
        page.wait_for_load_state()
    others = [request for request in requests if "a-code" not in request.url]
    assert len(others) >= 4
    for request in others:
        assert request.url.startswith(f"{site.url}/")
        assert "a-code" not in f"{request.all_headers()}"


def test_no_url_contains_a_code_and_the_browser_stores_nothing(site: Site, email: str, page: Page) -> None:
    requests = requests_of(page)

    def expect_nothing_kept() -> None:
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
        assert page.context.cookies() == []

    registration = site.ask_to_register(email)
    page.goto(button_link(registration))
    expect_nothing_kept()
    create_account(page)
    expect_heading(page, "Your account is ready")
    expect_nothing_kept()
    page.goto(f"{site.url}/password-reset")
    ask_for_mail(page, email)
    reset = site.mail(email, 2)
    page.goto(button_link(reset))
    change_password(page)
    expect_heading(page, "Your password is changed")
    expect_nothing_kept()
    posted = [request.url.removeprefix(site.url) for request in requests if request.method == "POST"]
    assert posted == ["/registration/look", "/registration", "/password-reset", "/password-reset/look",
                      "/password-reset/confirm"]  # fmt: skip
    for request in requests:
        assert request.url.startswith(f"{site.url}/")
        for token in (token_of(registration), token_of(reset)):
            assert token not in f"{urldefrag(request.url).url} {request.all_headers()}"
