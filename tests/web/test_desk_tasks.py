"""The data manager's tasks in a real browser, on the pages alone and by their labels."""

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from browsing import button_link, press, sign_in, url_of
from desk_door import MARY
from journeys import account_id, erase_due
from peers import text_of
from playwright.sync_api import Page, expect
from support import Service, any_database, working

from backend import clock
from backend.desk import managers
from backend.serving import worker

ADA = "ada@example.org"
POLICY = "# Privacy\n\nA name & an address. <script>alert(1)</script>\n\n## How to leave\n\n## Whom to ask\n"


@pytest.fixture
def near(serve_near: Callable[..., Service]) -> Service:
    """The service with a person who sent feedback."""
    service = serve_near()
    ada = service.register()
    service.http.post("/v1/feedback", json={"message": "Less."}, headers=ada.headers)
    return service


@pytest.fixture
def desk(near: Service, page: Page) -> Page:
    """A browser in which Mary is signed in."""
    return sign_in(page, near)


def to_ada(page: Page) -> None:
    page.get_by_role("navigation").get_by_role("link", name="People").click()
    page.get_by_label("Address or name").fill("ada")
    press(page, "Find")
    page.get_by_role("link", name=ADA).click()


def act(page: Page, link: str, button: str, /, **fields: str) -> None:
    """Follow a link of the page, fill the form in, and send it."""
    page.get_by_role("link", name=link, exact=True).click()
    for label, text in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(text)
    expect(page.get_by_role("button", name=button)).to_be_visible()  # all() does not wait for the page.
    for box in page.get_by_role("checkbox").all():
        box.check()
    press(page, button)


def fill_in_policy(page: Page, version: str, days: int) -> None:
    page.get_by_label("Name of the version").fill(version)
    page.get_by_label("First day").fill(f"{clock.now() + timedelta(days=days):%Y-%m-%d}")


def test_a_manager_does_her_nine_tasks_on_the_pages_alone(near: Service, desk: Page) -> None:
    near.register(name="Grace", email="grace@example.org")
    to_ada(desk)  # 1. find
    act(desk, "Correct the name", "Save the name", Name="Ada King")  # 2. correct
    expect(desk.get_by_role("status")).to_have_text("The name was corrected.")
    act(desk, "Stop emails about TILES", "Stop them")  # 3. unsubscribe
    expect(desk.get_by_role("main")).to_contain_text("Emails about TILESoff")
    with desk.expect_download() as download:  # 4. export
        desk.get_by_role("link", name="Everything held, as JSON").click()
    assert ADA in download.value.path().read_text()
    desk.get_by_role("link", name="Everything held, to be printed").click()
    expect(desk.get_by_role("main")).to_contain_text("Ada King")
    to_ada(desk)
    act(desk, "Close the account", "Close it")  # 5. close and reopen
    act(desk, "Open the account again", "Open it")
    expect(desk.get_by_role("status")).to_contain_text("open again")
    act(desk, "Place a legal hold", "Place the hold", Legal_basis="Order 12/26", Until="2099-01-31")  # 7. hold
    act(desk, "Disclose to an authority", "Record it", Authority="Court of Oslo", Legal_basis="Order 13")  # 8. disclose
    expect(desk.get_by_role("main")).to_contain_text("Court of Oslo")
    desk.get_by_role("link", name="Back to the person").click()
    act(desk, "Lift the legal hold", "Lift the hold")
    act(desk, "Have it erased", "Close it and have it erased")  # 6. erase
    act(desk, "Cancel the erasure", "Cancel the erasure")
    act(desk, "Erase it now", "Erase it now")
    expect(desk.get_by_role("status")).to_contain_text("being erased")
    assert erase_due(near) == 1
    near.deliver()
    publish(desk)  # 9. publish and announce
    announce_policy(desk)
    with near.app.app_context():
        while worker.deliver():
            pass
    assert "We keep two things." in text_of(near.mail_server.messages[-1])
    desk.get_by_role("link", name="Audit").click()
    expect(desk.get_by_role("main")).to_contain_text("Mary Somerville")
    desk.get_by_label("What was done").select_option("released")
    press(desk, "Show")
    desk.get_by_role("row", name=re.compile("released")).get_by_role("link").click()
    expect(desk.get_by_role("heading", level=1)).to_contain_text("An erased account")


def publish(page: Page) -> None:
    """Paste a policy, correct it, publish it, and withdraw another one."""
    page.get_by_role("link", name="Policies").click()
    page.get_by_role("link", name="Publish a new version").click()
    fill_in_policy(page, "2027-01", -1)
    page.get_by_label("Text", exact=True).fill(POLICY)
    press(page, "See it as people will")
    expect(page.get_by_role("alert")).to_contain_text("is over: name today")
    expect(page.get_by_label("Text", exact=True)).to_have_value(POLICY)
    fill_in_policy(page, "2027-01", 9)
    press(page, "See it as people will")
    expect(page.get_by_role("heading", level=1)).to_have_text("Publish version 2027-01?")
    expect(page.get_by_role("navigation", name="Contents")).to_contain_text("How to leave")
    expect(page.get_by_text("<script>alert(1)</script>")).to_be_visible()
    press(page, "Change it")
    page.get_by_label("Name of the version").fill("2027-02")
    press(page, "See it as people will")
    press(page, "Publish it")
    page.get_by_role("link", name="Withdraw version 2027-02").click()
    press(page, "Withdraw it")
    expect(page.get_by_role("row", name="2027-02")).to_contain_text("withdrawn")
    page.get_by_role("link", name="Publish a new version").click()
    fill_in_policy(page, "2027-03", 9)
    page.get_by_label("Text", exact=True).fill(POLICY + "More.")
    press(page, "See it as people will")
    press(page, "Publish it")


def announce_policy(page: Page) -> None:
    page.get_by_role("link", name="Announcements").click()
    page.get_by_role("link", name="Write an announcement").click()
    section = page.get_by_role("region", name="A version of the privacy policy")
    section.get_by_label("Version", exact=True).select_option("2027-03")
    section.get_by_label("The change is material").check()
    section.get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("Write a summary of the change")
    expect(section.get_by_label("The change is material")).to_be_checked()
    section.get_by_label("What changes, in short").fill("We keep two things.")
    section.get_by_role("button").click()
    expect(page.get_by_role("main")).to_contain_text("also those who switched emails about TILES off")
    press(page, "Email 1 person")
    expect(page.get_by_role("main")).to_contain_text("made")


@any_database
def test_an_announcement_is_written_tried_watched_and_stopped(near: Service, desk: Page) -> None:
    desk.get_by_role("link", name="Announcements").click()
    desk.get_by_role("link", name="Write an announcement").click()
    desk.get_by_label("Text").fill("Hello,\n\nTILES can do more: https://tiles.example/news\n")
    press(desk, "See it as an email")
    expect(desk.get_by_role("alert")).to_contain_text("Write a subject of one line")
    desk.get_by_label("Subject").fill("TILES can do more")
    press(desk, "See it as an email")
    press(desk, "Send one to myself")
    expect(desk.get_by_role("status")).to_contain_text(f"on its way to {MARY}")
    assert near.mail()["To"] == MARY
    press(desk, "Email 1 person")
    expect(desk.get_by_role("main")).to_contain_text("0 % made")
    desk.get_by_role("link", name="Stop it").click()
    press(desk, "Stop it")
    expect(desk.get_by_role("main")).to_contain_text("Emails that had not left are not sent")
    desk.get_by_role("link", name="Announcements").click()
    expect(desk.get_by_role("row", name="TILES can do more")).to_contain_text("stopped")
    desk.get_by_role("link", name="Write an announcement").click()
    desk.get_by_label("Subject").fill("Second")
    desk.get_by_label("Text").fill("TILES can do more.")
    press(desk, "See it as an email")
    press(desk, "Email 1 person")
    with working(near.app):
        desk.wait_for_timeout(1500)
        desk.get_by_role("link", name="Reload").click()
        expect(desk.get_by_role("main")).to_contain_text("all emails made")


@any_database
def test_a_manager_enters_a_request_of_a_person_and_answers_it(near: Service, desk: Page) -> None:
    desk.goto(f"{url_of(near)}/desk/people/{account_id(near, ADA)}")
    desk.get_by_role("link", name="Enter a request").click()
    desk.get_by_label("Correction").check()
    desk.get_by_label("Phone").check()
    desk.get_by_label("How you checked who asks").fill("Called back")
    press(desk, "Enter it")
    expect(desk.get_by_role("status")).to_have_text("The request is entered.")
    desk.get_by_role("link", name="What waits").click()
    desk.get_by_role("link", name="Correction").click()
    act(desk, "Put it off", "Put it off", Why_it_takes_longer="Many letters")
    expect(desk.get_by_role("status")).to_have_text("The request is put off.")
    act(desk, "Note the answer", "Note it", How_you_answered="Corrected the name")
    expect(desk.get_by_role("status")).to_have_text("The request is answered.")
    desk.get_by_role("link", name="What waits").click()
    expect(desk.get_by_role("link", name="Correction")).to_have_count(0)
    desk.get_by_role("link", name="Answered requests").click()
    expect(desk.get_by_role("table")).to_contain_text("Corrected the name")


@any_database
def test_a_manager_reads_feedback_replies_and_deletes_it(near: Service, desk: Page) -> None:
    near.http.post("/v1/feedback", json={"message": "<b>More</b> tiles."})
    desk.get_by_role("navigation").get_by_role("link", name="Feedback").click()
    desk.get_by_role("link", name="Less.").click()
    desk.get_by_role("link", name="Reply by email").click()
    desk.get_by_role("textbox", name="Reply").fill("Thank you.\n\nIt is noted.")
    press(desk, "Send the reply")
    expect(desk.get_by_role("status")).to_have_text("The reply is on its way.")
    assert [mail["To"] for mail in near.deliver()] == [ADA]
    press(desk, "Mark it as done")
    expect(desk.get_by_role("status")).to_have_text("The message is done.")
    act(desk, "Delete it", "Delete it for good")
    expect(desk.get_by_role("status")).to_have_text("The message is deleted.")
    desk.get_by_label("All").check()
    press(desk, "Show")
    expect(desk.get_by_role("link", name="<b>More</b> tiles.")).to_be_visible()
    expect(desk.get_by_role("link", name="Less.")).to_have_count(0)
    with desk.expect_download() as download:
        desk.get_by_role("link", name="for a spreadsheet (CSV)").click()
    assert download.value.suggested_filename == "tiles-feedback.csv"


@any_database
def test_without_javascript_a_manager_signs_in_and_every_form_works(
    near: Service, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(java_script_enabled=False)
    near.run(managers.invite, MARY, "Mary Somerville")
    page.goto(f"{url_of(near)}/desk/sign-in")
    page.get_by_label("Email address").fill(MARY)
    press(page, "Email me a link")
    page.get_by_label("Code from the email").fill(button_link(near.mail()).partition("#")[2])
    press(page, "Continue")
    press(page, "Sign in")
    page.get_by_role("link", name="Enter a request").click()
    page.get_by_label("Access").check()
    page.get_by_label("Letter").check()
    page.get_by_label("How you checked who asks").fill("Signature")
    press(page, "Enter it")
    expect(page.get_by_role("status")).to_have_text("The request is entered.")
    page.goto(f"{url_of(near)}/desk/feedback/{uuid.UUID(str(near.rows('feedback')[0]['id']))}")
    press(page, "Mark it as done")
    expect(page.get_by_role("status")).to_have_text("The message is done.")
    upload(page, near, tmp_path / "policy.md")


def upload(page: Page, service: Service, path: Path) -> None:
    """Publish a policy from a file, and send a file that is too large."""
    path.write_bytes(b"\xef\xbb\xbf" + POLICY.replace("\n", "\r\n").encode())
    page.goto(f"{url_of(service)}/desk/policies/new")
    fill_in_policy(page, "2027-01", 0)
    page.get_by_label("File").set_input_files(path)
    press(page, "See it as people will")
    expect(page.get_by_role("main")).to_contain_text("You can only publish another version in its place")
    press(page, "Publish it")
    assert service.rows("policies")[0]["text"] == POLICY
    path.write_bytes(b"x" * 2**20)
    page.goto(f"{url_of(service)}/desk/policies/new")
    page.get_by_label("File").set_input_files(path)
    press(page, "See it as people will")
    expect(page.get_by_role("main")).to_contain_text("too large")


@any_database
def test_a_foreign_page_cannot_frame_the_desk_or_send_its_forms(near: Service, desk: Page) -> None:
    url, person = url_of(near), f"/desk/people/{account_id(near, ADA)}"
    desk.goto(f"{url}{person}/close")
    expect(desk.get_by_role("main")).to_contain_text(f"An email goes to {ADA}")
    fields = desk.locator("input[type=hidden]").evaluate_all("all => all.map(each => [each.name, each.value])")
    hidden = "".join(f'<input name="{name}" value="{value}">' for name, value in fields)
    foreign = desk.context.new_page()
    form = f'<form method=post action="{url}{person}/close">{hidden}<button>x</button></form>'
    html = f'<iframe src="{url}{person}"></iframe>{form}'
    foreign.route("https://evil.example/*", lambda route: route.fulfill(body=html, content_type="text/html"))
    foreign.goto("https://evil.example/page")
    assert ADA not in "".join(frame.content() for frame in foreign.frames)
    foreign.get_by_role("button").click()
    foreign.wait_for_url(f"{url}/**")
    assert near.rows("accounts")[0]["closed_at"] is None
