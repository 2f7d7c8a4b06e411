"""The emails as they are sent, in a real browser: accessible, self-contained, and with the links of their text."""

import re
from email.message import EmailMessage
from uuid import uuid4

import pytest
from accessibility import violations
from browsing import Site, button_link, requests_of
from peers import html_of, text_of, token_of
from playwright.sync_api import Page
from support import OTHER_PASSWORD

# The target of each email's button; the others have none.
BUTTONS = {
    "registration": "/registration#",
    "registration_existing": "/password-reset#",
    "password_reset": "/password-reset#",
    "password_changed": "/password-reset",
    "email_change": "/email-change#",
    "email_changed": "/email-change-undo#",
    "erasure_request": "/erasure#",
    "account_closed": "/erasure-cancel#",
    "account_reopened": "/password-reset",
    "policy_changed": "/privacy",
    "erased": "/erasure-receipt#",
}
MAILS = [*BUTTONS, "announcement", "email_taken_back", "feedback_reply"]


@pytest.fixture(scope="module")
def mails(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, EmailMessage]:
    """One email of each kind."""
    folder = tmp_path_factory.mktemp("mails")
    email, new = (f"{uuid4().hex}@example.org" for _ in range(2))
    messages = {"registration": site.ask_to_register(email)}
    session = site.finish_registering(messages["registration"])
    messages["registration_existing"] = site.ask_to_register(email, 2)
    site.announce(folder, "TILES can do more")
    messages["announcement"] = site.mail(email, subject="TILES can do more")
    feedback_id = site.post("feedback", 201, session=session, message="More tiles.")["id"]
    (folder / "reply.txt").write_text("Thank you.\n\nSee https://tiles.example/news.")
    site.tiles("feedback", "reply", feedback_id, folder / "reply.txt", "--yes")
    messages["feedback_reply"] = site.mail(email, subject="Our reply")
    (folder / "policy.txt").write_text("We keep what you give us to ourselves.")
    site.tiles("policy", "publish", folder / "policy.txt", "--version", "2100-01", "--effective", "2100-01-01", "--yes")
    site.tiles("announce", "--policy", "2100-01", "--follow", "--yes")
    messages["policy_changed"] = site.mail(email, subject="privacy policy")
    messages["email_change"] = site.ask_to_change_email(session, new)
    site.post("email-changes/confirm", 204, token=token_of(messages["email_change"]))
    messages["email_changed"] = site.mail(email, subject="address was changed")
    site.post("email-changes/undo", 204, token=token_of(messages["email_changed"]))
    messages["email_taken_back"] = site.mail(new, subject="earlier address")
    messages["password_reset"] = site.mail(email, subject="Reset")
    site.post("password-resets/confirm", 204, token=token_of(messages["password_reset"]), password=OTHER_PASSWORD)
    messages["password_changed"] = site.mail(email, subject="password was changed")
    site.post("erasure-requests", 202, email=email)
    messages["erasure_request"] = site.mail(email, subject="Erase")
    site.post("erasure-requests/confirm", 200, token=token_of(messages["erasure_request"]))
    messages["account_closed"] = site.mail(email, subject="is closed")
    site.post("erasure-requests/cancel", 204, token=token_of(messages["account_closed"]))
    messages["account_reopened"] = site.mail(email, subject="is open again")
    site.tiles("data", "erase", email, "--now", "--yes")
    messages["erased"] = site.mail(email, subject="have been erased")
    assert messages.keys() == set(MAILS)
    return messages


@pytest.mark.long
def test_a_mail_is_accessible(mails: dict[str, EmailMessage], page: Page) -> None:
    for name, message in mails.items():
        page.set_content(html_of(message))
        # Landmarks belong to the email program, which shows an email inside its own page.
        assert violations(page, without=("landmark-one-main", "region")) == [], name


def test_a_mail_loads_nothing_and_fits_a_phone(mails: dict[str, EmailMessage], page: Page) -> None:
    requests = requests_of(page)
    page.set_viewport_size({"width": 360, "height": 640})
    for name, message in mails.items():
        page.set_content(html_of(message))
        assert page.locator("img, link, script, iframe, [src], [srcset], [background]").count() == 0, name
        assert "url(" not in html_of(message)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    assert requests == []


def test_a_mail_names_nobody_and_each_link_has_a_line(mails: dict[str, EmailMessage]) -> None:
    for name, message in mails.items():
        text = text_of(message)
        assert not any(re.search(r"\bAda\b|@example\.org", part) for part in (text, html_of(message))), name
        links = [line for line in text.splitlines() if "://" in line and "tiles.example" not in line]
        assert links
        assert [line for line in links if " " in line] == []
        assert [line for line in text.splitlines() if " " in line and len(line) > 78] == []


def test_the_button_of_a_mail_has_the_link_of_its_text(site: Site, mails: dict[str, EmailMessage]) -> None:
    for name, path in BUTTONS.items():
        link = re.findall(r"^https?://\S+$", text_of(mails[name]), re.MULTILINE)[0]
        assert button_link(mails[name]) == link
        assert link.startswith(f"{site.url}{path}")
