"""The register at the desk: the start page, and the forms that record, extend and answer a request."""

import re
from datetime import timedelta

from desk_door import Desk, hidden
from journeys import MoveClock, account_id, at_once, close, hold
from support import NOBODY, Person, Service, any_database

from backend import clock
from backend.desk import managers, requests

ADA = "ada@example.org"
A_DAY = timedelta(days=1)
NEW = {"kind": "access", "way": "letter", "identity": "Signature"}


def enter(desk: Desk, status: int = 303, /, **changes: object) -> str:
    """Open the form, send it, and return the redirect's target, or the page with the refusal."""
    response = desk.act("/requests/new", status, **{**NEW, "received": clock.now().date(), **changes})
    return response.partition("?")[0] if status == 303 else response


def test_a_manager_enters_puts_off_and_answers_a_request(service: Service, desk: Desk) -> None:
    received_on = clock.now().date() - 20 * A_DAY
    path = enter(desk, who=ADA, received=received_on)
    page = desk.get(path)
    for text in ("Access, by letter", "Signature", str(received_on), str(requests.months_after(received_on, 1))):
        assert text in page
    assert f'href="/desk/people/{account_id(service, ADA)}"' in page
    until = requests.months_after(received_on, 3)
    assert f"It is due on {until}" in desk.get(f"{path}/extend")
    desk.post(f"{path}/extend", text=" Many letters ")
    assert "Many letters" in desk.get(path)
    assert ">Put it off<" not in desk.get(path)
    assert path in desk.get("")
    assert "answer the person first" in desk.get(f"{path}/done")
    desk.post(f"{path}/done", text="Sent the copy")
    assert path not in desk.get("")
    assert "Sent the copy" in desk.get("/requests/done")
    (mary,) = service.run(managers.listed)
    entries = [row for row in service.rows("audit") if row["act"].startswith("request-")]
    assert {row["act"] for row in entries} == {"request-recorded", "request-extended", "request-done"}
    assert {str(row["manager_id"]).replace("-", "") for row in entries} == {mary.id.hex}


def test_the_start_page_lists_late_due_and_held_requests(
    service: Service, desk: Desk, ada: Person, move_clock: MoveClock
) -> None:
    bob = service.register(email="bob@example.org")
    assert "Nothing waits" in desk.get("")
    late = enter(desk, received=clock.now().date() - 40 * A_DAY)
    for person in (ada, bob):
        close(service, person.headers, erase=True)
    hold(service, bob.email, clock.now() + 300 * A_DAY)
    page = desk.get("")
    places = [page.index(text) for text in (late, str(account_id(service, ADA)), str(account_id(service, bob.email)))]
    assert places == sorted(places)
    assert page.count('class="late"') == 1
    assert page.count("legal hold until") == 1
    assert "An erasure is late" not in page
    move_clock(15 * A_DAY)
    desk.sign_in()
    assert "An erasure is late when the service does not run" in desk.get("")


def test_a_form_of_a_person_names_their_account(service: Service, desk: Desk) -> None:
    mine = account_id(service, ADA)
    assert f'value="{mine}"' in desk.get(f"/requests/new?account={mine}")
    assert "&lt;b&gt;" in desk.get("/requests/new?account=<b>")
    path = enter(desk, who=mine)
    assert f"/desk/people/{mine}" in desk.get(path)
    assert f"/desk/requests/new?account={mine}" in desk.get(f"/people/{mine}")


@any_database
def test_an_invalid_request_is_refused_on_the_form_which_keeps_the_input(desk: Desk) -> None:
    today = clock.now().date()
    for changes, status, reason in (
        ({"received": "31.01.2027"}, 422, "Write a day such as 2027-01-31"),
        ({"received": today + A_DAY}, 409, "today or earlier, and at most a year ago"),
        ({"received": today - 366 * A_DAY}, 409, "today or earlier, and at most a year ago"),
        ({"kind": ""}, 409, "Choose one of access, correction"),
        ({"way": "pigeon"}, 409, "Choose one of access, correction"),
        ({"identity": f"wrote from {ADA}", "who": ADA}, 409, "Leave the person&#39;s name and address out"),
        ({"identity": ""}, 409, "in one line"),
        ({"identity": "x" * 4000}, 409, "in one line"),
        ({"who": "nobody@example.org"}, 409, "There is no account with this address or id"),
    ):
        page = enter(desk, status, **changes)
        assert reason in page
        assert f'value="{changes.get("identity", "Signature")}"' in page
    assert desk.service.rows("data_requests") == []
    enter(desk, received=today - 365 * A_DAY)


def test_a_form_that_is_sent_twice_enters_one_request(service: Service, desk: Desk) -> None:
    caroline = Desk(service, "caroline@example.org", name="Caroline Herschel")
    fields = {**NEW, **hidden(desk.get("/requests/new")), "received": str(clock.now().date())}
    fields.pop("form_token")
    first, second = at_once(
        *[lambda each=each: each.post("/requests/new", **fields).location for each in (desk, caroline)]
    )
    assert first == second == desk.post("/requests/new", **fields).location
    assert len(desk.service.rows("data_requests")) == 1
    assert len([row for row in service.rows("audit") if row["act"] == "request-recorded"]) == 1
    # A form without an id enters one each time.
    for _ in range(2):
        desk.post("/requests/new", **(fields | {"id": "x"}))
    assert len(desk.service.rows("data_requests")) == 3


def test_a_second_manager_sees_why_the_act_is_refused(service: Service, desk: Desk) -> None:
    caroline = Desk(service, "caroline@example.org", name="Caroline Herschel")
    path = enter(desk)
    for act, reason in (("extend", "This request was put off already"), ("done", "This request was answered already")):
        assert caroline.get(f"{path}/{act}")
        desk.post(f"{path}/{act}", text="Because")
        page = caroline.post(f"{path}/{act}", 409, text="Also because").text
        assert reason in page
        assert 'value="Also because"' in page
    assert len([row for row in service.rows("audit") if row["act"].startswith("request-")]) == 3


@any_database
def test_pages_follow_each_other_and_a_made_up_one_says_so(service: Service, desk: Desk) -> None:
    for _ in range(60):
        service.run(requests.record, None, **NEW, received_on=clock.now().date())
    first = desk.get("")
    (link,) = re.findall(r'href="/desk(\?after=[^"]+)"', first)
    second = desk.get(link)
    paths = re.findall(r"/desk/requests/[0-9a-f-]{36}", first), re.findall(r"/desk/requests/[0-9a-f-]{36}", second)
    assert ([len(each) for each in paths], len({*paths[0], *paths[1]})) == ([50, 10], 60)
    assert "First page" in second
    for page in ("", "/requests/done", "/feedback"):
        for text in ("<b>", "x", "20270131T000000.000000", "20270131T000000.000000_x", "é_é", "1" * 5000):
            assert "There is no such page of this list" in desk.get(f"{page}?after={text}", 409)


@any_database
def test_a_request_that_does_not_exist_is_not_found(desk: Desk) -> None:
    for path in (NOBODY, f"{NOBODY}/extend", f"{NOBODY}/done", "x", f"{NOBODY}/erase"):
        desk.get(f"/requests/{path}", 404)
    desk.post(f"/requests/{NOBODY}/done", 404, text="Done")
