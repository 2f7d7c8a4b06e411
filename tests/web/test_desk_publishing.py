"""Publishing, announcing and the audit at the desk in a real browser, for everybody's eyes and hands."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from accessibility import is_wide, violations
from browsing import press, sign_in, url_of
from playwright.sync_api import Page, expect
from support import Service, text_of, working

from backend import clock
from backend.mail.news import News
from backend.privacy import announcements, policy

POLICY = """# What we store

Your name & your email address. <script>alert(1)</script>

| what | how long |
|---|---|
| name | as long as the account |

[Ours](https://tiles.example) and [not a link](javascript:alert(1))

## How to leave

Averyveryveryveryveryveryveryveryveryveryveryveryveryveryveryverylongword.

## Whom to ask

The data manager.
"""
NEWS = "Hello,\n\nTILES can do more: https://tiles.example/news\n"
SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture
def near(serve_near: Callable[..., Service]) -> Service:
    service = serve_near()
    service.register()
    return service


@pytest.fixture
def desk(near: Service, page: Page) -> Page:
    """A browser in which Mary is signed in."""
    # Otherwise the colours of the two schemes are mixed while they change.
    page.emulate_media(reduced_motion="reduce")
    sign_in(page, near).goto(f"{url_of(near)}/desk/people")
    return page


def day(days: int) -> str:
    return f"{clock.now() + timedelta(days=days):%Y-%m-%d}"


def is_for_everybody(page: Page, name: str) -> None:
    """Check a page by axe, light and dark, on a phone and a desktop, and that the smallest phone needs no scrolling."""
    assert violations(page) == [], name
    assert not is_wide(page), name
    if SCREENSHOTS:
        for scheme, width in (("light", 320), ("light", 1280), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=Path(SCREENSHOTS, f"{name}-{scheme}-{width}.png"), full_page=True)


def fill_in_policy(page: Page, version: str, days: int) -> None:
    page.get_by_label("Name of the version").fill(version)
    page.get_by_label("First day").fill(day(days))


def test_a_policy_is_pasted_seen_corrected_published_and_withdrawn(near: Service, desk: Page) -> None:
    desk.get_by_role("link", name="Policies").click()
    is_for_everybody(desk, "no policies")
    desk.get_by_role("link", name="Publish a new version").click()
    is_for_everybody(desk, "new policy")
    fill_in_policy(desk, "2027-01", -1)
    desk.get_by_label("Text", exact=True).fill(POLICY)
    press(desk, "See it as people will")
    expect(desk.get_by_role("alert")).to_contain_text("is over: name today")
    expect(desk.get_by_label("Text", exact=True)).to_have_value(POLICY)
    is_for_everybody(desk, "refused policy")
    desk.get_by_label("First day").fill("tomorrow")
    press(desk, "See it as people will")
    expect(desk.get_by_role("alert")).to_contain_text("Write a day such as 2027-01-31")
    desk.get_by_label("First day").fill(day(30))
    press(desk, "See it as people will")
    expect(desk.get_by_role("heading", level=1)).to_have_text("Publish version 2027-01?")
    expect(desk.get_by_role("navigation", name="Contents")).to_contain_text("How to leave")
    expect(desk.get_by_text("<script>alert(1)</script>")).to_be_visible()
    is_for_everybody(desk, "check policy")
    press(desk, "Change it")
    expect(desk.get_by_label("Text", exact=True)).to_have_value(POLICY)
    desk.get_by_label("Name of the version").fill("2027-02")
    press(desk, "See it as people will")
    press(desk, "Publish it")
    expect(desk).to_have_url(f"{url_of(near)}/desk/policies")
    is_for_everybody(desk, "policies")
    desk.get_by_role("link", name="Withdraw version 2027-02").click()
    is_for_everybody(desk, "withdraw policy")
    press(desk, "Withdraw it")
    expect(desk.get_by_role("row", name="2027-02")).to_contain_text("withdrawn")
    desk.goto(f"{url_of(near)}/desk/policies/2027-02/withdraw")
    expect(desk.get_by_role("alert")).to_contain_text("withdrawn already")
    is_for_everybody(desk, "withdrawn already")
    assert [row["text"] for row in near.rows("policies")] == [POLICY]


def test_a_policy_is_uploaded_as_a_file_without_javascript(
    near: Service, desk: Page, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = open_page(java_script_enabled=False)
    page.context.add_cookies(desk.context.cookies())  # type: ignore[arg-type]
    (tmp_path / "policy.md").write_bytes(b"\xef\xbb\xbf" + POLICY.replace("\n", "\r\n").encode())
    page.goto(f"{url_of(near)}/desk/policies/new")
    fill_in_policy(page, "2027-01", 0)
    page.get_by_label("File").set_input_files(tmp_path / "policy.md")
    press(page, "See it as people will")
    expect(page.get_by_role("main")).to_contain_text("You can only publish another version in its place")
    press(page, "Publish it")
    assert near.rows("policies")[0]["text"] == POLICY
    (tmp_path / "policy.md").write_bytes(b"x" * 2**20)
    page.goto(f"{url_of(near)}/desk/policies/new")
    page.get_by_label("File").set_input_files(tmp_path / "policy.md")
    press(page, "See it as people will")
    expect(page.get_by_role("main")).to_contain_text("too large")


def test_an_announcement_is_written_tried_sent_watched_and_stopped(near: Service, desk: Page) -> None:
    desk.get_by_role("link", name="Announcements").click()
    is_for_everybody(desk, "no announcements")
    desk.get_by_role("link", name="Write an announcement").click()
    desk.get_by_label("Text").fill(NEWS)
    press(desk, "See it as an email")
    expect(desk.get_by_role("alert")).to_contain_text("Write a subject of one line")
    is_for_everybody(desk, "refused announcement")
    desk.get_by_label("Subject").fill("TILES can do more " * 12)
    press(desk, "See it as an email")
    expect(desk.get_by_role("heading", level=1)).to_have_text("Email this to 1 person?")
    is_for_everybody(desk, "check announcement")
    press(desk, "Send one to myself")
    expect(desk.get_by_role("status")).to_contain_text("on its way to mary@example.org")
    is_for_everybody(desk, "tried announcement")
    message = near.mail()
    assert (message["To"], "https://tiles.example/news" in text_of(message)) == ("mary@example.org", True)
    press(desk, "Email 1 person")
    expect(desk.get_by_role("main")).to_contain_text("0 % made")
    is_for_everybody(desk, "running announcement")
    with working(near.app):
        desk.wait_for_timeout(1500)
        desk.get_by_role("link", name="Reload").click()
        expect(desk.get_by_role("main")).to_contain_text("all emails made")
    with near.app.app_context():
        begun = announcements.announce(News("Second", NEWS)).announcement
    desk.goto(f"{url_of(near)}/desk/announcements/{begun}")
    desk.get_by_role("link", name="Stop it").click()
    is_for_everybody(desk, "stop announcement")
    press(desk, "Stop it")
    expect(desk.get_by_role("main")).to_contain_text("Emails that had not left are not sent")
    is_for_everybody(desk, "stopped announcement")
    desk.get_by_role("link", name="Announcements").click()
    expect(desk.get_by_role("row", name="Second")).to_contain_text("stopped")
    is_for_everybody(desk, "announcements")


def test_a_policy_version_is_announced_with_its_summary(near: Service, desk: Page) -> None:
    with near.app.app_context():
        policy.publish(version="2027-01", effective_on=clock.now().date(), text=POLICY)
    desk.goto(f"{url_of(near)}/desk/announcements/new")
    is_for_everybody(desk, "new announcement")
    section = desk.get_by_role("region", name="A version of the privacy policy")
    section.get_by_label("The change is material").check()
    section.get_by_role("button").click()
    expect(desk.get_by_role("alert")).to_contain_text("Write a summary of the change")
    expect(section.get_by_label("The change is material")).to_be_checked()
    section.get_by_label("What changes, in short").fill("We keep one thing less.")
    section.get_by_role("button").click()
    expect(desk.get_by_role("main")).to_contain_text("also those who switched emails about TILES off")
    is_for_everybody(desk, "check policy announcement")
    press(desk, "Email 1 person")
    assert [row["text"] for row in near.rows("announcements")] == ["We keep one thing less."]


def test_the_audit_is_read_and_leads_to_the_person(near: Service, desk: Page) -> None:
    desk.get_by_label("Address or name").fill("ada")
    press(desk, "Find")
    desk.get_by_role("link", name="ada@example.org").click()
    desk.get_by_role("link", name="Audit").click()
    row = desk.get_by_role("row", name=re.compile("looked at"))
    expect(row.first).to_contain_text("Mary Somerville")
    is_for_everybody(desk, "audit")
    desk.get_by_label("What was done").select_option("held")
    press(desk, "Show")
    expect(desk.get_by_text("There is no entry")).to_be_visible()
    is_for_everybody(desk, "empty audit")
    desk.get_by_label("What was done").select_option("looked-at")
    press(desk, "Show")
    expect(row.first).to_be_visible()
    row.first.get_by_role("link").click()
    expect(desk.get_by_role("heading", level=1)).to_contain_text("ada@example.org")
    assert near.rows("accounts")
