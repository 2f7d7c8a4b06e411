"""The pages in a real browser: each journey, with the links of the emails, with and without JavaScript."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
from browsing import (
    Site,
    ask_for_mail,
    button_link,
    change_password,
    create_account,
    expect_heading,
    open_link,
    paste_code,
    press,
    with_and_without_javascript,
)
from peers import html_of, text_of, token_of
from playwright.sync_api import Page, Route, expect
from support import OTHER_PASSWORD, PASSWORD

from backend import clock

GRACE_DAYS = 14


def test_the_code_leaves_the_address_bar_at_once(site: Site, email: str, page: Page) -> None:
    message = site.ask_to_register(email)
    open_link(page, message)
    assert page.url == f"{site.url}/registration/look"
    page.go_back()
    assert token_of(message) not in page.url


def test_a_password_can_be_seen_and_hidden_again(site: Site, email: str, page: Page) -> None:
    open_link(page, site.ask_to_register(email))
    password = page.get_by_label("Password", exact=True)
    password.fill(PASSWORD)
    expect(password).to_have_attribute("type", "password")
    press(page, "Show password")
    expect(password).to_have_attribute("type", "text")
    expect(page.get_by_text("Your password is visible")).to_have_role("status")
    press(page, "Hide password")
    expect(password).to_have_attribute("type", "password")
    expect(password).to_have_value(PASSWORD)


def test_a_weak_password_is_explained_and_the_next_one_makes_the_account(site: Site, email: str, page: Page) -> None:
    open_link(page, site.ask_to_register(email))
    create_account(page, "aaaaaaaaaaaaaaaaaaaa")
    summary = page.get_by_role("alert")
    expect(summary).to_be_focused()
    reasons = summary.get_by_role("listitem").all_inner_texts()
    assert reasons
    assert [f"Error: {reason}" for reason in reasons] == page.locator("#password-error p").all_text_contents()
    password = page.get_by_label("Password", exact=True)
    expect(password).to_have_accessible_description(re.compile(re.escape(reasons[0])))
    expect(password).to_have_value("")
    create_account(page)
    expect_heading(page, "Your account is ready")
    site.post("sessions", 201, email=email, password=PASSWORD)


@with_and_without_javascript
def test_a_live_link_names_the_address_and_a_short_password_gets_one_reason(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    page = open_page(java_script_enabled=javascript)
    open_link(page, site.ask_to_register(email))
    expect(page.get_by_role("main")).to_contain_text(email)
    for password, reason in (("", "Write a password"), ("tiles", "It is shorter than 15 characters"),
                             ("12345678", "It is shorter than 15 characters")):  # fmt: skip
        create_account(page, password)
        reasons = page.get_by_role("alert").get_by_role("listitem")
        expect(reasons).to_have_count(1)
        expect(reasons).to_contain_text(reason)


def test_the_reason_for_a_refused_address_stands_beside_its_field_which_keeps_it(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/erasure")
    for address, reason in (
        ("", "Write an email address"),
        ("ada", "Write an email address"),
        ("ad\u00e4@example.org", "without accents"),
        ("ada@example", "with its dot"),
        ("ada@lovelace@example.org", "one @ only"),
        ("ada@exa mple.org", "Write an email address"),
    ):
        ask_for_mail(page, address)
        expect(page.get_by_role("alert").get_by_role("listitem")).to_contain_text(reason)
        expect(page.get_by_label("Email address")).to_have_value(address)
    field = page.get_by_label("Email address")
    expect(field).to_have_attribute("aria-invalid", "true")
    (message,) = page.get_by_role("alert").get_by_role("listitem").all_inner_texts()
    expect(page.locator("#email-field .error")).to_have_text(f"Error: {message}")
    expect(field).to_have_accessible_description(re.compile(re.escape(message)))


def test_a_button_that_destroys_looks_unlike_the_others(site: Site, email: str, page: Page) -> None:
    site.register(email)
    colours = set()
    for path, subject, name in (("password-resets", "Reset", "Change"), ("erasure-requests", "Erase", "Erase my")):
        site.post(path, 202, email=email)
        open_link(page, site.mail(email, subject=subject))
        button = page.get_by_role("main").get_by_role("button", name=name)
        colours.add(button.evaluate("button => getComputedStyle(button).backgroundColor"))
    assert len(colours) == 2


def test_without_javascript_the_code_is_pasted_with_line_breaks(
    site: Site, email: str, open_page: Callable[..., Page]
) -> None:
    code = text_of(site.ask_to_register(email)).partition("paste this code:")[2].split()[0]
    page = open_page(java_script_enabled=False)
    page.goto(f"{site.url}/registration")
    paste_code(page, "\n".join(re.findall(".{1,60}", code)) + "\n")
    create_account(page)
    expect_heading(page, "Your account is ready")
    site.post("sessions", 201, email=email, password=PASSWORD)


@with_and_without_javascript
def test_a_forgotten_password_is_replaced_by_a_link_that_names_the_address(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    site.register(email)
    page = open_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/password-reset")
    ask_for_mail(page, email)
    expect_heading(page, "Check your inbox")
    page = page.context.new_page()
    open_link(page, site.mail(email, 2))
    expect(page.get_by_role("main")).to_contain_text(email)
    change_password(page)
    expect_heading(page, "Your password is changed")
    site.post("sessions", 401, email=email, password=PASSWORD)
    site.post("sessions", 201, email=email, password=OTHER_PASSWORD)


def test_a_link_opened_on_top_of_a_response_is_read(site: Site, email: str, page: Page) -> None:
    registration = site.ask_to_register(email)
    open_link(page, registration)
    create_account(page, "")
    expect(page.get_by_role("alert")).to_be_visible()
    page.goto(button_link(registration))
    create_account(page)
    expect_heading(page, "Your account is ready")
    for path in ("/password-reset", "/erasure"):
        page.goto(f"{site.url}{path}")
        ask_for_mail(page, "nobody@example.org")
        expect_heading(page, "Check your inbox")
        page.goto(f"{site.url}{path}#a-code")
        expect(page.get_by_role("alert")).to_contain_text("incomplete or damaged")
        assert page.url == f"{site.url}{path}/look"


def test_a_double_click_uses_a_link_once(site: Site, email: str, page: Page) -> None:
    open_link(page, site.ask_to_register(email))
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    page.route("**/registration", hold)
    page.get_by_role("button", name="Create my account").evaluate(
        "button => { button.click(); setTimeout(() => button.click(), 200); }"
    )
    page.wait_for_timeout(1000)
    assert len(routes) == 1
    routes[0].continue_()
    expect_heading(page, "Your account is ready")


@with_and_without_javascript
def test_an_address_is_changed_and_taken_back_by_links_that_name_it(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    session, new = site.register(email), f"new-{email}"
    page = open_page(java_script_enabled=javascript)
    open_link(page, site.ask_to_change_email(session, new))
    expect(page.get_by_role("main")).to_contain_text(new)
    press(page, "Use this address")
    expect_heading(page, "Your address is changed")
    site.post("sessions", 401, email=email, password=PASSWORD)
    assert site.account(session)["email"] == new
    open_link(page, site.mail(email, subject="address was changed"))
    expect(page.get_by_role("main")).to_contain_text(email)
    expect(page.get_by_role("main")).not_to_contain_text(new)
    press(page, "Take my account back")
    expect_heading(page, "Your account has its old address back")
    site.post("sessions", 401, email=new, password=PASSWORD)
    open_link(page, site.mail(email, subject="Reset"))
    change_password(page)
    expect_heading(page, "Your password is changed")
    site.post("sessions", 201, email=email, password=OTHER_PASSWORD)


def test_an_address_with_another_account_is_not_taken(site: Site, email: str, page: Page) -> None:
    new = f"new-{email}"
    session = site.register(email)
    change = site.ask_to_change_email(session, new)
    site.finish_registering(site.ask_to_register(new, subject="Finish"))
    open_link(page, change)
    press(page, "Use this address")
    expect(page.get_by_role("alert")).to_contain_text("There is an account with this address")
    site.post("account/close", 200, session=session, password=PASSWORD, erase=True)
    closed = site.mail(email, subject="is closed")
    site.finish_registering(site.ask_to_register(email, 2, subject="Finish"))
    open_link(page, closed)
    press(page, "Open my account again")
    expect(page.get_by_role("alert")).to_contain_text("There is an account with this address")


@with_and_without_javascript
def test_an_account_is_erased_without_the_app_and_opened_again_by_links_that_name_it(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    site.register(email)
    page = open_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/erasure")
    ask_for_mail(page, email)
    expect_heading(page, "Check your inbox")
    page = open_page(java_script_enabled=javascript)
    open_link(page, site.mail(email, subject="Erase"))
    expect(page.get_by_role("main")).to_contain_text(email)
    press(page, "Erase my account")
    expect_heading(page, "Your account is closed")
    due = clock.now() + timedelta(days=GRACE_DAYS)
    expect(page.get_by_text(f"On {due.day} {due:%B %Y}")).to_be_visible()
    site.post("sessions", 401, email=email, password=PASSWORD)
    open_link(page, site.mail(email, subject="is closed"))
    expect(page.get_by_role("main")).to_contain_text(email)
    press(page, "Open my account again")
    expect_heading(page, "Your account is open again")
    site.post("sessions", 201, email=email, password=PASSWORD)
    page.get_by_role("link", name="Choose a new password").click()
    expect_heading(page, "Reset your password")


@with_and_without_javascript
def test_a_person_unsubscribes_with_one_button_and_reading_alone_does_nothing(
    site: Site, email: str, tmp_path: Path, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    session, subject = site.register(email), f"News {email[:8]}"
    site.announce(tmp_path, subject)
    message = site.mail(email, subject=subject)
    link = message["List-Unsubscribe"].strip("<>")
    assert f"\n{link}\n" in text_of(message)
    assert link in html_of(message)
    page = open_page(java_script_enabled=javascript)
    page.goto(link)
    assert httpx2.head(link).status_code == 200
    assert site.account(session)["email_updates"]
    for _ in range(2):
        page.goto(link)
        press(page, "Unsubscribe")
        expect_heading(page, "You are unsubscribed")
        assert not site.account(session)["email_updates"]


def test_app_stores_find_how_to_erase_an_account(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/")
    page.get_by_role("main").get_by_role("link", name="Erase my account").click()
    expect_heading(page, "Erase your TILES account")
    assert page.locator("meta[name=robots]").count() == 0
    for text in ("You do not need the app", "What is erased", "within the last 72 hours", "What is kept",
                 "emails to you that wait to be sent", "legal holds", "closed accounts that had the same address",
                 "Copies in backups", f"{GRACE_DAYS} days after you confirm"):  # fmt: skip
        expect(page.get_by_text(text).first).to_be_visible()


@with_and_without_javascript
def test_after_asking_the_address_can_be_corrected_and_the_code_pasted(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    page = open_page(java_script_enabled=javascript)
    site.register(email)
    page.goto(f"{site.url}/password-reset")
    ask_for_mail(page, f"&lt{email}")
    expect(page.get_by_text(f"&lt{email}")).to_be_visible()
    again = page.get_by_label("Email address")
    expect(again).to_have_value(f"&lt{email}")
    again.fill(email)
    for number in (1, 2):
        press(page, "Send it again")
        expect_heading(page, "Check your inbox")
        expect(page.get_by_text(email)).to_be_visible()
        message = site.mail(email, number, subject="Reset")
    paste_code(page, token_of(message))
    change_password(page)
    expect_heading(page, "Your password is changed")
