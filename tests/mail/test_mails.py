"""The text of emails about closing and erasing, and of announcements, in each of their cases."""

import re
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage

import pytest
from journeys import close, hold, receipt_of
from mailing import Make, MoveClock
from peers import html_of, text_of, token_of
from support import Person, Service, any_database

from backend import clock
from backend.desk import holds
from backend.mail.news import News
from backend.privacy import announcements, erasure, policy

pytestmark = any_database

PUBLIC = "https://accounts.tiles.test"
ERASURE = f"{PUBLIC}/erasure"
HOLD_ENDS = datetime(2099, 3, 2, tzinfo=UTC)


def parts(message: EmailMessage) -> list[str]:
    """Return the text and the HTML, each as one line of words."""
    return [" ".join(re.sub(r"<[^>]+>", " ", part).split()) for part in (text_of(message), html_of(message))]


def day(date: date) -> str:
    return f"{date.day} {date:%B %Y}"


def in_days(days: int) -> str:
    return day((clock.now() + timedelta(days=days)).date())


def assert_says(message: EmailMessage, *words: str, never: tuple[str, ...] = ()) -> None:
    """Check that both parts of an email contain `words`, and none of `never`."""
    for part in parts(message):
        for phrase in words:
            assert phrase in part
        for phrase in never:
            assert phrase not in part


@pytest.mark.parametrize(
    ("retention", "erase", "words", "never"),
    [
        (365, True, ["On {14} it will be erased for good, with everything in it. This was requested."],
         ("legal duty", f"{ERASURE} ")),
        (365, False, ["On {365} it will be erased", "To have it erased sooner", f"{ERASURE} "], ("requested",)),
        (0, False, ["It is kept until you ask to have it erased.", "You can do that at any time"],
         ("until the account is erased", "sooner")),
    ],
    ids=["on request", "after retention", "kept"],
)  # fmt: skip
def test_the_closing_email_says_when_the_account_is_erased_and_how_to_reopen_it(
    make_service: Make, retention: int, words: list[str], never: tuple[str, ...], *, erase: bool
) -> None:
    service = make_service(closed_retention_days=retention)
    close(service, service.register().headers, erase=erase)
    message, token = service.mail(), ""
    days = re.compile(r"\{(\d+)\}")
    phrases = [days.sub(lambda match: in_days(int(match[1])), phrase) for phrase in words]
    assert_says(message, f"was closed on {in_days(0)}", *phrases, never=never)
    token = token_of(message)
    assert f"\n{ERASURE}-cancel#{token}\n" in text_of(message)
    assert f'class="button" href="{ERASURE}-cancel#{token}"' in html_of(message)
    assert (f"\n{ERASURE}\n" in text_of(message)) == (f'href="{ERASURE}"' in html_of(message)) == (not erase)
    assert service.http.post("/v1/erasure-requests/cancel", json={"token": token}).status_code == 204


def test_placing_and_lifting_a_legal_hold_sends_an_email_with_the_new_date(service: Service, ada: Person) -> None:
    close(service, ada.headers, erase=True)
    service.deliver()
    hold(service, ada.email, HOLD_ENDS)
    phrases = "On 2 March 2099 it will be erased", "A legal duty keeps it from being erased before 2 March 2099"
    assert_says(service.mail(), *phrases, never=("Court order",))
    service.run(holds.release, ada.email)
    assert_says(service.mail(), f"On {in_days(14)} it will be erased", never=("legal duty",))


@pytest.mark.parametrize(
    ("days", "words"),
    [(14, "erased for good 14 days later"), (1, "erased for good one day later"), (0, "erased for good at once")],
)
def test_an_erasure_request_says_when_it_is_done(make_service: Make, days: int, words: str) -> None:
    service = make_service(erasure_grace_days=days)
    service.register()
    service.http.post("/v1/erasure-requests", json={"email": "ada@example.org"})
    promise = f"{words}, unless a legal duty delays it."
    assert_says(service.mail(), promise, "Closed accounts that had the same address are erased with it.")
    assert promise in " ".join(re.sub(r"<[^>]+>", " ", service.http.get("/erasure").text).split())


@pytest.mark.parametrize(("grace", "is_held"), [(14, False), (0, True), (0, False)])
@pytest.mark.parametrize("closed_before", [False, True])
def test_the_page_after_an_erasure_names_its_day_unless_it_is_done_at_once(
    make_service: Make, move_clock: MoveClock, grace: int, *, is_held: bool, closed_before: bool
) -> None:
    service = make_service(erasure_grace_days=grace)
    ada = service.register()
    if closed_before:
        close(service, ada.headers)
        service.deliver()
        move_clock(timedelta(days=3))
    if is_held:
        hold(service, ada.email, HOLD_ENDS)
        service.deliver()
    service.http.post("/v1/erasure-requests", json={"email": ada.email})
    response = service.http.post("/erasure/confirm", data={"token": token_of(service.mail())})
    assert response.status_code == 200
    page = " ".join(re.sub(r"<[^>]+>", " ", response.text).split())
    waits = is_held or grace > 0
    due = "2 March 2099" if is_held else in_days(grace)
    assert (f"On {due} your account and everything in it will be erased" in page) == waits
    assert ("the link opens your account again" in page) == waits
    assert ("are now being erased" in page) != waits


def test_the_last_email_says_what_was_removed_and_kept_and_contains_a_receipt(make_service: Make) -> None:
    service = make_service(erasure_grace_days=0, data_manager_email="privacy@tiles.test")
    ada = service.register()
    service.http.post("/v1/feedback", json={"message": "Very good"}, headers=ada.headers)
    close(service, ada.headers, erase=True)
    assert service.run(erasure.erase_due) == 1
    message = service.mail()
    receipt = receipt_of(message)
    verified = service.http.post("/v1/erasure-receipts/verify", json={"receipt": receipt})
    assert verified.status_code == 200
    assert receipt in html_of(message)
    for entry in verified.json["kept"]:
        assert all(entry["basis"] in part for part in parts(message))
    assert_says(
        message, "1 account, with its name, email address, password and settings", "1 message of feedback",
        "1 random number in the list of what was erased", f"On {in_days(0)} your TILES account",
        "This is the last email about this account.",
        "If a backup is restored, the account is erased again at once", "privacy@tiles.test",
        "random numbers, days and, where data were disclosed, to whom", f"{PUBLIC}/erasure-receipt#{receipt}",
        never=(ada.email, "/v1/", "JSON"),
    )  # fmt: skip


def announced(service: Service) -> EmailMessage:
    assert service.run(announcements.queue_some) == 1
    return service.mail()


def test_an_announcement_keeps_its_lines_and_is_only_text(service: Service, ada: Person) -> None:
    with service.app.app_context():
        text = "New:\n- notes <b>in colour</b>\n- a & b\n\nSee https://tiles.example/news?a=1&b=2."
        announcements.announce(News("Ada & <Co>", text))
    message = announced(service)
    assert (message["To"], message["Subject"]) == (ada.email, "Ada & <Co>")
    assert "\nNew:\n- notes <b>in colour</b>\n- a & b\n\nSee https" in f"\n{text_of(message)}"
    html = html_of(message)
    assert "New:<br>- notes &lt;b&gt;in colour&lt;/b&gt;<br>- a &amp; b</p>" in html
    assert "Ada &amp; &lt;Co&gt;</h1>" in html
    assert 'href="https://tiles.example/news?a=1&amp;b=2"' in html
    assert_says(message, "emails about TILES are switched on")


# Whether there was an earlier version, when the new one comes into force, when it is announced, and in which words
POLICIES = {
    "upcoming": (True, 30, 0, "changes on {day}", "On {day} a new version", ("in force since",)),
    "in force today": (True, 0, 0, "has changed", "in force since {day}", ("comes into force",)),
    "in force": (True, 0, 30, "has changed", "in force since {day}", ("comes into force",)),
    "the first, upcoming": (False, 30, 0, "comes into force on {day}", "{day}", ("change", "new version")),
    "the first": (False, 0, 0, "is in force", "{day}", ("change", "new version")),
}


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("case", POLICIES)
def test_a_policy_is_announced_once_with_its_day_and_without_a_digest(
    service: Service, move_clock: MoveClock, case: str
) -> None:
    earlier, starts, later, subject, words, never = POLICIES[case]
    today, effective_on = clock.now().date(), clock.now().date() + timedelta(days=starts)
    with service.app.app_context():
        if earlier:
            policy.publish(version="old", effective_on=today, text="We keep it.")
        new = policy.publish(version="new", effective_on=effective_on, text="We keep it to ourselves.")
    move_clock(timedelta(days=later))
    begun = service.run(announcements.announce, News(version="new"))
    message = announced(service)
    assert message["Subject"] == f"The TILES privacy policy {subject}".format(day=day(effective_on))
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert_says(
        message, words.format(day=day(effective_on)), "version new", ERASURE, never=(new.sha256, "SHA-256", *never)
    )
    assert f"\n{PUBLIC}/privacy\n" in text_of(message)
    with service.app.app_context():
        assert announcements.announce(News(version="new")).announcement == begun.announcement
        assert announcements.queue_some() == 0
