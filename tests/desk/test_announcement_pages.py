"""Announcements at the desk: previewed, tested on oneself, begun once, watched, stopped."""

import re
import uuid
from datetime import date
from html import unescape

from desk_door import MARY, Desk, hidden
from journeys import at_once
from peers import text_of
from sqlalchemy import update
from support import Person, Service, any_database

from backend import clock
from backend.accounts import audit
from backend.database.engine import transaction
from backend.database.models import Announcement
from backend.database.paging import PAGE
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.serving import worker

TEXT = "Hello,\n\nthere are <new> tiles: https://tiles.example/news\n"
NEW = "/announcements/new"
NEWS = {"subject": "News & more", "text": TEXT}


def begin(service: Service, subject: str = "News") -> uuid.UUID:
    with service.app.app_context():
        return announcements.announce(News(subject, TEXT)).announcement


def work_off(service: Service) -> list[str]:
    """Let the worker queue and send everything; return the recipients."""
    before = len(service.mail_server.messages)
    with service.app.app_context():
        while worker.deliver():
            pass
    return sorted(message["To"] for message in service.mail_server.messages[before:])


@any_database
def test_an_announcement_is_seen_as_an_email_tried_and_begun_from_there(
    service: Service, desk: Desk, ada: Person
) -> None:
    assert "Nothing was announced" in desk.get("/announcements")
    assert "A version of the privacy policy" not in desk.get("/announcements/new")
    preview = desk.write(NEW, "check", **NEWS)
    assert "Email this to 1 person?" in preview.text
    assert "https://accounts.tiles.test/unsubscribe/" in preview.text
    assert "there are &lt;new&gt; tiles" in preview.text
    assert hidden(preview.text).items() >= NEWS.items()
    tried = desk.write(NEW, "test", **hidden(preview.text))
    assert f"on its way to {MARY}" in tried.text
    (message,) = service.deliver()
    assert (message["To"], message["Subject"]) == (MARY, "News & more")
    # The email is as the page showed it, except the unsubscribe link.
    preview_text = unescape(re.findall(r"<pre>(.*?)</pre>", preview.text, re.DOTALL)[0])
    without_link = [[line for line in text.splitlines() if "/unsubscribe/" not in line] for text in
                    (preview_text.strip(), text_of(message).strip())]  # fmt: skip
    assert without_link[0] == without_link[1]
    assert [row["subject"] for row in service.rows("announcements") if row["parts"]] == []
    begun = desk.write(NEW, "send", **hidden(tried.text))
    assert begun.status_code == 303
    assert work_off(service) == [ada.email]
    page = desk.browser.get(begun.location).text
    assert "all emails made" in page
    assert "there are &lt;new&gt; tiles" in page
    assert begun.location in desk.get("/announcements")
    with service.app.app_context():
        entry = audit.listed(act="announced").rows[0]
    assert (entry.manager, entry.details["recipients"]) == ("Mary Somerville", 1)


def test_a_policy_version_is_announced_with_or_without_a_summary(service: Service, desk: Desk, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    service.http.patch("/v1/account", json={"email_updates": False}, headers=bob.headers)
    with service.app.app_context():
        for version in ("one", "two", "gone"):
            policy.publish(version=version, effective_on=date(2099, 1, 1), text=f"Text of {version}")
        policy.withdraw("gone")
    form = desk.get("/announcements/new")
    assert re.findall(r"<option.*?>(.*?)</option>", form) == ["two", "one"]
    assert "Write a summary" in desk.write(NEW, "check", version="one", summary="", material="yes").text
    assert "is not published" in desk.write(NEW, "check", version="gone", summary="").text
    preview = desk.write(NEW, "check", version="one", summary="We keep less.", material="yes")
    for text in ("Email this to 2 people?", "also those who switched", "We keep less.", "on 1 January 2099"):
        assert text in preview.text
    assert desk.write(NEW, "send", **hidden(preview.text)).status_code == 303
    assert work_off(service) == [ada.email, bob.email]
    preview = desk.write(NEW, "check", version="two", summary="")
    assert "Email this to 1 person?" in preview.text
    assert desk.write(NEW, "send", **hidden(preview.text)).status_code == 303
    assert work_off(service) == [ada.email]
    other = desk.write(NEW, "check", version="two", summary="Another summary.")
    assert (other.status_code, "another summary" in other.text) == (409, True)


@any_database
def test_the_same_text_twice_is_refused_before_and_at_the_end(service: Service, desk: Desk, ada: Person) -> None:
    assert desk.write(NEW, "send", **NEWS).status_code == 303
    for act in ("check", "test", "send"):
        again = desk.write(NEW, act, **NEWS | {"subject": " News & more "})
        assert again.status_code == 409
        assert "was announced already, on 2" in again.text
        assert "there are &lt;new&gt; tiles" in again.text
    assert work_off(service) == [ada.email]


def test_of_two_concurrent_identical_announcements_one_is_refused(service: Service, ada: Person) -> None:
    mary, grace = Desk(service), Desk(service, "grace@example.org", name="Grace")
    done = at_once(
        *[lambda manager=manager: manager.write(NEW, "send", **NEWS).status_code for manager in (mary, grace)]
    )
    assert sorted(done) == [303, 409]
    assert work_off(service) == [ada.email]
    with service.app.app_context():
        assert len(audit.listed(act="announced").rows) == 1


def test_an_invalid_announcement_is_refused_on_the_form_which_keeps_the_input(service: Service, desk: Desk) -> None:
    for subject, text, reason in (
        ("", TEXT, "a subject of one line"),
        ("a\r\nBcc: eve@example.org", TEXT, "a subject of one line"),
        ("x" * 501, TEXT, "a subject of one line"),
        ("News", " \n", "The text is empty"),
        ("News", "a\x1b[31mb", "not plain text"),
        ("News", "x" * 12_001, "longer than 12,000 characters"),
    ):
        for act in ("check", "test", "send"):
            refused = desk.write(NEW, act, subject=subject, text=text)
            assert refused.status_code == 409
            assert reason in refused.text
            assert "<title>Error: " in refused.text
    assert "there are &lt;new&gt; tiles" in desk.write(NEW, "send", subject="", text=TEXT).text
    assert "there are &lt;new&gt; tiles" in desk.write(NEW, "change", subject="", text=TEXT).text
    # The longest text fits into the form with any characters and line breaks.
    assert desk.write(NEW, "check", subject="\U0001f600" * 500, text="\U0001f600\n" * 6_000).status_code == 200
    assert desk.write(NEW, "check", subject="News", text="x" * 70_000).status_code == 413
    assert service.rows("announcements") == service.rows("mails") == []


@any_database
def test_an_announcement_is_stopped_after_a_question_and_once(service: Service, desk: Desk, ada: Person) -> None:
    announcement = begin(service)
    assert service.run(announcements.queue_some) == 1
    path = f"/announcements/{announcement}"
    assert f"/desk{path}/stop" in desk.get(path)
    assert "cannot be taken back" in desk.get(f"{path}/stop")
    assert service.rows("announcements")[0]["stopped_at"] is None
    assert desk.post(f"{path}/stop").location == f"/desk{path}"
    assert "stopped" in desk.get(path)
    assert f"/desk{path}/stop" not in desk.get(path)
    assert "was stopped already" in desk.post(f"{path}/stop", 409).text
    assert ada.email not in work_off(service)
    for act in ("", "/stop"):
        desk.get(f"/announcements/{uuid.uuid4()}{act}", 404)
    desk.post(f"/announcements/{uuid.uuid4()}/stop", 404)


def test_the_list_goes_on_page_by_page_also_within_one_moment(service: Service, desk: Desk) -> None:
    for number in range(PAGE + 2):
        begin(service, f"News {number}.")
    with service.app.app_context(), transaction() as session:
        session.execute(update(Announcement).values(created_at=clock.now()))
        oldest = Announcement.subject == "News 7."
        session.execute(update(Announcement).where(oldest).values(created_at=clock.now().replace(year=2020)))
    first = desk.get("/announcements")
    (older,) = re.findall(r'href="/desk(/announcements\?after=\S+)"', first)
    second = desk.get(older)
    subjects = [re.findall(r"News \d+\.", page) for page in (first, second)]
    assert [len(each) for each in subjects] == [PAGE, 2]
    assert {*subjects[0], *subjects[1]} == {f"News {number}." for number in range(PAGE + 2)}
    assert subjects[1][-1] == "News 7."
    assert "after=" not in second
    assert "no such page" in desk.get("/announcements?after=none", 409)
