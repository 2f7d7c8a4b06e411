"""The page that shows the receipt of an erasure in words, from the email's link or pasted."""

from collections.abc import Callable

from browsing import button_link, expect_heading, press, url_of, with_and_without_javascript
from journeys import close, receipt_of
from peers import text_of
from playwright.sync_api import Page, expect
from support import NOBODY, Person, Service, any_database

from backend import clock
from backend.database.inventory import tables_about_people
from backend.database.models import KEEP_RECORDS
from backend.privacy import erasure
from backend.privacy.ledger import BASIS
from backend.security import tokens
from backend.security.tokens import Purpose

ADA = "ada@example.org"
pytestmark = any_database


def erase(service: Service, ada: Person) -> None:
    close(service, ada.headers, erase=True)
    service.run(erasure.erase_due)


@with_and_without_javascript
def test_a_receipt_is_read_in_words(
    serve_near: Callable[..., Service], open_page: Callable[..., Page], *, javascript: bool
) -> None:
    service = serve_near(erasure_grace_days=0)
    ada = service.register()
    for message in ("More tiles.", "Fewer."):
        service.http.post("/v1/feedback", json={"message": message}, headers=ada.headers)
    erase(service, ada)
    mail = service.deliver()[-1]
    assert button_link(mail) == f"{url_of(service)}/erasure-receipt#{receipt_of(mail)}"
    assert not any(word in text_of(mail) for word in ("JSON", "/v1/"))
    page = open_page(java_script_enabled=javascript)
    page.goto(button_link(mail))
    if not javascript:
        page.get_by_label("Receipt from the email").fill(receipt_of(mail))
        press(page, "Continue")
    expect_heading(page, "This receipt is genuine")
    now = clock.now()
    for text in (
        f"asked for on {now.day} {now:%B %Y}",
        "1 account, with its name",
        "2 messages of feedback",
        "does not name you",
        f"until {(until := now + KEEP_RECORDS).day} {until:%B %Y} at the latest",
        "GDPR Art. 5(2)",
        "1 random number in the list of what was erased, for good",
        BASIS,
    ):
        expect(page.get_by_role("main")).to_contain_text(text)
    assert ADA not in page.content()


def test_a_receipt_is_read_again_and_again_also_from_the_page_of_another_link(
    serve_near: Callable[..., Service], page: Page
) -> None:
    service = serve_near(erasure_grace_days=0)
    erase(service, service.register())
    link = button_link(service.deliver()[-1])
    page.goto(link.replace("/erasure-receipt#", "/registration#"))
    press(page, "Go to that page")
    expect_heading(page, "This receipt is genuine")
    for _ in range(2):
        page.goto(link)
        expect_heading(page, "This receipt is genuine")
    page.goto(link[:-3])
    expect(page.get_by_role("alert")).to_contain_text("incomplete or damaged")
    expect(page.get_by_label("Receipt from the email")).to_have_attribute("aria-invalid", "true")


def test_every_store_of_a_receipt_has_a_name_in_words(service: Service) -> None:
    names = [*(table.name for table in tables_about_people()), "ledger"]
    content = {
        "account": NOBODY,
        "requested_at": None,
        "erased_at": "2026-01-02T03:04:05Z",
        "removed": [{"store": name, "rows": 2} for name in names],
        "kept": [],
    }
    receipt = service.run(tokens.issue, Purpose.RECEIPT, content)
    page = service.http.post("/erasure-receipt/look", data={"token": receipt}).text
    assert page.count("<li>2 ") == len(names)
    assert not any(f"<li>2 {name}</li>" in page for name in names if name != "accounts")
    assert "Nobody asked for the erasure" in page
