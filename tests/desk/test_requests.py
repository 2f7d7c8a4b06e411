"""The register of requests: due dates, valid fields, and the list of open requests and erasures."""

import json
import uuid
from datetime import date, datetime, timedelta

import pytest
from journeys import MoveClock, account_id, close, erase_due, hold, refusals
from support import NOBODY, Person, Service, any_database, invoke

from backend import clock
from backend.desk import requests
from backend.errors import Impossible

ADA = "ada@example.org"
A_DAY = timedelta(days=1)
ANSWERED = "Sent the copy by letter"


def today() -> date:
    return clock.now().date()


def ago(days: int) -> date:
    return today() - days * A_DAY


def recorded(service: Service, account: str | None = None, **changes: object) -> uuid.UUID:
    """Record a request that came today, with these changes."""
    fields = {"kind": "access", "way": "letter", "identity": "Signature", "received_on": today()}
    with service.app.app_context():
        return requests.record(account, **(fields | changes))  # type: ignore[arg-type]


def extend(service: Service, request_id: uuid.UUID, reason: str = "Many letters") -> date:
    return service.run(requests.extend, request_id, reason=reason)


def finish(service: Service, request_id: uuid.UUID, outcome: str = ANSWERED) -> None:
    service.run(requests.finish, request_id, outcome=outcome)


def find(service: Service, request_id: uuid.UUID) -> dict[str, object]:
    with service.app.app_context():
        return requests.find(request_id)._asdict()


def listed(service: Service) -> list[requests.Waiting]:
    """Return the open entries, read page by page; check the pages against the whole list."""
    with service.app.app_context():
        pages = [requests.page()]
        while after := pages[-1].after:
            pages.append(requests.page(requests.Key.parse(str(after))))
        rows = [request for page in pages for request in page.rows]
        assert rows == requests.waiting()
        assert [len(page.rows) for page in pages[:-1]] == [50] * (len(pages) - 1)
        assert [request for request in rows if request.overdue] == requests.waiting(overdue=True)
    return rows


def acts(service: Service) -> list[tuple[str, str, dict[str, str]]]:
    entries = service.run(requests.audit.entries)
    return [(entry.act, entry.actor, entry.details) for entry in reversed(entries) if entry.act.startswith("request")]


@pytest.mark.parametrize(
    ("day", "months", "due"),
    [
        (date(2027, 1, 15), 1, date(2027, 2, 15)),
        (date(2027, 1, 31), 1, date(2027, 2, 28)),
        (date(2028, 1, 31), 1, date(2028, 2, 29)),
        (date(2027, 1, 31), 3, date(2027, 4, 30)),
        (date(2027, 12, 31), 1, date(2028, 1, 31)),
        (date(2027, 11, 30), 3, date(2028, 2, 29)),
    ],
)
def test_a_month_ends_on_the_same_day_or_on_the_last_of_a_shorter_month(day: date, months: int, due: date) -> None:
    assert requests.months_after(day, months) == due


def test_a_request_is_due_a_month_after_it_came_not_after_it_was_typed(service: Service, ada: Person) -> None:
    request_id = recorded(service, ADA, received_on=ago(20), way="phone")
    due_on = requests.months_after(ago(20), 1)
    row = find(service, request_id)
    assert (row["received_on"], row["due_on"], row["way"]) == (ago(20), due_on, "phone")
    assert row["account_id"] == account_id(service, ada.email)
    assert acts(service) == [
        ("request-recorded", "data manager", {"kind": "access", "received_on": str(ago(20)), "due_on": str(due_on)})
    ]


@any_database
@pytest.mark.usefixtures("ada")
def test_no_text_of_a_request_names_the_person_or_has_several_lines(service: Service) -> None:
    request_id = recorded(service, ADA)
    refused = pytest.raises(Impossible, match=r"leave the person's name and address out|in one line")
    for text in ("", " ", "a" * 501, "two\nlines", "for ada@EXAMPLE.org", "as ada@xn--bcher-kva.org", "Lovelace, Ada"):
        with refused:
            recorded(service, ADA, identity=text)
        for act in (extend, finish):
            with refused:
                act(service, request_id, text)
    assert len(service.rows("data_requests")) == 1
    assert len(acts(service)) == 1
    recorded(service, ADA, identity="§\N{NO-BREAK SPACE}94 StPO")


@any_database
def test_without_an_account_no_text_has_any_address(service: Service) -> None:
    with pytest.raises(Impossible, match="leave the person's name and address out"):
        recorded(service, identity="wrote from grace@example.org")
    assert find(service, recorded(service))["account_id"] is None


def test_a_request_is_put_off_once_by_two_months_and_says_why(service: Service) -> None:
    request_id = recorded(service, received_on=ago(10))
    until = requests.months_after(ago(10), 3)
    assert extend(service, request_id) == until
    row = find(service, request_id)
    assert (row["due_on"], row["extension"]) == (until, "Many letters")
    with pytest.raises(Impossible, match=f"put off already, until {until}"):
        extend(service, request_id, "Still more letters")
    assert find(service, request_id) == row
    assert acts(service)[1:] == [("request-extended", "data manager", {"kind": "access", "due_on": str(until)})]


def test_a_request_can_be_put_off_on_its_last_day_and_not_when_it_is_late(
    service: Service, move_clock: MoveClock
) -> None:
    early, late = recorded(service), recorded(service)
    due_on = requests.months_after(today(), 1)
    move_clock(datetime.combine(due_on, clock.now().timetz()) - clock.now())
    extend(service, early)
    move_clock(A_DAY)
    with pytest.raises(Impossible, match=f"was due on {due_on}: it can be put off only before it is late"):
        extend(service, late)


def test_an_answered_request_leaves_the_list_and_keeps_when_and_how(service: Service) -> None:
    request_id = recorded(service)
    finish(service, request_id)
    row = find(service, request_id)
    assert (row["done_on"], row["outcome"]) == (today(), ANSWERED)
    assert listed(service) == []
    with service.app.app_context():
        assert [each.id for each in requests.answered().rows] == [request_id]
    for again in (finish, extend):
        with pytest.raises(Impossible, match=f"answered already, on {today()}"):
            again(service, request_id, "Differently")
    assert find(service, request_id) == row
    assert acts(service)[1:] == [("request-done", "data manager", {"kind": "access", "done_on": str(today())})]


def test_of_two_concurrent_answers_the_second_is_refused(service: Service) -> None:
    request_id = recorded(service)

    assert refusals(lambda: finish(service, request_id)) == ["", f"this request was answered already, on {today()}"]
    assert [act for act, *_ in acts(service)] == ["request-recorded", "request-done"]


def test_the_list_has_requests_and_erasures_the_first_due_first(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    bob, eve = (service.register(email=f"{name}@example.org") for name in ("bob", "eve"))
    late = recorded(service, bob.email, kind="erasure", received_on=ago(40))
    soon = recorded(service, kind="correction", received_on=ago(25))
    later = recorded(service)
    for person in (ada, bob):
        close(service, person.headers, erase=True)
    close(service, eve.headers)
    until = clock.now() + 300 * A_DAY
    hold(service, bob.email, until)
    rows = listed(service)
    # Ada's erasure after 14 days, the requests after a month, Bob's erasure after the hold.
    assert [row.id or row.account for row in rows] == [
        late, soon, account_id(service, ADA), later, account_id(service, bob.email)
    ]  # fmt: skip
    assert [row.overdue for row in rows] == [True, False, False, False, False]
    # A request about an account under a hold is marked, and still due.
    assert [row.held_until for row in rows] == [until, None, None, None, until]
    move_clock(366 * A_DAY)
    # The hold has ended. Eve made no request, but her retention time has ended too.
    assert [row.overdue for row in listed(service)] == [True] * 6
    assert erase_due(service) == 3
    # The request no longer has an account, and still has to be answered.
    assert len(listed(service)) == 3


def test_pages_of_50_follow_each_other_also_within_one_day(service: Service, ada: Person) -> None:
    for number in range(130):
        kind, way = list(requests.KINDS)[number % 5], list(requests.WAYS)[number // 5 % 5]
        recorded(service, kind=kind, way=way, received_on=ago(number % 3))
    close(service, ada.headers, erase=True)
    assert len(listed(service)) == 131
    with service.app.app_context():
        for request in requests.waiting():
            if request.id:
                requests.finish(request.id, outcome=ANSWERED)
        first = requests.answered()
        assert first.after
        pages = [first, requests.answered(first.after)]
        assert pages[1].after
        pages.append(requests.answered(pages[1].after))
    assert len(json.loads(invoke(service, "data", "requests", "answered", "--json").stdout)) == 130
    ids = [row.id for page in pages for row in page.rows]
    assert ([len(page.rows) for page in pages], pages[2].after) == ([50, 50, 30], None)
    assert len(set(ids)) == 130


# By command


def test_the_commands_enter_put_off_and_finish_a_request(service: Service, ada: Person) -> None:
    add = ("data", "requests", "add", ada.email, "--kind", "access", "--way", "letter", "--identity", "Signature")
    added = json.loads(invoke(service, *add, "--received", str(ago(9)), "--json").stdout)
    (waiting,) = json.loads(invoke(service, "data", "requests", "--json").stdout)
    due_on = requests.months_after(ago(9), 1)
    assert waiting == {
        "account": str(account_id(service, ada.email)),
        "asked_at": f"{ago(9)}T00:00:00Z",
        "age_days": 9,
        "due": f"{due_on}T23:59:59Z",
        "held_until": None,
        "overdue": False,
        "id": added["id"],
        "kind": "access",
        "way": "letter",
        "received_on": str(ago(9)),
        "extended": False,
    }
    invoke(service, "data", "requests", "extend", added["id"], "--reason", "Many letters")
    (extended,) = json.loads(invoke(service, "data", "requests", "--json").stdout)
    assert (extended["extended"], extended["due"][:10]) == (True, str(requests.months_after(ago(9), 3)))
    header, row = invoke(service, "data", "requests").stdout.splitlines()
    assert (header.split()[0], added["id"] in row) == ("account", True)
    for act, option in (("extend", "--reason"), ("done", "--outcome")):
        refused = invoke(service, "data", "requests", act, NOBODY, option, "Many letters", status=1)
        assert "there is no request with this id" in refused.stderr
    for day in ("31.01.2027", "2027-02-30", "yesterday", "2027-1-31T00:00"):
        assert "write a day such as 2027-01-31" in invoke(service, *add, "--received", day, status=2).stderr
    done = invoke(service, "data", "requests", "done", added["id"], "--outcome", ANSWERED)
    assert f"outcome      {ANSWERED}\n" in done.stdout
    assert invoke(service, "data", "requests").stdout == "No erasure and no request waits.\n"
    (request,) = json.loads(invoke(service, "data", "requests", "answered", "--json").stdout)
    assert request == json.loads(invoke(service, "data", "requests", "show", added["id"], "--json").stdout)
    assert (request["extension"], request["done_on"]) == ("Many letters", str(today()))


@any_database
def test_a_late_request_ends_the_command_with_1_and_blames_no_worker(service: Service) -> None:
    recorded(service, received_on=ago(20))
    invoke(service, "data", "requests", "--overdue")
    recorded(service, received_on=ago(40))
    done = invoke(service, "data", "requests", "--overdue", "--json", status=1)
    assert [row["overdue"] for row in json.loads(done.stdout)] == [True]
    assert done.stderr == ""
