"""The audit at the desk: acts and actors, the newest first, in pages, of one act or of all."""

import re
from datetime import date

import pytest
from desk_door import Desk
from journeys import account_id
from support import Person, Service, any_database

from backend.accounts import audit
from backend.database.engine import transaction
from backend.database.paging import PAGE
from backend.desk import managers
from backend.privacy import policy


@any_database
def test_the_audit_names_the_manager_also_after_she_was_removed(service: Service, ada: Person) -> None:
    mary, grace = Desk(service), Desk(service, "grace@example.org", name="Grace <Hopper>")
    path = f"/people/{account_id(service, ada.email)}"
    grace.get(path)
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=date(2099, 1, 1), text="We store two things.")
        managers.remove("grace@example.org")
    page = mary.get("/audit")
    rows = page.partition("<tbody>")[2].split("<tr>")
    looked = next(row for row in rows if "looked at" in row)
    assert "Grace &lt;Hopper&gt;" in looked
    assert f'href="/desk{path}"' in looked
    published = next(row for row in rows if "policy published" in row)
    # A command does not name a manager.
    assert "data manager" in published
    assert "version 2026-01, effective on 2099-01-01" in published
    assert "none" in published
    assert ada.email not in page


def test_one_act_is_chosen_and_no_other_is_shown(service: Service, ada: Person) -> None:
    desk = Desk(service)
    service.http.patch("/v1/account", json={"name": "Ada King"}, headers=ada.headers)
    only = desk.get("/audit?act=signed-in").partition("<tbody>")[2]
    assert "signed in" in only
    assert "manager invited" not in only
    assert "There is no entry" in desk.get("/audit?act=held")
    # An unknown act shows all entries, and the page does not repeat it.
    for text in ("nonsense", "%3Cscript%3E", ""):
        everything = desk.get(f"/audit?act={text}")
        assert "manager invited" in everything.partition("<tbody>")[2]
        assert "<script>" not in everything


@pytest.mark.parametrize("act", ["", "found"])
def test_the_audit_goes_on_page_by_page_and_keeps_the_choice(service: Service, ada: Person, act: str) -> None:
    desk = Desk(service)
    account = account_id(service, ada.email)
    with service.app.app_context(), transaction():
        for number in range(2 * PAGE):
            audit.record("found", account, actor="data manager", number=number)
    path, numbers = f"/audit?act={act}", list[str]()
    for _ in range(2):
        page = desk.get(path)
        numbers += re.findall(r"found, number (\d+)", page)
        older = re.findall(r'href="/desk(/audit\?\S+)">Next page', page)
        path = older[0].replace("&amp;", "&") if older else ""
    assert sorted(map(int, numbers)) == list(range(2 * PAGE))
    assert (path == "") == (act == "found")
    assert ada.name not in page
    assert "no such page" in desk.get("/audit?after=1_2", 409)
