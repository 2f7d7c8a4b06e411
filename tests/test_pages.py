"""The pages and the mails in a real browser, against the service as it is served and links out of mails it sent."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import urldefrag
from uuid import uuid4

import httpx2
import pytest
from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import Browser, Page, Request, expect
from support import OTHER_PASSWORD, PASSWORD, MailServer, ServerProcess, html_of, text_of, token_of, wait_for

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
    "/nothing-is-here",
]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
MAILS = ["registration", "registration_existing", "password_reset", "password_changed"]


@dataclass
class Site:
    """The service from outside: its address, and the mails that came from it."""

    url: str
    mail_server: MailServer

    def mail(self, email: str, number: int = 1) -> EmailMessage:
        """Return the first, second, ... mail to an address as soon as it has come."""

        def arrived() -> list[EmailMessage]:
            return [message for message in self.mail_server.messages if message["To"] == email][number - 1 :]

        return wait_for(arrived)[0]

    def post(self, path: str, status: int, **members: str) -> None:
        response = httpx2.post(f"{self.url}/v1/{path}", json=members)
        assert response.status_code == status, response.text

    def ask_to_register(self, email: str, number: int = 1) -> EmailMessage:
        self.post("registrations", 202, name="Ada Lovelace", email=email)
        return self.mail(email, number)

    def register(self, email: str) -> None:
        token = token_of(self.ask_to_register(email))
        self.post("registrations/confirm", 201, token=token, password=PASSWORD)


def button_link(message: EmailMessage) -> str:
    """Return where the button of a mail's HTML part leads."""
    (link,) = re.findall(r'<a class="button" href="([^"]+)"', html_of(message))
    return link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with MailServer() as mail_server:
        peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
        with ServerProcess(tmp_path_factory.mktemp("pages"), rate_limits="off", **peer) as server:
            yield Site(server.url, mail_server)


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
def mails(site: Site) -> dict[str, EmailMessage]:
    """One mail of each kind, as it was sent."""
    email = f"{uuid4().hex}@example.org"
    first = site.ask_to_register(email)
    site.post("registrations/confirm", 201, token=token_of(first), password=PASSWORD)
    existing = site.ask_to_register(email, 2)
    site.post("password-resets", 202, email=email)
    reset = site.mail(email, 3)
    site.post("password-resets/confirm", 204, token=token_of(reset), password=OTHER_PASSWORD)
    return dict(zip(MAILS, [first, existing, reset, site.mail(email, 4)], strict=True))


def create_account(page: Page, password: str = PASSWORD) -> None:
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Create my account").click()


def ask_for_reset(page: Page, email: str) -> None:
    page.get_by_label("Email address").fill(email)
    page.get_by_role("button", name="Send me a mail").click()


def change_password(page: Page) -> None:
    page.get_by_label("New password", exact=True).fill(OTHER_PASSWORD)
    page.get_by_role("button", name="Change my password").click()


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
    page.goto(f"{site.url}/password-reset")
    ask_for_reset(page, "nobody@example.org")
    heading(page, "Look into your mailbox")
    page.goto(f"{site.url}/password-reset#a-code")
    expect(page.get_by_label("New password", exact=True)).to_be_visible()
    expect(page.get_by_label("Code from the mail")).to_have_value("a-code")
    assert page.url.rstrip("?") == f"{site.url}/password-reset"


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

    def done(page: Page) -> None:
        page.goto(f"{site.url}/password-reset")
        ask_for_reset(page, "nobody@example.org")
        heading(page, "Look into your mailbox")

    for show in (weak, refused, done):
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
def test_the_button_of_a_mail_leads_where_its_text_leads(site: Site, mails: dict[str, EmailMessage], name: str) -> None:
    link = re.findall(r"^https?://\S+$", text_of(mails[name]), re.MULTILINE)[0]
    assert button_link(mails[name]) == link
    assert link.startswith(f"{site.url}/registration#" if name == "registration" else f"{site.url}/password-reset")
