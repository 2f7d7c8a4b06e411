"""Requests and feedback at the desk in a real browser: each page and state, for everybody's eyes and hands."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from accessibility import violations
from browsing import button_link, press, url_of
from desk_door import MARY
from journeys import account_id, close, hold
from playwright.sync_api import Page, expect
from support import Service, any_database

from backend import clock
from backend.desk import feedback, managers, requests

ADA = "ada@example.org"
A_DAY = timedelta(days=1)
WIDE = "W" * 200


@pytest.fixture
def near(serve_near: Callable[..., Service]) -> Service:
    """The service with a request of each state, an erasure under a hold, and feedback with and without a reply."""
    service = serve_near()
    ada, bob = service.register(), service.register(email="bob@example.org")
    close(service, bob.headers, erase=True)
    hold(service, bob.email, clock.now() + 30 * A_DAY)
    for person, message in ((ada, "Less.\n\n" + WIDE), (None, "<b>More</b> tiles.")):
        headers = person.headers if person else None
        service.http.post("/v1/feedback", json={"message": message}, headers=headers)
    service.deliver()
    with service.app.app_context():
        managers.invite(MARY, "Mary Somerville")
        today = clock.now().date()
        for days in (0, 10, 40, 41):
            new = {"kind": "access", "way": "in person", "identity": WIDE, "received_on": today - days * A_DAY}
            request_id = requests.record(ADA if days else None, **new)
            if days == 10:
                requests.extend(request_id, reason=WIDE)
            if days == 41:
                requests.finish(request_id, outcome=WIDE)
        feedback.reply(of_feedback(service), message="Thank you.\n\n" + WIDE, after=0)
    return service


def of_feedback(service: Service) -> uuid.UUID:
    """Return the message that somebody signed in wrote."""
    return next(uuid.UUID(str(row["id"])) for row in service.rows("feedback") if row["account_id"])


@pytest.fixture
def desk(near: Service, page: Page) -> Iterator[Page]:
    """A browser in which Mary is signed in."""
    page.goto(f"{url_of(near)}/desk/sign-in")
    page.get_by_label("Email address").fill(MARY)
    press(page, "Email me a link")
    mail = next(mail for mail in near.deliver() if mail["To"] == MARY)
    page.goto(button_link(mail))
    press(page, "Sign in")
    # Otherwise the colours of the two schemes are mixed while they change.
    page.emulate_media(reduced_motion="reduce")
    return page


def assert_for_everybody(page: Page, what: str) -> None:
    """Check a page by axe in both schemes, and that no screen from the smallest phone up scrolls sideways."""
    assert violations(page) == [], what
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (what, width)


@any_database
def test_every_page_of_requests_is_for_everybody(near: Service, desk: Page) -> None:
    url = url_of(near)
    assert_for_everybody(desk, "start")
    paths = [f"/desk/requests/{uuid.UUID(str(row['id']))}" for row in near.rows("data_requests")]
    acts = [f"{paths[0]}/{act}" for act in ("extend", "done")]
    for path in ("/desk/requests/new", "/desk/requests/done", *paths, *acts):
        desk.goto(f"{url}{path}")
        assert_for_everybody(desk, path)
    press(desk, "Note it")
    expect(desk.get_by_role("alert")).to_contain_text("in one line")
    assert_for_everybody(desk, "an empty outcome")
    desk.goto(f"{url}/desk/requests/new")
    desk.get_by_label("The day on which it came").fill("31.1.2027")
    press(desk, "Enter it")
    expect(desk.get_by_role("alert")).to_contain_text("Write a day such as 2027-01-31")
    assert_for_everybody(desk, "a wrong day")


@any_database
def test_every_page_of_feedback_is_for_everybody(near: Service, desk: Page) -> None:
    url, path = url_of(near), f"/desk/feedback/{of_feedback(near)}"
    other = next(uuid.UUID(str(row["id"])) for row in near.rows("feedback") if not row["account_id"])
    pages = ("/desk/feedback", "/desk/feedback?state=done", "/desk/feedback?from=x", "/desk/feedback?after=x")
    for each in (*pages, path, f"{path}/reply", f"{path}/delete", f"/desk/feedback/{other}"):
        desk.goto(f"{url}{each}")
        assert_for_everybody(desk, each)
    desk.goto(f"{url}{path}/reply")
    press(desk, "Send the reply")
    expect(desk.get_by_role("alert")).to_contain_text("Write 1 to 4,000 characters")
    assert_for_everybody(desk, "an empty reply")


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
    desk.get_by_role("link", name="Put it off").click()
    desk.get_by_label("Why it takes longer").fill("Many letters")
    press(desk, "Put it off")
    expect(desk.get_by_role("status")).to_have_text("The request is put off.")
    desk.get_by_role("link", name="Note the answer").click()
    desk.get_by_label("How you answered").fill("Corrected the name")
    press(desk, "Note it")
    expect(desk.get_by_role("status")).to_have_text("The request is answered.")
    desk.get_by_role("link", name="What waits").click()
    expect(desk.get_by_role("link", name="Correction")).to_have_count(0)
    desk.get_by_role("link", name="Answered requests").click()
    expect(desk.get_by_role("table")).to_contain_text("Corrected the name")


def test_a_manager_reads_feedback_replies_and_deletes_it(near: Service, desk: Page) -> None:
    desk.get_by_role("navigation").get_by_role("link", name="Feedback").click()
    desk.get_by_role("link", name="Less.").click()
    desk.get_by_role("link", name="Reply by email").click()
    desk.get_by_role("textbox", name="Reply").fill("Thank you.\n\nIt is noted.")
    press(desk, "Send the reply")
    expect(desk.get_by_role("status")).to_have_text("The reply is on its way.")
    assert [mail["To"] for mail in near.deliver()] == [ADA]
    press(desk, "Mark it as done")
    expect(desk.get_by_role("status")).to_have_text("The message is done.")
    desk.get_by_role("link", name="Delete it").click()
    press(desk, "Delete it for good")
    expect(desk.get_by_role("status")).to_have_text("The message is deleted.")
    desk.get_by_label("All").check()
    press(desk, "Show")
    expect(desk.get_by_role("link", name="<b>More</b> tiles.")).to_be_visible()
    expect(desk.get_by_role("link", name="Less.")).to_have_count(0)
    with desk.expect_download() as download:
        desk.get_by_role("link", name="for a spreadsheet (CSV)").click()
    assert download.value.suggested_filename == "tiles-feedback.csv"


def test_without_javascript_every_form_works(near: Service, open_page: Callable[..., Page]) -> None:
    page = open_page(java_script_enabled=False)
    page.goto(f"{url_of(near)}/desk/sign-in")
    page.get_by_label("Email address").fill(MARY)
    press(page, "Email me a link")
    mail = next(mail for mail in near.deliver() if mail["To"] == MARY)
    page.get_by_label("Code from the email").fill(button_link(mail).partition("#")[2])
    press(page, "Continue")
    press(page, "Sign in")
    page.get_by_role("link", name="Enter a request").click()
    page.get_by_label("Access").check()
    page.get_by_label("Letter").check()
    page.get_by_label("How you checked who asks").fill("Signature")
    press(page, "Enter it")
    expect(page.get_by_role("status")).to_have_text("The request is entered.")
    page.goto(f"{url_of(near)}/desk/feedback/{of_feedback(near)}")
    press(page, "Mark it as done")
    expect(page.get_by_role("status")).to_have_text("The message is done.")
