"""The data manager's nine tasks, one after the other, on the pages alone and by what stands on them."""

from collections.abc import Callable
from datetime import timedelta

from browsing import press, sign_in
from journeys import erase_due
from playwright.sync_api import Page, expect
from support import Service, text_of

from backend import clock
from backend.serving import worker

ADA = "ada@example.org"


def to_ada(page: Page) -> None:
    page.get_by_role("navigation").get_by_role("link", name="People").click()
    page.get_by_label("Address or name").fill("ada")
    press(page, "Find")
    page.get_by_role("link", name=ADA).click()


def act(page: Page, link: str, button: str, /, **fields: str) -> None:
    """Follow a link of the person's page, fill the form in, and send it."""
    page.get_by_role("link", name=link, exact=True).click()
    for label, text in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(text)
    for box in page.get_by_role("checkbox").all():
        box.check()
    press(page, button)


def test_a_manager_does_her_nine_tasks_on_the_pages_alone(serve_near: Callable[..., Service], page: Page) -> None:
    service = serve_near()
    service.register()
    service.register(name="Grace", email="grace@example.org")
    sign_in(page, service)
    to_ada(page)  # 1. find
    act(page, "Correct the name", "Save the name", Name="Ada King")  # 2. correct
    expect(page.get_by_role("status")).to_have_text("The name was corrected.")
    act(page, "Stop emails about TILES", "Stop them")  # 3. unsubscribe
    expect(page.get_by_role("main")).to_contain_text("Emails about TILESoff")
    with page.expect_download() as download:  # 4. export
        page.get_by_role("link", name="Everything held, as JSON").click()
    assert ADA in download.value.path().read_text()
    page.get_by_role("link", name="Everything held, to be printed").click()
    expect(page.get_by_role("main")).to_contain_text("Ada King")
    to_ada(page)
    act(page, "Close the account", "Close it")  # 5. close and reopen
    act(page, "Open the account again", "Open it")
    expect(page.get_by_role("status")).to_contain_text("open again")
    act(page, "Place a legal hold", "Place the hold", Legal_basis="Order 12/26", Until="2099-01-31")  # 7. hold
    act(page, "Disclose to an authority", "Record it", Authority="Court of Oslo", Legal_basis="Order 13")  # 8. disclose
    expect(page.get_by_role("main")).to_contain_text("Court of Oslo")
    page.get_by_role("link", name="Back to the person").click()
    act(page, "Lift the legal hold", "Lift the hold")
    act(page, "Have it erased", "Close it and have it erased")  # 6. erase
    act(page, "Cancel the erasure", "Cancel the erasure")
    act(page, "Erase it now", "Erase it now")
    expect(page.get_by_role("status")).to_contain_text("being erased")
    assert erase_due(service) == 1
    service.deliver()
    publish_and_announce(page)  # 9. publish and announce
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("main")).to_contain_text("Mary Somerville")
    with service.app.app_context():
        while worker.deliver():
            pass
    assert "We keep two things." in text_of(service.mail_server.messages[-1])


def publish_and_announce(page: Page) -> None:
    page.get_by_role("link", name="Policies").click()
    page.get_by_role("link", name="Publish a new version").click()
    page.get_by_label("Name of the version").fill("2027-01")
    page.get_by_label("First day").fill(f"{clock.now() + timedelta(days=9):%Y-%m-%d}")
    page.get_by_label("Text", exact=True).fill("# Privacy\n\nA name and an address.")
    press(page, "See it as people will")
    press(page, "Publish it")
    page.get_by_role("link", name="Announcements").click()
    page.get_by_role("link", name="Write an announcement").click()
    page.get_by_label("Version", exact=True).select_option("2027-01")
    page.get_by_label("What changes, in short").fill("We keep two things.")
    page.get_by_role("button", name="See it as an email").last.click()
    press(page, "Email 1 person")
    expect(page.get_by_role("main")).to_contain_text("made")
