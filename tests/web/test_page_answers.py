"""Every page and every response to a form: it has no inline code, and it is accessible."""

import re
from contextlib import suppress
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
from accessibility import looks
from journeys import (
    ERASED,
    MakeService,
    MoveClock,
    ask_for_email_change,
    ask_for_erasure,
    closed_by,
    hold,
    receipt_of,
    the_mail,
    undo_link,
)
from playwright.sync_api import Browser
from support import OTHER_PASSWORD, PASSWORD, Service, any_database
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from backend import clock
from backend.database import engine
from backend.desk import operations as desk
from backend.errors import problems
from backend.mail.news import News
from backend.privacy import announcements, erasure, policy
from backend.serving import worker

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LINKS = {"href", "src", "action", "formaction", "srcset", "data"}


TOKEN_PAGES = ["/registration", "/password-reset", "/email-change", "/email-change-undo", "/erasure", "/erasure-cancel",
               "/erasure-receipt"]  # fmt: skip


POLICY = """# Our policy

We keep it to ourselves.

## What

- a name

| what | why | for how long | who reads it | where it is from |
|---|---|---|---|---|
| averylongwordinacellofatable | anotherverylongwordinacell | yetanotherlongword | nobodywhatever | the person |

### When

Always, <b>also</b> then.
"""


class Pages:
    """The responses to a browser, by name."""

    def __init__(self) -> None:
        self.responses: dict[str, TestResponse] = {}
        self.rules: set[tuple[str, str]] = set()

    def open(self, name: str, service: Service, path: str, status: int, **options: Any) -> None:
        headers = BROWSER | options.pop("headers", {})
        response = service.http.open(path, headers=headers, buffered=True, **options)
        assert (response.status_code, response.mimetype) == (status, "text/html"), f"{name}: {response.text}"
        assert name not in self.responses
        self.responses[name] = response
        method = options.get("method", "GET")
        with suppress(HTTPException):
            rule, _ = service.app.url_map.bind("").match(path, method=method, return_rule=True)
            self.rules.add((method, rule.rule))

    def get(self, service: Service, path: str, status: int = 200) -> None:
        self.open(path, service, path, status)

    def send(self, name: str, service: Service, path: str, status: int = 200, **fields: str) -> None:
        self.open(f"{path}: {name}", service, path, status, method="POST", data=fields)


def every_page(service: Service, pages: Pages) -> None:
    """Open every page."""
    with service.app.app_context():
        today = clock.now().date()
        for number, text in enumerate((POLICY, "We keep even less.")):
            policy.publish(version=f"2026-{number}", effective_on=today + timedelta(days=30 * number), text=text)
    looks = [f"{path}/look" for path in TOKEN_PAGES]
    for path in ("/", "/privacy", "/docs", "/problems/", *(f"/problems/{code}" for code in problems()), *TOKEN_PAGES,
                 *looks, "/unsubscribe/a-code", "/privacy/2026-0", "/privacy/2026-1"):  # fmt: skip
        pages.get(service, path)


def every_form(service: Service, pages: Pages) -> None:
    """Send every form so that it is refused, and so that it works."""
    for path in ("/registration", "/password-reset/confirm"):
        pages.send("a code that does not work", service, path, 400, token="a-code", password=PASSWORD)
    for path in ("/email-change", "/email-change-undo", "/erasure/confirm", "/erasure-cancel", "/unsubscribe/a-code"):
        pages.send("a code that does not work", service, path, 400, token="a-code")
    for path in TOKEN_PAGES:
        pages.send("a code that does not work", service, f"{path}/look", 400, token="a-code")
    pages.send("a code that does not work", service, "/registration/again", 400, token="a-code", email="a@example.org")
    for path in ("/password-reset", "/erasure"):
        pages.send("no address", service, path, 422, email="ada at example.org")
        pages.send("asked", service, path, email="nobody@example.org")
    service.deliver()
    token = service.ask_to_register()
    pages.send("a link that works", service, "/registration/look", token=token)
    pages.send("a code of another page", service, "/erasure/look", token=token)
    pages.send("a weak password", service, "/registration", 422, token=token, password="aaaa")
    pages.send("done", service, "/registration", token=token, password=PASSWORD)
    reset = service.ask_for_reset()
    pages.send("a link that works", service, "/password-reset/look", token=reset)
    pages.send("done", service, "/password-reset/confirm", token=reset, password=OTHER_PASSWORD)
    service.deliver()
    for path, used in (("/registration", token), ("/password-reset", reset)):
        pages.send("a used link", service, f"{path}/look", token=used)


def every_link(service: Service, pages: Pages) -> None:
    """Press the button behind every mailed link, also after a conflicting change."""
    names = ("bob", "carl", "dora", "eve", "fay")
    bob, carl, dora, eve, fay = (service.register(email=f"{name}@example.org") for name in names)
    token = ask_for_email_change(service, bob.headers, carl.email.replace("carl", "grace"))
    service.register(email="grace@example.org")
    pages.send("taken meanwhile", service, "/email-change", 409, token=token)
    changed = ask_for_email_change(service, bob.headers, "robert@example.org")
    pages.send("done", service, "/email-change", token=changed)
    service.deliver()
    back = undo_link(service, carl.headers, carl.email, "charles@example.org")
    pages.send("done", service, "/email-change-undo", token=back)
    service.deliver()
    pages.send("done", service, "/erasure/confirm", token=ask_for_erasure(service, dora.email))
    hold(service, eve.email, clock.now() + timedelta(days=99))
    pages.send("held", service, "/erasure/confirm", token=ask_for_erasure(service, eve.email))
    service.deliver()
    opened = closed_by(service, fay.headers, fay.email)
    pages.send("done", service, "/erasure-cancel", token=opened)
    service.deliver()
    with service.app.app_context():
        announcements.announce(News("News", "New tiles are here."))
        while worker.deliver():
            pass
    links = [message["List-Unsubscribe"] for message in service.mail_server.messages if message["List-Unsubscribe"]]
    link = urlsplit(links[-1].strip("<>")).path
    pages.send("done", service, link)
    # An email program sends the form from its own page.
    foreign = {"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    form = {"List-Unsubscribe": "One-Click"}
    pages.open("unsubscribed from elsewhere", service, link, 200, method="POST", data=form, headers=foreign)


def every_late_link(service: Service, move_clock: MoveClock, pages: Pages) -> None:
    """Look at links after their time, and at a receipt."""
    reset, token = service.ask_for_reset(), service.ask_to_register(email="late@example.org")
    move_clock(timedelta(hours=25))
    pages.send("an expired link", service, "/registration/look", token=token)
    pages.send("an expired link", service, "/password-reset/look", token=reset)
    pages.send("another link", service, "/registration/again", token=token, email="late@example.org")
    pages.send("no address", service, "/registration/again", 422, token=token, email="late")
    with service.app.app_context():
        desk.erase("grace@example.org", at_once=True)
        erasure.erase_due()
    receipt = receipt_of(the_mail(service.deliver(), "grace@example.org", ERASED))
    pages.send("genuine", service, "/erasure-receipt/look", token=receipt)


def every_error(service: Service, make_service: MakeService, pages: Pages) -> None:
    """Open a page for every kind of error."""
    pages.get(service, "/nothing-is-here", 404)
    pages.open("wrong method", service, "/privacy", 405, method="POST")
    pages.send("too long", service, "/registration", 413, token="a" * 17_000)
    foreign = {"Sec-Fetch-Site": "cross-site"}
    pages.open("another site", service, "/password-reset", 422, method="POST", data={"email": ""}, headers=foreign)
    strict = make_service(rate_limits="token/client=1/hour")
    for status in (400, 429):
        pages.send(f"status {status}", strict, "/email-change", status, token="a-code")
    with service.app.app_context():
        engine.Base.metadata.drop_all(engine.db.engine)
    pages.send("no database", service, "/password-reset", 503, email="ada@example.org")


@pytest.fixture
def pages(service: Service, make_service: MakeService, move_clock: MoveClock) -> Pages:
    """Every page that a browser can get."""
    pages = Pages()
    every_page(service, pages)
    every_form(service, pages)
    every_link(service, pages)
    every_late_link(service, move_clock, pages)
    every_error(service, make_service, pages)
    return pages


class Parts(HTMLParser):
    """The links of a page, and its scripts and styles that are not loaded from a file."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name in LINKS}
        self.inline += [f"{tag} {name}" for name in names if name in {"style", "srcdoc"} or name.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in names) else []


@any_database
def test_a_page_needs_no_outside_host_and_nothing_inline(service: Service, pages: Pages, browser: Browser) -> None:
    for name, response in pages.responses.items():
        parts = Parts(response.text)
        assert parts.inline == [], name
        # An empty action is the page itself.
        assert all(re.match(r"/(?!/)|#|$", link) for link in parts.links), name
    redirects_and_data = {"pages.change_password", "pages.security_txt", "pages.apple_app_site_association",
                          "pages.assetlinks", "links.last_step"}  # fmt: skip
    rules = {
        (method, rule.rule)
        for rule in service.app.url_map.iter_rules()
        for method in (rule.methods or set()) & {"GET", "POST"}
        if rule.endpoint.startswith(("pages.", "links."))
        and rule.endpoint not in redirects_and_data
        and "#" not in rule.rule
    }
    assert rules - pages.rules == {("GET", "/problems")}
    names = ("/registration#a-code", "/registration: a weak password", "/nothing-is-here")
    assert looks(browser, {name: pages.responses[name.partition("#")[0]] for name in names}) == {}


@pytest.mark.parametrize(
    ("path", "shown_at"),
    [
        # A reload of a later step.
        ("/password-reset/confirm", "/password-reset"),
        ("/erasure/confirm", "/erasure"),
        ("/registration/look", "/registration/look"),
        # A link that an email program has mangled.
        ("/registration%23a-code", "/registration"),
        ("/password-reset%23a-code", "/password-reset"),
        ("/erasure-cancel%23a-code", "/erasure-cancel"),
    ],
)
def test_a_later_step_and_a_mangled_link_show_the_field_for_the_code(
    shared_service: Service, path: str, shown_at: str
) -> None:
    response = shared_service.http.get(path, follow_redirects=True)
    assert response.request.path == shown_at
    assert re.findall(r"<label [^>]*>\s*Code from the email", response.text) != []


@any_database
def test_every_link_of_a_page_leads_somewhere(service: Service) -> None:
    texts: dict[str, str] = {}

    def text_of_page(path: str) -> str:
        if path not in texts:
            with service.http.get(path, follow_redirects=True) as response:
                assert response.status_code == 200, path
                texts[path] = response.text
        return texts[path]

    for path in ("/", "/privacy", "/docs", "/problems/", "/problems/not-found", *TOKEN_PAGES):
        for link in Parts(text_of_page(path)).links:
            target, _, anchor = link.partition("#")
            assert f'id="{anchor}"' in text_of_page(target or path) or not anchor, link


@any_database
@pytest.mark.long
def test_every_page_and_every_response_to_a_form_is_accessible(pages: Pages, browser: Browser) -> None:
    assert len(pages.responses) >= 50
    # The pages of problems differ in their words only.
    shown_once = {name: response for name, response in pages.responses.items() if not name.startswith("/problems/")}
    names = ["/problems/", "/problems/overloaded", *(f"{path}#a-code" for path in TOKEN_PAGES)]
    assert looks(browser, shown_once | {name: pages.responses[name.partition("#")[0]] for name in names}) == {}
