"""What the mails about an account's end, and those to everybody, say in each of their cases."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from support import PASSWORD, Person, Service, any_database, html_of, text_of, token_of

from backend import clock
from backend.desk import operations
from backend.privacy import announcements, erasure, policy

pytestmark = any_database

MakeService = Callable[..., Service]
ERASURE = "https://accounts.tiles.test/erasure"


def close(service: Service, person: Person, *, erase: bool) -> None:
    body = {"password": PASSWORD, "erase": erase}
    assert service.http.post("/v1/account/close", json=body, headers=person.headers).status_code == 200


def said(text: str) -> str:
    """Return a text as one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def day(date: date) -> str:
    return f"{date.day} {date:%B %Y}"


def in_days(days: int) -> str:
    return day((clock.now() + timedelta(days=days)).date())


def test_a_closed_account_whose_erasure_was_asked_for(service: Service, ada: Person) -> None:
    close(service, ada, erase=True)
    message = service.mail()
    for part in (said(text_of(message)), said(html_of(message))):
        assert f"was closed on {in_days(0)}" in part
        assert f"On {in_days(14)} it will be erased for good, with everything in it. That was asked for." in part
        assert "legal duty" not in part
        assert f"{ERASURE} " not in part
    token = token_of(message)
    assert f"\n{ERASURE}-cancel#{token}\n" in text_of(message)
    assert service.http.post("/v1/erasure-requests/cancel", json={"token": token}).status_code == 204


def test_a_closed_account_that_is_erased_when_its_time_is_over(service: Service, ada: Person) -> None:
    close(service, ada, erase=False)
    message = service.mail()
    for part in (said(text_of(message)), said(html_of(message))):
        assert f"On {in_days(365)} it will be erased" in part
        assert "That was asked for" not in part
        assert "To have it erased sooner" in part
        assert f"{ERASURE} " in part
    assert f"\n{ERASURE}-cancel#" in text_of(message)


def test_a_closed_account_that_is_kept_until_somebody_asks(make_service: MakeService) -> None:
    service = make_service(closed_retention_days=0)
    close(service, service.register(), erase=False)
    message = service.mail()
    for part in (said(text_of(message)), said(html_of(message))):
        assert "It is kept until you ask to have it erased." in part
        assert "You can do that at any time" in part
        assert "until the account is erased" not in part
        assert "sooner" not in part
    assert f"\n{ERASURE}\n" in text_of(message)
    assert f'href="{ERASURE}"' in html_of(message)
    token = token_of(message)
    assert f"\n{ERASURE}-cancel#{token}\n" in text_of(message)
    assert f'class="button" href="{ERASURE}-cancel#{token}"' in html_of(message)
    assert service.http.post("/v1/erasure-requests/cancel", json={"token": token}).status_code == 204


def test_a_legal_hold_is_told_when_it_is_placed_and_when_it_is_lifted(service: Service, ada: Person) -> None:
    close(service, ada, erase=True)
    service.deliver()
    with service.app.app_context():
        operations.hold(ada.email, basis="an order of a court", until=datetime(2099, 3, 2, tzinfo=UTC))
    held = service.mail()
    for part in (said(text_of(held)), said(html_of(held))):
        assert "On 2 March 2099 it will be erased" in part
        assert "A legal duty keeps it from being erased before 2 March 2099" in part
        assert "order of a court" not in part
    with service.app.app_context():
        operations.release(ada.email)
    lifted = service.mail()
    assert "legal duty" not in said(text_of(lifted))
    assert f"On {in_days(14)} it will be erased" in said(text_of(lifted))


@pytest.mark.parametrize(
    ("days", "words"),
    [(14, "erased for good 14 days later"), (1, "erased for good one day later"), (0, "erased for good at once")],
)
def test_who_is_asked_to_confirm_an_erasure_reads_when_it_is_done(
    make_service: MakeService, days: int, words: str
) -> None:
    service = make_service(erasure_grace_days=days)
    service.register()
    service.http.post("/v1/erasure-requests", json={"email": "ada@example.org"})
    message, page = service.mail(), service.http.get("/erasure").text
    for part in (said(text_of(message)), said(html_of(message)), said(page)):
        assert f"{words}, unless a legal duty delays it." in part
    for part in (said(text_of(message)), said(html_of(message))):
        assert "Closed accounts that had the same address are erased with it." in part


@pytest.mark.parametrize(("grace", "hold"), [(14, False), (0, True), (0, False)])
@pytest.mark.parametrize("closed_before", [False, True])
def test_who_confirmed_an_erasure_reads_its_day_unless_it_is_done_at_once(
    make_service: MakeService,
    move_clock: Callable[[timedelta], None],
    grace: int,
    *,
    hold: bool,
    closed_before: bool,
) -> None:
    service = make_service(erasure_grace_days=grace)
    ada = service.register()
    if closed_before:
        close(service, ada, erase=False)
        service.deliver()
        move_clock(timedelta(days=3))
    if hold:
        with service.app.app_context():
            operations.hold(ada.email, basis="an order of a court", until=datetime(2099, 3, 2, tzinfo=UTC))
        service.deliver()
    service.http.post("/v1/erasure-requests", json={"email": ada.email})
    answer = service.http.post("/erasure/confirm", data={"token": token_of(service.mail())})
    assert answer.status_code == 200
    waits = hold or grace > 0
    due = "2 March 2099" if hold else in_days(grace)
    assert (f"On {due} your account and everything in it will be erased" in said(answer.text)) == waits
    assert ("the link opens your account again" in said(answer.text)) == waits
    assert ("are now being erased" in said(answer.text)) != waits


def test_the_last_mail_says_what_was_removed_and_kept_and_brings_a_receipt(make_service: MakeService) -> None:
    service = make_service(erasure_grace_days=0, data_manager_email="privacy@tiles.test")
    ada = service.register()
    service.http.post("/v1/feedback", json={"message": "Very good"}, headers=ada.headers)
    close(service, ada, erase=True)
    with service.app.app_context():
        assert erasure.erase_due() == 1
    message = service.mail()
    receipt = max(text_of(message).split(), key=len)
    verified = service.http.post("/v1/erasure-receipts/verify", json={"receipt": receipt})
    assert verified.status_code == 200
    assert receipt in html_of(message)
    removed = {entry["store"]: entry["rows"] for entry in verified.json["removed"]}
    assert removed["accounts"] == removed["feedback"] == 1
    for store, rows in removed.items():
        assert (f"\n* {store}: {rows}\n" in text_of(message)) == (rows > 0)
    for entry in verified.json["kept"]:
        assert f"* {entry['store']}: {entry['rows']} {entry['basis']} " in said(text_of(message))
        assert entry["basis"] in html_of(message)
    for part in (said(text_of(message)), said(html_of(message))):
        assert f"On {in_days(0)} your TILES account" in part
        assert "Of this account, this is the last mail." in part
        assert "should one be restored, the account is erased again at once" in part
        assert "random numbers, days and, where data were disclosed, to whom" in part
        assert "privacy@tiles.test" in part
        assert ada.email not in part


def announced(service: Service) -> None:
    with service.app.app_context():
        assert announcements.queue_some() == 1


def test_an_announcement_keeps_its_lines_and_is_text_and_nothing_else(service: Service, ada: Person) -> None:
    with service.app.app_context():
        text = "New:\n- notes <b>in colour</b>\n- a & b\n\nSee https://tiles.example/news?a=1&b=2."
        announcements.announce(subject="Ada & <Co>", text=text)
    announced(service)
    message = service.mail()
    assert (message["To"], message["Subject"]) == (ada.email, "Ada & <Co>")
    assert "\nNew:\n- notes <b>in colour</b>\n- a & b\n\nSee https" in f"\n{text_of(message)}"
    html = html_of(message)
    assert "New:<br>- notes &lt;b&gt;in colour&lt;/b&gt;<br>- a &amp; b</p>" in html
    assert "Ada &amp; &lt;Co&gt;</h1>" in html
    assert 'href="https://tiles.example/news?a=1&amp;b=2"' in html
    assert "mails about TILES are switched on" in said(html)
    assert "mails about TILES are switched on" in said(text_of(message))


@pytest.mark.usefixtures("ada")
def test_a_new_policy_is_announced_with_its_day_and_its_digest(service: Service) -> None:
    with service.app.app_context():
        new = policy.publish(version="2099-03", effective_on=date(2099, 3, 2), text="We keep it to ourselves.")
        announcements.announce_policy("2099-03")
    announced(service)
    message = service.mail()
    assert message["Subject"] == "The TILES privacy policy changes on 2 March 2099"
    for part in (text_of(message), html_of(message)):
        assert "On 2 March 2099 a new version" in said(part)
        assert "in force since" not in said(part)
        assert "version 2099-03" in part
        assert new.sha256 in part
        assert ERASURE in part
    assert "\nhttps://accounts.tiles.test/privacy\n" in text_of(message)


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("days", [0, 30])
def test_a_policy_that_is_in_force_already_is_told_as_such(
    service: Service, move_clock: Callable[[timedelta], None], days: int
) -> None:
    since = clock.now().date()
    with service.app.app_context():
        policy.publish(version="new", effective_on=since, text="We keep it to ourselves.")
    move_clock(timedelta(days=days))
    with service.app.app_context():
        announcements.announce_policy("new")
    announced(service)
    message = service.mail()
    assert message["Subject"] == "The TILES privacy policy has changed"
    for part in (said(text_of(message)), said(html_of(message))):
        assert re.search(rf"has been in force since {day(since)} ?: version new\.", part)
        assert "comes into force" not in part
