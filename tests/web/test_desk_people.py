"""The desk in a real browser: signing in, finding somebody and acting, for everybody's eyes and hands."""

from collections.abc import Callable

import pytest
from accessibility import is_wide, violations
from browsing import button_link, press, sign_in, url_of
from desk_door import MARY
from journeys import account_id
from playwright.sync_api import Page, expect
from support import Service, any_database

from backend.desk import managers
from backend.web.desk.people import ACTS

ADA = "ada@example.org"


@pytest.fixture
def near(serve_near: Callable[..., Service]) -> Service:
    service = serve_near()
    service.register()
    with service.app.app_context():
        managers.invite(MARY, "Mary Somerville")
    return service


@pytest.fixture
def desk(near: Service, page: Page) -> Page:
    """A browser in which Mary is signed in."""
    return sign_in(page, near)


def test_a_manager_signs_in_finds_somebody_and_closes_the_account(near: Service, desk: Page) -> None:
    desk.goto(f"{url_of(near)}/desk/people")
    desk.get_by_label("Address or name").fill("lovelace")
    press(desk, "Find")
    desk.get_by_role("link", name=ADA).click()
    desk.get_by_role("link", name="Close the account").click()
    expect(desk.get_by_role("main")).to_contain_text(f"An email goes to {ADA}")
    press(desk, "Close it")
    expect(desk.get_by_role("status")).to_contain_text("The account is closed")
    expect(desk.get_by_role("main")).to_contain_text("Mary Somerville")
    assert near.mail()["To"] == ADA
    (cookie,) = desk.context.cookies()
    assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == ("/desk", True, "Strict")


def test_without_javascript_the_code_is_pasted(near: Service, open_page: Callable[..., Page]) -> None:
    page = open_page(java_script_enabled=False)
    page.goto(f"{url_of(near)}/desk/sign-in")
    page.get_by_label("Email address").fill(MARY)
    press(page, "Email me a link")
    page.get_by_label("Code from the email").fill(button_link(near.mail()).partition("#")[2])
    press(page, "Continue")
    press(page, "Sign in")
    assert page.context.cookies()


@any_database
def test_every_page_about_people_is_for_everybody(near: Service, desk: Page) -> None:
    url, person = url_of(near), f"/desk/people/{account_id(near, ADA)}"
    # Otherwise the colours of the two schemes are mixed while they change.
    desk.emulate_media(reduced_motion="reduce")
    for path in ("/desk/people", "/desk/sessions", person, f"{person}/print", *(f"{person}/{act}" for act in ACTS)):
        desk.goto(f"{url}{path}")
        assert violations(desk) == [], path
        assert not is_wide(desk), path
    for act, button in (("erase-now", "Erase it now"), ("hold", "Place the hold"), ("rename", "Save the name")):
        desk.goto(f"{url}{person}/{act}")
        if act == "rename":
            desk.get_by_label("Name").fill("")
        press(desk, button)
        expect(desk.get_by_role("alert")).to_be_visible()
        assert violations(desk) == [], act
    desk.goto(f"{url}/desk/people")
    for text in ("ada", "nobody at all"):
        desk.get_by_label("Address or name").fill(text)
        press(desk, "Find")
        assert violations(desk) == []
        assert not is_wide(desk)


def test_a_foreign_page_cannot_frame_the_desk_or_send_its_forms(near: Service, desk: Page) -> None:
    url, person = url_of(near), f"/desk/people/{account_id(near, ADA)}"
    desk.goto(f"{url}{person}/close")
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
