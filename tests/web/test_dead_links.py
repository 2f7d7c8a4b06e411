"""Links that no longer work, in a real browser, from really sent emails."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from browsing import (
    Site,
    button_link,
    create_account,
    expect_heading,
    open_link,
    press,
    url_of,
    with_and_without_javascript,
)
from caller import PURPOSES
from journeys import ask_for_email_change, ask_for_erasure, change_email, closed_by, undo_link
from peers import token_of
from playwright.sync_api import Page, expect
from support import OTHER_PASSWORD, PASSWORD, Service, any_database, assert_problem

from backend.privacy import erasure
from backend.security.tokens import MAILED as PAGES
from backend.security.tokens import Purpose

ADA = "ada@example.org"
CONFIRM = {purpose: path for path, purpose in PURPOSES.items()}


def fill_in_email(page: Page, email: str = "") -> None:
    field = page.get_by_label("Email address")
    if email:
        field.fill(email)
    page.get_by_role("main").get_by_role("button").click()
    expect_heading(page, "Check your inbox")


@with_and_without_javascript
def test_a_used_registration_link_leads_to_the_account_or_to_a_reset(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    page = open_page(java_script_enabled=javascript)
    message = site.ask_to_register(email)
    open_link(page, message)
    create_account(page)
    expect_heading(page, "Your account is ready")
    page = page.context.new_page()
    open_link(page, message)
    expect_heading(page, "This link was used already")
    expect(page.get_by_label("Password")).to_have_count(0)
    expect(page.get_by_text("You may have an account already")).to_be_visible()
    expect(page.get_by_label("Email address")).to_have_value(email)
    fill_in_email(page)
    site.mail(email, subject="Reset")


def test_a_link_that_was_used_between_looking_and_the_password_says_so(site: Site, email: str, page: Page) -> None:
    message = site.ask_to_register(email)
    open_link(page, message)
    site.finish_registering(message)
    create_account(page)
    expect_heading(page, "This link was used already")
    site.post("password-resets", 202, email=email)
    reset = site.mail(email, subject="Reset")
    open_link(page, reset)
    site.post("password-resets/confirm", 204, token=token_of(reset), password=OTHER_PASSWORD)
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    press(page, "Change my password")
    expect_heading(page, "This link no longer works")


@with_and_without_javascript
def test_a_used_reset_link_and_an_older_one_lead_to_another(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    page = open_page(java_script_enabled=javascript)
    site.register(email)
    for _ in range(2):
        site.post("password-resets", 202, email=email)
    older, newer = (site.mail(email, number, subject="Reset") for number in (1, 2))
    site.post("password-resets/confirm", 204, token=token_of(newer), password=OTHER_PASSWORD)
    for message in (older, newer):
        open_link(page, message)
        expect_heading(page, "This link no longer works")
        expect(page.get_by_label("New password")).to_have_count(0)
        # A link that no longer works reveals no address.
        assert email not in page.content()
    fill_in_email(page, email)
    site.mail(email, 3, subject="Reset")


@any_database
@with_and_without_javascript
def test_an_expired_link_is_replaced_with_one_field(
    serve_near: Callable[..., Service],
    move_clock: Callable[[timedelta], None],
    open_page: Callable[..., Page],
    *,
    javascript: bool,
) -> None:
    service = serve_near()
    page = open_page(java_script_enabled=javascript)
    service.http.post("/v1/registrations", json={"name": "Ada", "email": ADA})
    (message,) = service.deliver()
    move_clock(timedelta(hours=24, seconds=2))
    open_link(page, message)
    expect_heading(page, "This link has expired")
    expect(page.get_by_label("Email address")).to_have_value(ADA)
    fill_in_email(page)
    (again,) = service.deliver()
    open_link(page, again)
    create_account(page)
    expect_heading(page, "Your account is ready")
    assert [row["name"] for row in service.rows("accounts")] == ["Ada"]
    for path, subject in (("password-resets", "Reset"), ("erasure-requests", "Erase")):
        service.http.post(f"/v1/{path}", json={"email": ADA})
        (message,) = service.deliver()
        assert subject in message["Subject"]
        move_clock(timedelta(hours=24, seconds=2))
        open_link(page, message)
        expect_heading(page, "This link has expired")
        assert ADA not in page.content()
        fill_in_email(page, ADA)
        (again,) = service.deliver()
        assert again["Subject"] == message["Subject"]


@any_database
def test_each_link_that_no_longer_works_says_what_to_do(
    serve_near: Callable[..., Service], move_clock: Callable[[timedelta], None], page: Page
) -> None:
    service = serve_near(support_email="help@tiles.test")
    ada = service.register()

    def opened(path: Purpose, token: str, heading: str, advice: str) -> None:
        page.goto(f"{url_of(service)}/{path}#{token}")
        expect_heading(page, heading)
        expect(page.get_by_text(advice)).to_be_visible()

    change = ask_for_email_change(service, ada.headers, "lace@example.org")
    late = ask_for_email_change(service, ada.headers, "late@example.org")
    service.http.post("/v1/email-changes/confirm", json={"token": change})
    opened(Purpose.EMAIL_CHANGE, change, "This link was used already", "This is the address of your TILES account now")
    opened(Purpose.EMAIL_CHANGE, late, "This link no longer works", "change the address again")
    (undo,) = [token_of(m) for m in service.deliver() if m["To"] == ADA]
    change_email(service, ada.headers, "countess@example.org")
    opened(Purpose.EMAIL_CHANGE_UNDO, undo, "This link no longer works", "Only the newest link works")
    expect(page.get_by_role("main").get_by_role("link", name="help@tiles.test")).to_be_visible()
    erase = ask_for_erasure(service, "countess@example.org")
    cancel = closed_by(service, ada.headers, "countess@example.org")
    opened(Purpose.ERASURE, erase, "Your account is closed already", "has a link that opens it again until then")
    service.http.post("/v1/erasure-requests/cancel", json={"token": cancel})
    opened(Purpose.ERASURE_CANCEL, cancel, "Your account is open already", "sign in as before")
    service.deliver()
    bob = service.register(email="bob@example.org")
    undo = undo_link(service, bob.headers, bob.email, "robert@example.org")
    move_clock(timedelta(hours=72, seconds=2))
    opened(Purpose.EMAIL_CHANGE_UNDO, undo, "This link has expired", "72 hours after the change")
    headers = {"Authorization": f"Bearer {service.sign_in('robert@example.org').json['session']['token']}"}
    change = ask_for_email_change(service, headers, "bert@example.org")
    move_clock(timedelta(hours=1, seconds=2))
    opened(Purpose.EMAIL_CHANGE, change, "This link has expired", "It worked for one hour")


def test_a_damaged_link_asks_for_the_code_and_takes_the_whole_one(site: Site, email: str, page: Page) -> None:
    message = site.ask_to_register(email)
    page.goto(button_link(message)[:-20])
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This code is incomplete or damaged")
    expect(alert).to_be_focused()
    code = page.get_by_label("Code from the email")
    expect(code).to_have_attribute("aria-invalid", "true")
    assert email not in page.content()
    code.fill(token_of(message))
    press(page, "Continue")
    create_account(page)
    expect_heading(page, "Your account is ready")


@with_and_without_javascript
def test_a_code_of_another_page_leads_to_that_page(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    page = open_page(java_script_enabled=javascript)
    message = site.ask_to_register(email)
    page.goto(f"{site.url}/erasure")
    if javascript:
        page.locator("summary").click()
    page.get_by_label("Code from the email").fill(token_of(message))
    press(page, "Continue")
    expect_heading(page, "This code is for another page")
    press(page, "Go to that page")
    create_account(page)
    expect_heading(page, "Your account is ready")


def states(service: Service, move_clock: Callable[[timedelta], None]) -> dict[Purpose, dict[str, str]]:
    """Return a token of each purpose in each state: live, dead and expired."""
    service.register()
    expired = {Purpose.REGISTRATION: service.ask_to_register(email="eve@example.org"),
               Purpose.ERASURE: ask_for_erasure(service, ADA)}  # fmt: skip
    move_clock(timedelta(hours=25))
    bob = service.register(email="bob@example.org")
    dead = {Purpose.REGISTRATION: bob.token, Purpose.PASSWORD_RESET: service.ask_for_reset()}
    service.reset(dead[Purpose.PASSWORD_RESET])
    service.deliver()
    live = {
        Purpose.REGISTRATION: service.ask_to_register(email="carl@example.org"),
        Purpose.PASSWORD_RESET: service.ask_for_reset(),
        Purpose.EMAIL_CHANGE_UNDO: undo_link(service, bob.headers, bob.email, "robert@example.org"),
    }
    carl = service.register(email="carl@example.net")
    live[Purpose.EMAIL_CHANGE] = ask_for_email_change(service, carl.headers, "charles@example.org")
    live[Purpose.ERASURE] = ask_for_erasure(service, service.register(email="eric@example.org").email)
    dora = service.register(email="dora@example.org")
    live[Purpose.ERASURE_CANCEL] = closed_by(service, dora.headers, dora.email)
    return {
        purpose: {name: tokens[purpose] for name, tokens in (("live", live), ("dead", dead), ("expired", expired))
                  if purpose in tokens}
        for purpose in PAGES
    }  # fmt: skip


def test_looking_changes_nothing_and_uses_nothing(
    make_service: Callable[..., Service], move_clock: Callable[[timedelta], None]
) -> None:
    service = make_service(rate_limits="token/client=1000/hour")
    by_purpose = states(service, move_clock)
    before = service.everything()
    headings = set()
    for page in PAGES:
        for purpose, tokens in by_purpose.items():
            for token in tokens.values():
                for _ in range(3):
                    response = service.http.post(f"/{page}/look", data={"token": token})
                    assert response.status_code == 200
                    assert ("is for another page" in response.text) == (page != purpose)
                    headings.add(response.text.partition("<h1>")[2].partition("</h1>")[0])
    assert service.everything() == before
    assert len(headings) >= 9
    for purpose, tokens in by_purpose.items():
        for name in ("dead", "expired"):
            if name in tokens:
                response = service.http.post(CONFIRM[purpose], json=body(purpose, tokens[name]))
                assert_problem(response, 400, "invalid-token")
        assert service.http.post(CONFIRM[purpose], json=body(purpose, tokens["live"])).status_code < 300


def body(purpose: Purpose, token: str) -> dict[str, Any]:
    needs_password = purpose in {Purpose.REGISTRATION, Purpose.PASSWORD_RESET}
    return {"token": token} | ({"password": "copper violin under snow"} if needs_password else {})


@any_database
def test_looking_is_charged_before_anything_is_looked_up(make_service: Callable[..., Service]) -> None:
    service = make_service(rate_limits="token/client=3/hour")
    token = service.ask_to_register()
    for _ in range(3):
        assert service.http.post("/registration/look", data={"token": token}).status_code == 200
    with service.statements() as executed:
        response = service.http.post("/registration/look", data={"token": token})
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert ADA not in response.text
    assert executed == []
    # The code is kept for later.
    assert token in response.text


@any_database
def test_a_forged_code_reveals_nothing(make_service: Callable[..., Service]) -> None:
    service = make_service()
    token = service.register().token
    payload, time, signature = token.split(".")
    answers = set()
    for made_up in ("a-code", f"{payload}.{time}.{signature[::-1]}", f"{payload}.{time}", payload, "", "%00", "é"):
        for page in PAGES:
            with service.statements() as executed:
                response = service.http.post(f"/{page}/look", data={"token": made_up})
            assert response.status_code == 400
            assert executed == []
            answers.add((page, response.text.replace(made_up, "") if made_up else response.text))
    assert len(answers) == len(PAGES)


@any_database
def test_a_link_of_an_erased_account_was_used(hasty: Service) -> None:
    token = hasty.register().token
    hasty.http.post("/erasure/confirm", data={"token": ask_for_erasure(hasty, ADA)})
    hasty.run(erasure.erase_due)
    response = hasty.http.post("/registration/look", data={"token": token})
    assert "This link was used already" in response.text
