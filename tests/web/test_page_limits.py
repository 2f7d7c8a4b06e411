"""Limits on the pages: they say when to try again, and how to continue until then."""

import math
import re
from collections.abc import Callable

import pytest
from browsing import ask_for_mail, expect_heading, open_link, paste_code, url_of, with_and_without_javascript
from peers import token_of
from playwright.sync_api import Page, expect
from support import Service, any_database

from backend.errors import TooManyRequests

ADA = "ada@example.org"


@any_database
@with_and_without_javascript
def test_a_limit_says_when_to_ask_again_and_where_the_email_may_be(
    serve_near: Callable[..., Service], open_page: Callable[..., Page], *, javascript: bool
) -> None:
    service = serve_near(rate_limits="password-reset/address+client=2/hour")
    page = open_page(java_script_enabled=javascript)
    for _ in range(2):
        page.goto(f"{url_of(service)}/password-reset")
        ask_for_mail(page, ADA)
        expect_heading(page, "Check your inbox")
    page.goto(f"{url_of(service)}/password-reset")
    with page.expect_response("**/password-reset") as response:
        ask_for_mail(page, ADA)
    assert response.value.status == 429
    minutes = math.ceil(int(response.value.headers["retry-after"]) / 60)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("in a minute" if minutes == 1 else f"in {minutes} minutes")
    expect(alert).to_contain_text("look into your spam folder")
    expect(page.get_by_label("Email address")).to_have_value(ADA)


@any_database
@with_and_without_javascript
def test_a_limit_keeps_the_code_of_a_link_for_later(
    serve_near: Callable[..., Service], open_page: Callable[..., Page], *, javascript: bool
) -> None:
    service = serve_near(rate_limits="token/client=1/day")
    page = open_page(java_script_enabled=javascript)
    service.http.post("/v1/registrations", json={"name": "Ada", "email": ADA})
    (message,) = service.deliver()
    open_link(page, message)
    expect_heading(page, "Choose a password")
    open_link(page, message)
    expect(page.get_by_role("alert")).to_contain_text(re.compile("Try again in [0-9]+ (hours|minutes)|in a minute"))
    expect(page.get_by_role("alert")).to_contain_text("Your code is kept")
    expect(page.get_by_label("Code from the email")).to_have_value(token_of(message))
    paste_code(page, token_of(message))
    expect(page.get_by_role("alert")).to_contain_text("Try again in")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "a minute"),
        (60, "a minute"),
        (61, "2 minutes"),
        (2400, "40 minutes"),
        (7200, "2 hours"),
        (86400, "24 hours"),
    ],
)
def test_a_problem_says_when_in_words(seconds: int, words: str) -> None:
    assert TooManyRequests(retry_after=seconds).detail.endswith(f"Try again in {words}.")
