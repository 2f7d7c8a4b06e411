"""The pages and the mails in a real browser, against the service as it is served and links out of mails it sent."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag
from uuid import uuid4

import httpx2
import pytest
from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import Browser, Page, Request, Route, expect
from support import (
    OTHER_PASSWORD,
    PASSWORD,
    MailServer,
    ServerProcess,
    html_of,
    run_tiles,
    text_of,
    token_of,
    wait_for,
)

from backend import clock

PATHS = [
    "/",
    "/privacy",
    "/docs",
    "/problems/",
    "/problems/weak-password",
    "/registration",
    "/registration#a-code",
    "/password-reset",
    "/password-reset#a-code",
    "/email-change",
    "/email-change#a-code",
    "/email-change-undo",
    "/email-change-undo#a-code",
    "/erasure",
    "/erasure#a-code",
    "/erasure-cancel",
    "/erasure-cancel#a-code",
    "/unsubscribe/a-code",
    "/nothing-is-here",
]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
# Where the button of each mail leads; the last two have none.
BUTTONS = {
    "registration": "/registration#",
    "registration_existing": "/password-reset#",
    "password_reset": "/password-reset#",
    "password_changed": "/password-reset",
    "email_change": "/email-change#",
    "email_changed": "/email-change-undo#",
    "erasure_request": "/erasure#",
    "account_closed": "/erasure-cancel#",
    "account_reopened": "/password-reset",
    "policy_changed": "/privacy",
}
MAILS = [*BUTTONS, "announcement", "email_taken_back", "erased"]
GRACE_DAYS = 14


@dataclass
class Site:
    """The service from outside: its address, the mails that came from it, and its command line."""

    url: str
    mail_server: MailServer
    instance_path: Path

    def mail(self, email: str, number: int = 1, *, subject: str = "") -> EmailMessage:
        """Return the first, second, ... mail to an address, with a subject, as soon as it has come."""

        def arrived() -> list[EmailMessage]:
            to = [message for message in self.mail_server.messages if message["To"] == email]
            return [message for message in to if subject in message["Subject"]][number - 1 :]

        return wait_for(arrived)[0]

    def post(self, path: str, status: int, *, session: str = "", **members: object) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {session}"} if session else {}
        response = httpx2.post(f"{self.url}/v1/{path}", json=members, headers=headers)
        assert response.status_code == status, response.text
        found: dict[str, Any] = response.json() if response.content else {}
        return found

    def account(self, session: str) -> dict[str, Any]:
        response = httpx2.get(f"{self.url}/v1/account", headers={"Authorization": f"Bearer {session}"})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def tiles(self, *arguments: object) -> None:
        """Run a command on the machine of the service."""
        done = run_tiles(self.instance_path, *map(str, arguments))
        assert done.returncode == 0, done.stderr

    def ask_to_register(self, email: str, number: int = 1, *, subject: str = "") -> EmailMessage:
        self.post("registrations", 202, name="Ada Lovelace", email=email)
        return self.mail(email, number, subject=subject)

    def register(self, email: str) -> str:
        """Register, and return the token of the session that came of it."""
        return self.finish_registering(self.ask_to_register(email))

    def finish_registering(self, message: EmailMessage) -> str:
        made = self.post("registrations/confirm", 201, token=token_of(message), password=PASSWORD)
        session: str = made["session"]["token"]
        return session

    def ask_to_change_email(self, session: str, new: str, password: str = PASSWORD) -> EmailMessage:
        self.post("account/email-changes", 202, session=session, email=new, password=password)
        return self.mail(new, subject="Confirm your new")

    def close(self, email: str, session: str) -> EmailMessage:
        self.post("account/close", 200, session=session, password=PASSWORD, erase=True)
        return self.mail(email, subject="is closed")

    def announce(self, folder: Path, subject: str) -> None:
        """Mail something to everybody; return when all mails are made."""
        text = folder / "announcement.txt"
        text.write_text("TILES can do more now.\n\nSee https://tiles.example/news\nfor what it is.\n")
        self.tiles("announce", text, "--subject", subject, "--follow")


def button_link(message: EmailMessage) -> str:
    """Return where the button of a mail's HTML part leads."""
    (link,) = re.findall(r'<a class="button" href="([^"]+)"', html_of(message))
    return link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with MailServer() as mail_server:
        peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
        with ServerProcess(tmp_path_factory.mktemp("pages"), rate_limits="off", **peer) as server:
            yield Site(server.url, mail_server, server.instance_path)


@pytest.fixture
def email() -> str:
    """An address of this test alone."""
    return f"{uuid4().hex}@example.org"


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in a context of its own, with options."""
    contexts = []

    def open_page(**options: object) -> Page:
        contexts.append(browser.new_context(**options))
        return contexts[-1].new_page()

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def mails(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, EmailMessage]:
    """One mail of each kind, as it was sent."""
    folder = tmp_path_factory.mktemp("mails")
    email, new = (f"{uuid4().hex}@example.org" for _ in range(2))
    found = {"registration": site.ask_to_register(email)}
    session = site.finish_registering(found["registration"])
    found["registration_existing"] = site.ask_to_register(email, 2)
    site.announce(folder, "TILES can do more")
    found["announcement"] = site.mail(email, subject="TILES can do more")
    (folder / "policy.txt").write_text("We keep what you give us to ourselves.")
    site.tiles("policy", "publish", folder / "policy.txt", "--version", "2100-01", "--effective", "2100-01-01", "--yes")
    site.tiles("announce", "--policy", "2100-01", "--follow")
    found["policy_changed"] = site.mail(email, subject="privacy policy changes")
    found["email_change"] = site.ask_to_change_email(session, new)
    site.post("email-changes/confirm", 204, token=token_of(found["email_change"]))
    found["email_changed"] = site.mail(email, subject="address was changed")
    site.post("email-changes/undo", 204, token=token_of(found["email_changed"]))
    found["email_taken_back"] = site.mail(new, subject="earlier address")
    found["password_reset"] = site.mail(email, subject="Reset")
    site.post("password-resets/confirm", 204, token=token_of(found["password_reset"]), password=OTHER_PASSWORD)
    found["password_changed"] = site.mail(email, subject="password was changed")
    site.post("erasure-requests", 202, email=email)
    found["erasure_request"] = site.mail(email, subject="Erase")
    site.post("erasure-requests/confirm", 200, token=token_of(found["erasure_request"]))
    found["account_closed"] = site.mail(email, subject="is closed")
    site.post("erasure-requests/cancel", 204, token=token_of(found["account_closed"]))
    found["account_reopened"] = site.mail(email, subject="is open again")
    site.tiles("data", "erase", email, "--now", "--yes")
    return found | {"erased": site.mail(email, subject="have been erased")}


def create_account(page: Page, password: str = PASSWORD) -> None:
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Create my account").click()


def ask_for_reset(page: Page, email: str) -> None:
    page.get_by_label("Email address").fill(email)
    page.get_by_role("button", name="Send me a mail").click()


def change_password(page: Page) -> None:
    page.get_by_label("New password", exact=True).fill(OTHER_PASSWORD)
    page.get_by_role("button", name="Change my password").click()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def open_link(page: Page, message: EmailMessage) -> None:
    """Open the link of a mail; without JavaScript, paste the code as well."""
    page.goto(button_link(message))
    code = page.get_by_label("Code from the mail")
    if code.input_value() == "":
        code.fill(token_of(message))


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", name=text, level=1)).to_be_visible()


def requests_of(page: Page) -> list[Request]:
    """Collect what the page asks for from now on."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    page.on("request", note)
    return requests


def test_the_code_leaves_the_address_bar_at_once(site: Site, email: str, page: Page) -> None:
    message = site.ask_to_register(email)
    page.goto(button_link(message))
    assert page.url == f"{site.url}/registration"
    code = page.get_by_label("Code from the mail")
    expect(code).to_be_hidden()
    expect(code).to_have_value(token_of(message))


def test_a_password_can_be_seen_and_hidden_again(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/registration#a-code")
    password = page.get_by_label("Password", exact=True)
    password.fill(PASSWORD)
    expect(password).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show password").click()
    expect(password).to_have_attribute("type", "text")
    expect(page.get_by_text("Your password is visible")).to_have_role("status")
    page.get_by_role("button", name="Hide password").click()
    expect(password).to_have_attribute("type", "password")
    expect(password).to_have_value(PASSWORD)


def test_a_weak_password_is_explained_and_the_next_one_makes_the_account(site: Site, email: str, page: Page) -> None:
    page.goto(button_link(site.ask_to_register(email)))
    create_account(page, "aaaa")
    summary = page.get_by_role("alert")
    expect(summary).to_be_focused()
    reasons = summary.get_by_role("listitem").all_inner_texts()
    assert len(reasons) > 1
    assert [f"Error: {reason}" for reason in reasons] == page.locator("#password-error p").all_text_contents()
    password = page.get_by_label("Password", exact=True)
    expect(password).to_have_accessible_description(re.compile(re.escape(reasons[0])))
    expect(password).to_have_value("")
    expect(page.get_by_label("Code from the mail")).to_be_hidden()

    create_account(page)
    heading(page, "Your account is ready")
    site.post("sessions", 201, email=email, password=PASSWORD)


def test_a_used_link_is_refused_and_the_code_can_be_replaced(site: Site, email: str, page: Page) -> None:
    link = button_link(site.ask_to_register(email))
    for _ in range(2):
        page.goto(link)
        create_account(page)
        page.wait_for_load_state()
    expect(page.get_by_role("alert")).to_contain_text("This link or code no longer works")
    expect(page.get_by_role("alert")).to_be_focused()
    code = page.get_by_label("Code from the mail")
    expect(code).to_be_visible()
    expect(code).to_have_attribute("aria-invalid", "true")


@pytest.mark.parametrize("width", [10_000, 60])
def test_without_javascript_the_code_is_pasted_with_or_without_line_breaks(
    site: Site, email: str, open_page: Callable[..., Page], width: int
) -> None:
    code = text_of(site.ask_to_register(email)).partition("paste this code:")[2].split()[0]
    page = open_page(java_script_enabled=False)
    page.goto(f"{site.url}/registration")
    page.get_by_label("Code from the mail").fill("\n".join(re.findall(f".{{1,{width}}}", code)) + "\n")
    create_account(page)
    heading(page, "Your account is ready")
    site.post("sessions", 201, email=email, password=PASSWORD)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_forgotten_password_is_replaced(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    site.register(email)
    page = open_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/password-reset")
    ask_for_reset(page, email)
    heading(page, "Look into your mailbox")

    message = site.mail(email, 2)
    page = page.context.new_page()
    page.goto(button_link(message))
    code = page.get_by_label("Code from the mail")
    if javascript:
        assert page.url == f"{site.url}/password-reset"
        expect(code).to_be_hidden()
        expect(page.get_by_label("Email address")).to_be_hidden()
    else:
        code.fill(token_of(message))
    change_password(page)
    heading(page, "Your password is changed")
    site.post("sessions", 401, email=email, password=PASSWORD)
    site.post("sessions", 201, email=email, password=OTHER_PASSWORD)


def test_a_link_pasted_over_an_answer_is_taken(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/registration")
    create_account(page, "")
    page.goto(f"{site.url}/registration#a-code")
    expect(page.get_by_label("Code from the mail")).to_have_value("a-code")
    assert page.url == f"{site.url}/registration"


@pytest.mark.parametrize("path", ["/password-reset", "/erasure"])
def test_a_link_pasted_over_the_hint_to_the_mailbox_shows_its_page(site: Site, page: Page, path: str) -> None:
    page.goto(f"{site.url}{path}")
    ask_for_reset(page, "nobody@example.org")
    heading(page, "Look into your mailbox")
    page.goto(f"{site.url}{path}#a-code")
    code = page.get_by_label("Code from the mail")
    expect(code).to_have_value("a-code")
    expect(code).to_be_hidden()


def test_a_double_click_uses_a_link_once(site: Site, email: str, page: Page) -> None:
    page.goto(button_link(site.ask_to_register(email)))
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    sent: list[Route] = []

    def hold(route: Route) -> None:
        sent.append(route)

    page.route("**/registration", hold)
    page.get_by_role("button", name="Create my account").evaluate(
        "button => { button.click(); setTimeout(() => button.click(), 200); }"
    )
    page.wait_for_timeout(1000)
    assert len(sent) == 1
    sent[0].continue_()
    heading(page, "Your account is ready")


@pytest.mark.parametrize("javascript", [True, False])
def test_an_address_is_changed_and_taken_back(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    session, new = site.register(email), f"new-{email}"
    page = open_page(java_script_enabled=javascript)
    open_link(page, site.ask_to_change_email(session, new))
    press(page, "Use this address")
    heading(page, "Your address is changed")
    site.post("sessions", 401, email=email, password=PASSWORD)
    assert site.account(session)["email"] == new

    open_link(page, site.mail(email, subject="address was changed"))
    press(page, "Take my account back")
    heading(page, "Your account has its old address back")
    site.post("sessions", 401, email=new, password=PASSWORD)
    open_link(page, site.mail(email, subject="Reset"))
    change_password(page)
    heading(page, "Your password is changed")
    site.post("sessions", 201, email=email, password=OTHER_PASSWORD)


def test_an_address_that_got_an_account_meanwhile_is_not_taken(site: Site, email: str, page: Page) -> None:
    new = f"new-{email}"
    message = site.ask_to_change_email(site.register(email), new)
    site.finish_registering(site.ask_to_register(new, subject="Finish"))
    open_link(page, message)
    press(page, "Use this address")
    expect(page.get_by_role("alert")).to_contain_text("There is an account with this address")
    site.post("sessions", 201, email=email, password=PASSWORD)


@pytest.mark.parametrize("javascript", [True, False])
def test_an_account_is_erased_without_the_app_and_opened_again_until_then(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    site.register(email)
    page = open_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/erasure")
    ask_for_reset(page, email)
    heading(page, "Look into your mailbox")
    page = open_page(java_script_enabled=javascript)
    open_link(page, site.mail(email, subject="Erase"))
    if javascript:
        expect(page.get_by_label("Email address")).to_be_hidden()
    press(page, "Erase my account")
    heading(page, "Your account is closed")
    due = clock.now() + timedelta(days=GRACE_DAYS)
    expect(page.get_by_text(f"On {due.day} {due:%B %Y}")).to_be_visible()
    site.post("sessions", 401, email=email, password=PASSWORD)

    open_link(page, site.mail(email, subject="is closed"))
    press(page, "Open my account again")
    heading(page, "Your account is open again")
    site.post("sessions", 201, email=email, password=PASSWORD)
    page.get_by_role("link", name="Choose a new password").click()
    heading(page, "Reset your password")


def test_a_closed_account_stays_closed_when_its_address_has_a_new_one(site: Site, email: str, page: Page) -> None:
    message = site.close(email, site.register(email))
    site.finish_registering(site.ask_to_register(email, 2, subject="Finish"))
    open_link(page, message)
    press(page, "Open my account again")
    expect(page.get_by_role("alert")).to_contain_text("There is an account with this address")


@pytest.mark.parametrize("path", ["/password-reset/confirm", "/erasure/confirm"])
def test_the_second_step_loaded_from_the_address_bar_shows_both(site: Site, page: Page, path: str) -> None:
    page.goto(f"{site.url}{path}")
    assert page.url == f"{site.url}{path.removesuffix('/confirm')}"
    expect(page.get_by_label("Email address")).to_be_visible()


@pytest.fixture
def unsubscribe_link(site: Site, email: str, tmp_path: Path) -> tuple[str, str]:
    """Where an announcement lets somebody unsubscribe, and that person's session."""
    session = site.register(email)
    assert site.account(session)["email_updates"]
    subject = f"News {email[:8]}"
    site.announce(tmp_path, subject)
    message = site.mail(email, subject=subject)
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = message["List-Unsubscribe"].strip("<>")
    assert f"\n{link}\n" in text_of(message)
    assert link in html_of(message)
    return link, session


@pytest.mark.parametrize("javascript", [True, False])
def test_a_person_unsubscribes_with_one_button_and_reading_alone_does_nothing(
    site: Site, unsubscribe_link: tuple[str, str], open_page: Callable[..., Page], *, javascript: bool
) -> None:
    link, session = unsubscribe_link
    page = open_page(java_script_enabled=javascript)
    page.goto(link)
    assert httpx2.head(link).status_code == 200
    assert site.account(session)["email_updates"]
    for _ in range(2):
        page.goto(link)
        press(page, "Unsubscribe")
        heading(page, "You are unsubscribed")
        assert not site.account(session)["email_updates"]


def test_a_mail_program_unsubscribes_with_one_click(site: Site, unsubscribe_link: tuple[str, str]) -> None:
    link, session = unsubscribe_link
    for _ in range(2):
        response = httpx2.post(
            link,
            data={"List-Unsubscribe": "One-Click"},
            headers={"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        )
        assert response.status_code == 200
        assert "Set-Cookie" not in response.headers
        assert not site.account(session)["email_updates"]


def test_the_link_to_unsubscribe_is_told_to_nobody(site: Site, page: Page) -> None:
    requests = requests_of(page)
    for press_it, leave_by in [(False, "Privacy"), (True, "TILES accounts")]:
        page.goto(f"{site.url}/unsubscribe/a-code")
        assert page.locator("meta[name=robots]").get_attribute("content") == "noindex"
        if press_it:
            press(page, "Unsubscribe")
            expect(page.get_by_role("alert")).to_contain_text("Open it from the mail again")
        page.get_by_role("link", name=leave_by, exact=True).click()
        page.wait_for_load_state()
    others = [request for request in requests if "a-code" not in request.url]
    assert len(others) >= 4
    for request in others:
        assert request.url.startswith(f"{site.url}/")
        assert "a-code" not in f"{request.all_headers()}"


def test_app_stores_find_how_to_erase_an_account(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/")
    page.get_by_role("main").get_by_role("link", name="Erase my account").click()
    heading(page, "Erase your TILES account")
    assert page.locator("meta[name=robots]").count() == 0
    for text in (
        "You do not need the app",
        "What is erased",
        "an address that the account had within the last 72 hours",
        "mails to you that wait to be sent",
        "legal holds",
        "closed accounts that had the same address",
        "What is kept",
        "Copies in backups",
        f"{GRACE_DAYS} days after you confirm",
    ):
        expect(page.get_by_text(text).first).to_be_visible()


def test_an_unknown_address_is_answered_with_the_very_same_page(site: Site, email: str, page: Page) -> None:
    site.register(email)
    shown = []
    for address in (email, "nobody@example.org"):
        page.goto(f"{site.url}/password-reset")
        ask_for_reset(page, address)
        heading(page, "Look into your mailbox")
        shown.append(page.content())
    assert shown[0] == shown[1]


def test_no_code_is_sent_in_an_address_and_nothing_is_kept_or_asked_elsewhere(
    site: Site, email: str, page: Page
) -> None:
    requests = requests_of(page)

    def nothing_is_kept() -> None:
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
        assert page.context.cookies() == []

    registration = site.ask_to_register(email)
    page.goto(button_link(registration))
    nothing_is_kept()
    create_account(page)
    heading(page, "Your account is ready")
    nothing_is_kept()
    page.goto(f"{site.url}/password-reset")
    ask_for_reset(page, email)
    reset = site.mail(email, 2)
    page.goto(button_link(reset))
    change_password(page)
    heading(page, "Your password is changed")
    nothing_is_kept()

    posted = [request.url.removeprefix(site.url) for request in requests if request.method == "POST"]
    assert posted == ["/registration", "/password-reset", "/password-reset/confirm"]
    for request in requests:
        assert request.url.startswith(f"{site.url}/")
        for token in (token_of(registration), token_of(reset)):
            assert token not in f"{urldefrag(request.url).url} {request.all_headers()}"


def test_an_address_that_is_none_is_explained_beside_its_field_and_kept(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/password-reset")
    ask_for_reset(page, "ada at example.org")
    field = page.get_by_label("Email address")
    expect(field).to_have_value("ada at example.org")
    expect(field).to_have_attribute("aria-invalid", "true")
    (reason,) = page.get_by_role("alert").get_by_role("listitem").all_inner_texts()
    expect(page.locator("#email-field .error")).to_have_text(f"Error: {reason}")
    expect(field).to_have_accessible_description(re.compile(re.escape(reason)))


def test_a_wrong_address_shows_a_page(site: Site, page: Page) -> None:
    response = page.goto(f"{site.url}/nothing-is-here")
    assert response
    assert response.status == 404
    assert response.headers["content-type"].startswith("text/html")
    heading(page, "Nothing is here")


@pytest.mark.parametrize("path", PATHS)
def test_no_page_scrolls_sideways(site: Site, page: Page, path: str) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{site.url}{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.fixture
def examine(open_page: Callable[..., Page]) -> Callable[..., None]:
    """Show something, and have axe-core find nothing in it, light and dark, on a phone and on a desk."""

    def examine(show: Callable[[Page], object], *, without: tuple[str, ...] = ()) -> None:
        # The policy of the pages would refuse axe-core, and a colour that still fades has the contrast of neither.
        page = open_page(bypass_csp=True, reduced_motion="reduce")
        show(page)
        page.evaluate(AXE_SCRIPT)
        options = {"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in without}}
        for scheme in ("light", "dark"):
            for size in (PHONE, DESKTOP):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size(size)
                results = AxeResults(page.evaluate("options => axe.run(options)", options))
                assert results.response["passes"]
                assert results.violations_count == 0, f"{scheme} {size} {results.generate_report()}"

    return examine


@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_accessible(site: Site, path: str, examine: Callable[..., None]) -> None:
    examine(lambda page: page.goto(f"{site.url}{path}"))


def test_every_answer_to_a_form_is_accessible(site: Site, examine: Callable[..., None]) -> None:
    def weak(page: Page) -> None:
        page.goto(f"{site.url}/registration")
        create_account(page, "")
        expect(page.get_by_role("alert")).to_be_visible()

    def refused(page: Page) -> None:
        page.goto(f"{site.url}/password-reset#a-code")
        change_password(page)
        expect(page.get_by_role("alert")).to_be_visible()

    for show in (weak, refused):
        examine(show)


REFUSED = {
    "/email-change": "Use this address",
    "/email-change-undo": "Take my account back",
    "/erasure": "Erase my account",
    "/erasure-cancel": "Open my account again",
}


@pytest.mark.parametrize("path", REFUSED)
def test_a_link_that_does_not_work_is_refused_accessibly(site: Site, path: str, examine: Callable[..., None]) -> None:
    def refused(page: Page) -> None:
        page.goto(f"{site.url}{path}#a-code")
        press(page, REFUSED[path])
        expect(page.get_by_role("alert")).to_contain_text("This link or code no longer works")
        expect(page.get_by_label("Code from the mail")).to_have_value("a-code")

    examine(refused)


def test_what_a_button_did_is_told_accessibly(site: Site, examine: Callable[..., None]) -> None:
    email = f"{uuid4().hex}@example.org"
    session = site.register(email)
    confirm = site.ask_to_change_email(session, f"new-{email}")

    def changed(page: Page) -> None:
        open_link(page, confirm)
        press(page, "Use this address")
        heading(page, "Your address is changed")

    def taken_back(page: Page) -> None:
        open_link(page, site.mail(email, subject="address was changed"))
        press(page, "Take my account back")
        heading(page, "Your account has its old address back")

    def closed(page: Page) -> None:
        site.post("erasure-requests", 202, email=email)
        open_link(page, site.mail(email, subject="Erase"))
        press(page, "Erase my account")
        heading(page, "Your account is closed")

    def opened(page: Page) -> None:
        open_link(page, site.mail(email, subject="is closed"))
        press(page, "Open my account again")
        heading(page, "Your account is open again")

    for show in (changed, taken_back, closed, opened):
        examine(show)


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_is_accessible(mails: dict[str, EmailMessage], name: str, examine: Callable[..., None]) -> None:
    # Landmarks are the mail program's: it shows a mail as a part of its own page.
    examine(lambda page: page.set_content(html_of(mails[name])), without=("landmark-one-main", "region"))


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_asks_for_nothing_and_fits_a_phone(mails: dict[str, EmailMessage], name: str, page: Page) -> None:
    requests = requests_of(page)
    page.set_viewport_size({"width": 360, "height": 640})
    page.set_content(html_of(mails[name]))
    assert page.locator("img, link, script, iframe, [src], [srcset], [background]").count() == 0
    assert "url(" not in html_of(mails[name])
    assert requests == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_names_nobody_and_its_links_stand_alone(mails: dict[str, EmailMessage], name: str) -> None:
    parts = [text_of(mails[name]), html_of(mails[name])]
    assert not any("Ada" in part or "@example.org" in part for part in parts)
    told = [line for line in text_of(mails[name]).splitlines() if "://" in line and "tiles.example" not in line]
    assert told
    assert [line for line in told if " " in line] == []
    too_long = [line for line in text_of(mails[name]).splitlines() if " " in line and len(line) > 78]
    assert too_long == []


@pytest.mark.parametrize("name", BUTTONS)
def test_the_button_of_a_mail_leads_where_its_text_leads(site: Site, mails: dict[str, EmailMessage], name: str) -> None:
    link = re.findall(r"^https?://\S+$", text_of(mails[name]), re.MULTILINE)[0]
    assert button_link(mails[name]) == link
    assert link.startswith(f"{site.url}{BUTTONS[name]}")
