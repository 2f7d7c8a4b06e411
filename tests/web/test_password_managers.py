"""Pages and files for password managers and apps."""

import re
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from browsing import (
    Site,
    change_password,
    checked_page,
    create_account,
    expect_heading,
    open_link,
    url_of,
    with_and_without_javascript,
)
from conftest import needs
from playwright.sync_api import Browser, Page, expect
from support import PASSWORD, Service, any_database

from backend import clock
from backend.config import SettingsError, load
from backend.privacy import policy
from backend.security.tokens import MAILED

TEAM_APP, OTHER_APP = "ABCDE12345.org.example.tiles", "ABCDE12345.org.example.tiles-beta"
FINGERPRINTS = [":".join([byte] * 32) for byte in ("1F", "C0")]
PACKAGE = "org.example.tiles"


def hints_of(page: Page) -> list[str]:
    """Collect the messages of Chromium's console about the forms of a page."""
    hints: list[str] = []
    page.on("console", lambda message: hints.append(message.text) if "[DOM]" in message.text else None)
    return hints


@pytest.fixture
def page_with_manager(launch: Callable[[str], Browser]) -> Iterator[Page]:
    """A page of the full Chromium, which has a password manager."""
    with launch(needs("chromium")) as browser, checked_page(browser) as page:
        yield page


@pytest.mark.long
def test_chromium_has_no_hint_for_a_password_form(site: Site, email: str, page_with_manager: Page) -> None:
    page = page_with_manager
    hints = hints_of(page)
    bad = '<form method="post"><input type="password"><button>Go</button></form>'
    page.route("**/bad", lambda route: route.fulfill(content_type="text/html", body=bad))
    page.goto(f"{site.url}/bad")
    page.wait_for_timeout(1000)
    assert hints != []
    hints.clear()
    registration = site.ask_to_register(email)
    open_link(page, registration)
    page.wait_for_timeout(1000)
    create_account(page)
    site.post("password-resets", 202, email=email)
    open_link(page, site.mail(email, subject="Reset"))
    page.wait_for_timeout(1000)
    change_password(page)
    expect_heading(page, "Your password is changed")
    assert hints == []


@with_and_without_javascript
def test_a_password_field_is_masked_takes_a_paste_and_welcomes_a_password_manager(
    site: Site, email: str, open_page: Callable[..., Page], *, javascript: bool
) -> None:
    page = open_page(java_script_enabled=javascript)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    long = "quiet lemon gravel piano " * 8
    registration = site.ask_to_register(email)
    other = f"other-{email}"
    site.register(other)
    site.post("password-resets", 202, email=other)
    for message, address, label in (
        (registration, email, "Password"),
        (site.mail(other, subject="Reset"), other, "New password"),
    ):
        open_link(page, message)
        username = page.locator("form input[autocomplete=username]")
        expect(username).to_be_visible()
        expect(username).to_have_value(address)
        assert username.get_attribute("readonly") is not None
        password = page.get_by_label(label, exact=True)
        expect(password).to_have_attribute("type", "password")
        expect(password).to_have_attribute("autocomplete", "new-password")
        expect(password).to_have_attribute("minlength", "15")
        assert re.search(r"minlength: 15;", password.get_attribute("passwordrules") or "")
        assert password.get_attribute("maxlength") is None
        assert username.evaluate("field => field.form === document.querySelector('[type=password]').form")
        if javascript:
            page.evaluate("text => navigator.clipboard.writeText(text)", long)
            password.focus()
            page.keyboard.press("Control+V")
            expect(password).to_have_value(long)


@any_database
def test_an_iphone_app_opens_the_mailed_links_and_shares_passwords(make_service: Callable[..., Service]) -> None:
    for name in ("apple-app-site-association", "assetlinks.json"):
        assert make_service().http.get(f"/.well-known/{name}").status_code == 404
    service = make_service(ios_app_ids=f"{TEAM_APP}, {OTHER_APP}")
    response = service.http.get("/.well-known/apple-app-site-association")
    assert (response.status_code, response.content_type) == (200, "application/json")
    association: dict[str, Any] = response.json
    assert association.keys() == {"applinks", "webcredentials"}
    assert association["webcredentials"] == {"apps": [TEAM_APP, OTHER_APP]}
    (details,) = association["applinks"]["details"]
    assert details["appIDs"] == [TEAM_APP, OTHER_APP]
    assert [component["/"] for component in details["components"]] == [f"/{purpose}" for purpose in MAILED]
    # A page without a code stays in the browser.
    assert {component["#"] for component in details["components"]} == {"?*"}
    assert len(response.data) < 128 * 1024


@any_database
def test_an_android_app_opens_the_mailed_links_and_shares_passwords(make_service: Callable[..., Service]) -> None:
    apps = [f"{PACKAGE}={FINGERPRINTS[0].lower()}", f"{PACKAGE}={FINGERPRINTS[1]}", f"{PACKAGE}.beta={FINGERPRINTS[1]}"]
    service = make_service(android_apps=", ".join(apps))
    response = service.http.get("/.well-known/assetlinks.json")
    assert (response.status_code, response.content_type) == (200, "application/json")
    statements: list[dict[str, Any]] = response.json
    for statement in statements:
        assert statement.keys() == {"relation", "target"}
        assert set(statement["relation"]) == {
            "delegate_permission/common.handle_all_urls",
            "delegate_permission/common.get_login_creds",
        }
        assert statement["target"].keys() == {"namespace", "package_name", "sha256_cert_fingerprints"}
        assert statement["target"]["namespace"] == "android_app"
        for fingerprint in statement["target"]["sha256_cert_fingerprints"]:
            assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", fingerprint)
    assert {
        statement["target"]["package_name"]: statement["target"]["sha256_cert_fingerprints"] for statement in statements
    } == {
        PACKAGE: FINGERPRINTS,
        f"{PACKAGE}.beta": FINGERPRINTS[1:],
    }


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("IOS_APP_IDS", "org.example.tiles", "ABCDE12345.org.example.tiles"),
        ("IOS_APP_IDS", f"{TEAM_APP},abc", "ABCDE12345.org.example.tiles"),
        ("ANDROID_APPS", PACKAGE, "SHA-256 fingerprint"),
        ("ANDROID_APPS", f"{PACKAGE}=12:34", "SHA-256 fingerprint"),
        ("ANDROID_APPS", f"tiles={FINGERPRINTS[0]}", "SHA-256 fingerprint"),
        ("APP_URL", "javascript:alert(1)", "tiles://open"),
        ("APP_URL", "the app", "tiles://open"),
        ("TERMS_URL", "tiles://terms", "https://tiles.example.org/terms"),
        ("TERMS_URL", "/terms", "https://tiles.example.org/terms"),
    ],
)
def test_a_wrong_setting_of_an_app_stops_the_start_and_is_named(
    tmp_path: object, name: str, value: str, says: str
) -> None:
    with pytest.raises(SettingsError, match=f"TILES_{name}: .*{re.escape(says)}"):
        load({"TILES_INSTANCE_PATH": str(tmp_path), f"TILES_{name}": value})


@any_database
def test_a_button_opens_the_app(serve_near: Callable[..., Service], page: Page) -> None:
    service = serve_near(app_url="tiles://open")
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    (message,) = service.deliver()
    open_link(page, message)
    create_account(page)
    button = page.get_by_role("link", name="Open the TILES app")
    expect(button).to_have_attribute("href", "tiles://open")
    assert url_of(service)


@any_database
@with_and_without_javascript
def test_making_an_account_accepts_the_policy_that_was_in_force_when_the_page_was_opened(
    serve_near: Callable[..., Service], open_page: Callable[..., Page], *, javascript: bool
) -> None:
    service = serve_near(terms_url="https://tiles.example/terms")
    page = open_page(java_script_enabled=javascript)

    def link() -> EmailMessage:
        service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
        return service.deliver()[-1]

    publish(service, "2026-01", "We keep two things.")
    message = link()
    open_link(page, message)
    publish(service, "2026-02", "We keep one thing.")
    main = page.get_by_role("main")
    expect(main.get_by_role("link", name="terms of use")).to_have_attribute("href", "https://tiles.example/terms")
    create_account(page)
    expect_heading(page, "Your account is ready")
    signed_in = service.sign_in(password=PASSWORD).json
    assert signed_in["account"]["policy"] == {"accepted": "2026-01", "current": "2026-02"}


@any_database
def test_without_a_policy_and_terms_nothing_is_accepted(serve_near: Callable[..., Service], page: Page) -> None:
    service = serve_near()
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    open_link(page, service.deliver()[-1])
    expect(page.get_by_text("you accept")).to_have_count(0)
    create_account(page)
    expect_heading(page, "Your account is ready")
    assert service.sign_in(password=PASSWORD).json["account"]["policy"] == {"accepted": None, "current": None}


def publish(service: Service, version: str, text: str) -> None:
    service.run(policy.publish, version=version, effective_on=clock.now().date(), text=text)
