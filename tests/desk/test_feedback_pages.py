"""Feedback at the desk: its list, one message, replying, deleting, and the downloads."""

import csv
import io
import json
import re
from datetime import date, timedelta

from desk_door import Desk
from journeys import MoveClock, account_id
from peers import text_of
from support import NOBODY, Person, Service, any_database

from backend import clock

A_DAY = timedelta(days=1)
FORMULA = '=HYPERLINK("https://evil.example/","See")'
MARKUP = '<script>alert(1)</script><a href="https://evil.example">x</a>'


def send(service: Service, message: str = "More tiles.", person: Person | None = None) -> str:
    headers = person.headers if person else None
    response = service.http.post("/v1/feedback", json={"message": message}, headers=headers)
    assert response.status_code == 201, response.text
    return f"/feedback/{response.json['id']}"


def messages(page: str) -> list[str]:
    return re.findall(r'<a href="/desk/feedback/[0-9a-f-]{36}">([^<]*)</a>', page)


def test_the_list_shows_open_messages_first_and_finds_others_by_state_and_day(
    service: Service, desk: Desk, move_clock: MoveClock
) -> None:
    assert "There is no such message" in desk.get("/feedback")
    days: list[date] = []
    for message in ("First", "Second", "Third"):
        path = send(service, message)
        days.append(clock.now().date())
        if message == "Second":
            desk.post(f"{path}/done")
        move_clock(A_DAY)
        desk.sign_in()
    for query, expected in (
        ("", ["Third", "First"]),
        ("?state=nonsense", ["Third", "First"]),
        ("?state=done", ["Second"]),
        ("?state=all", ["Third", "Second", "First"]),
        (f"?state=all&from={days[1]}", ["Third", "Second"]),
        (f"?state=all&to={days[1]}", ["Second", "First"]),
        (f"?state=all&from={days[1]}&to={days[1]}", ["Second"]),
        (f"?state=open&from={days[1]}&to={days[2]}", ["Third"]),
    ):
        assert messages(desk.get(f"/feedback{query}")) == expected, query


@any_database
def test_an_invalid_day_is_refused_and_stays_in_the_form(desk: Desk) -> None:
    page = desk.get("/feedback?from=31.01.2027", 422)
    assert "Write a day such as 2027-01-31" in page
    assert 'value="31.01.2027"' in page
    desk.get("/feedback/export.csv?to=yesterday", 422)


def test_pages_of_50_follow_each_other_and_keep_the_filter(service: Service, desk: Desk) -> None:
    for number in range(60):
        send(service, f"Message {number}")
    first = desk.get(f"/feedback?state=all&from={clock.now().date()}")
    (link,) = re.findall(r'href="/desk(/feedback\?[^"]*after=[^"]+)"', first)
    second = desk.get(link.replace("&amp;", "&"))
    assert len(set(messages(first))) == 50
    assert len({*messages(first), *messages(second)}) == 60
    assert "state=all" in link
    assert f"from={clock.now().date()}" in link


@any_database
def test_feedback_is_shown_as_text(service: Service, desk: Desk) -> None:
    path = send(service, MARKUP + "x" * 3000)
    for page in (desk.get("/feedback"), desk.get(path), desk.get(f"{path}/delete")):
        assert "<script>alert" not in page
        assert 'href="https://evil' not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "x" * 3000 not in desk.get("/feedback")


def test_a_manager_replies_marks_and_deletes(service: Service, desk: Desk, ada: Person) -> None:
    path = send(service, person=ada)
    assert f"/desk/people/{account_id(service, ada.email)}" in desk.get(path)
    form = desk.get(f"{path}/reply")
    assert "An email goes to the writer" in form
    assert 'name="after" value="0"' in form
    desk.post(f"{path}/reply", text="Yes.\r\n\r\nSoon.", after=0)
    message = service.mail()
    assert message["To"] == ada.email
    assert "\n\nYes.\n\nSoon.\n\n" in text_of(message)
    assert "Yes." in desk.get(path)
    desk.post(f"{path}/done")
    assert "Open it again" in desk.get(path)
    desk.post(f"{path}/reopen")
    assert "Mark it as done" in desk.get(path)
    assert "deleted for good" in desk.get(f"{path}/delete")
    assert desk.post(f"{path}/delete").location == "/desk/feedback?done=delete"
    desk.get(path, 404)
    assert service.rows("feedback") == service.rows("replies") == []
    acts = {row["act"] for row in service.rows("audit") if row["manager_id"] and row["act"].startswith("feedback")}
    assert acts == {f"feedback-{act}" for act in ("read", "answered", "done", "reopened", "deleted")}


def test_a_second_manager_sees_why_the_act_is_refused(service: Service, desk: Desk, ada: Person) -> None:
    path = send(service, person=ada)
    caroline = Desk(service, "caroline@example.org", name="Caroline Herschel")
    desk.post(f"{path}/reply", text="Thank you.", after=0)
    page = caroline.post(f"{path}/reply", 409, text="Thank you too.", after=0).text
    assert "A reply was sent meanwhile" in page
    assert "Thank you." in page
    assert "Thank you too." in page
    assert len(service.deliver()) == 1
    answers = {"done": (409, "done already"), "reopen": (409, "open already"), "delete": (404, "no message with this")}
    for act, (status, reason) in answers.items():
        desk.post(f"{path}/{act}")
        assert ("Open it again" in desk.browser.get(f"/desk{path}").text) == (act == "done")
        assert reason in caroline.post(f"{path}/{act}", status).text


@any_database
def test_the_longest_reply_fits_and_a_longer_one_is_shown_again(service: Service, desk: Desk, ada: Person) -> None:
    path, fox = send(service, person=ada), "\N{FOX FACE}"
    page = desk.post(f"{path}/reply", 422, text=fox * 4001, after=0).text
    assert "Write 1 to 4,000 characters" in page
    assert fox * 4001 in page
    assert "Write 1 to 4,000 characters" in desk.post(f"{path}/reply", 422, text=" ", after=0).text
    desk.post(f"{path}/reply", text=fox * 4000, after=0)
    assert fox * 10 in text_of(service.mail())
    desk.post(f"{path}/reply", 413, text="x" * 70_000, after=1)
    for after in ("", "x", "-1", "9" * 5000):
        desk.post(f"{path}/reply", 409, text="Again.", after=after)


@any_database
def test_the_page_says_when_the_writer_cannot_get_a_reply(service: Service, desk: Desk) -> None:
    path = send(service)
    page = desk.get(path)
    assert "You cannot reply" in page
    assert "Reply by email" not in page
    assert "no open account that wants emails" in desk.post(f"{path}/reply", 409, text="Thank you.", after=0).text


@any_database
def test_the_downloads_contain_the_listed_messages_and_no_formula(service: Service, desk: Desk) -> None:
    send(service, FORMULA)
    desk.post(f"{send(service, 'Done')}/done")
    page = desk.get("/feedback")
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="/desk(/feedback/export\.[^"]+)"', page)]
    table, document = (desk.get(link) for link in links)
    (row,) = csv.DictReader(io.StringIO(table.removeprefix("\ufeff"), newline=""))
    assert row["message"] == f"'{FORMULA}"
    (entry,) = json.loads(document)["feedback"]
    assert (entry["message"], entry["signed_in"], entry["done_at"]) == (FORMULA, False, None)
    response = desk.browser.get("/desk/feedback/export.csv?state=all")
    assert response.headers["Content-Disposition"] == 'attachment; filename="tiles-feedback.csv"'
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert len([row for row in service.rows("audit") if row["act"] == "feedback-exported"]) == 3


@any_database
def test_a_message_that_does_not_exist_is_not_found(desk: Desk) -> None:
    for path in (NOBODY, f"{NOBODY}/reply", f"{NOBODY}/delete", "x", "export.xml"):
        desk.get(f"/feedback/{path}", 404)
    desk.post(f"/feedback/{NOBODY}/reply", 404, text="Hello", after=0)
    desk.post(f"/feedback/{NOBODY}/delete", 404)
