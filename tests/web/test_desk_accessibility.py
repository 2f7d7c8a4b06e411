"""Every page of the desk, and every response to its forms, is accessible."""

import re
import uuid
from datetime import timedelta

import pytest
from accessibility import looks
from desk_door import Desk
from journeys import account_id, close, hold
from playwright.sync_api import Browser
from support import Service, any_database
from werkzeug.test import TestResponse

from backend import clock
from backend.desk import feedback, requests
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.serving import worker
from backend.web.desk.people import ACTS

pytestmark = [any_database, pytest.mark.long]

ADA, BOB = "ada@example.org", "bob@example.org"
A_DAY = timedelta(days=1)
WIDE = "W" * 200
BROWSER = {"Accept": "text/html,*/*;q=0.8"}
POLICY = (
    f"# What we store\n\nYour name.\n\n| what | how long |\n|---|---|\n| name | ever |\n\n## Whom to ask\n\n{WIDE}\n"
)
NO_PAGES = {"/desk/feedback/export.<any(json, csv):form>", "/desk/people/<uuid:account_id>/export.json"}


class Pages:
    """The responses to a data manager, by name."""

    def __init__(self, service: Service) -> None:
        self.service, self.desk = service, Desk(service)
        self.responses: dict[str, TestResponse] = {}
        self.rules: set[str] = set()

    def get(self, *paths: str) -> None:
        for path in paths:
            response = self.desk.browser.get(f"/desk{path}", headers=BROWSER)
            assert response.mimetype == "text/html", path
            self.responses[path] = response
            rule, _ = self.service.app.url_map.bind("").match(response.request.path, return_rule=True)
            self.rules.add(rule.rule)

    def post(self, path: str, name: str, /, **fields: object) -> None:
        form = {"form_token": self.desk.form_token, **fields}
        response = self.desk.browser.post(f"/desk{path}", data=form, headers=BROWSER, follow_redirects=True)
        assert response.mimetype == "text/html", name
        assert (response.status_code >= 400) == name.startswith("refused"), response.text
        self.responses[f"{path}: {name}"] = response

    def act(self, path: str, name: str, /, **fields: object) -> None:
        """Send the form of a page unchanged except for these fields."""
        seen = re.findall(r'name="(seen|id)" value="([^"]+)"', self.desk.get(path))
        self.post(path, name, **{**dict(seen), **fields})


def ids(service: Service, table: str) -> list[uuid.UUID]:
    return [uuid.UUID(str(row["id"])) for row in service.rows(table)]


def people(pages: Pages) -> None:
    person = f"/people/{account_id(pages.service, ADA)}"
    pages.get("/people", "/sessions", person, f"{person}/print", *(f"{person}/{act}" for act in ACTS))
    pages.get(f"/people/{uuid.UUID(int=7)}")
    for text in ("ada", "nobody at all"):
        pages.post("/people", text, text=text)
    for act, fields in (("erase-now", {}), ("hold", {"basis": "", "until": "31.1.2027"}), ("rename", {"name": ""})):
        pages.act(f"{person}/{act}", "refused", **fields)
    pages.act(f"{person}/rename", "done", name="N" * 200)
    pages.act(f"{person}/disclose", "done", authority=WIDE, basis=WIDE, sure="yes", email="yes")


def registered(pages: Pages) -> None:
    """Show a request of each state, and an erasure under a hold."""
    with pages.service.app.app_context():
        today = clock.now().date()
        for days in (0, 10, 40, 41):
            new = {"kind": "access", "way": "in person", "identity": WIDE, "received_on": today - days * A_DAY}
            request_id = requests.record(ADA if days else None, **new)  # type: ignore[arg-type]
            if days == 10:
                requests.extend(request_id, reason=WIDE)
            if days == 41:
                requests.finish(request_id, outcome=WIDE)
    paths = [f"/requests/{request_id}" for request_id in ids(pages.service, "data_requests")]
    pages.get("", "/requests/new", "/requests/done", *paths, f"{paths[0]}/extend", f"{paths[0]}/done")
    pages.act(f"{paths[0]}/done", "refused", text="")
    pages.act("/requests/new", "refused", received="31.1.2027")


def messages(pages: Pages) -> None:
    service = pages.service
    for message, headers in (("Less.\n\n" + WIDE, service.register(email="carl@example.org").headers), ("<b>", {})):
        service.http.post("/v1/feedback", json={"message": message}, headers=headers)
    signed_in, anonymous = (
        uuid.UUID(str(row["id"])) for row in sorted(service.rows("feedback"), key=lambda row: not row["account_id"])
    )
    service.run(feedback.reply, signed_in, message="Thank you.\n\n" + WIDE, after=0)
    pages.get("/feedback", *(f"/feedback?{query}" for query in ("state=done", "from=x", "after=x")))
    pages.get(*(f"/feedback/{signed_in}{act}" for act in ("", "/reply", "/delete")), f"/feedback/{anonymous}")
    pages.post(f"/feedback/{signed_in}/reply", "refused", text="", after=1)


def policies(pages: Pages) -> None:
    pages.get("/policies", "/policies/new")
    day = f"{clock.now() + 30 * A_DAY:%Y-%m-%d}"
    fields = {"version": "2027-01", "effective_on": day, "text": POLICY}
    for name, act, changes in (("refused", "check", {"effective_on": "tomorrow"}), ("seen", "check", {}),
                               ("changed", "change", {}), ("published", "publish", {})):  # fmt: skip
        pages.post("/policies/new", name, act=act, **fields | changes)
    pages.service.run(policy.publish, version="2027-02", effective_on=clock.now().date(), text=f"{POLICY}\nMore.")
    pages.get("/policies/2027-01/withdraw")
    for name in ("withdrawn", "refused the second time"):
        pages.post("/policies/2027-01/withdraw", name)


def news(pages: Pages) -> None:
    pages.get("/announcements", "/announcements/new")
    fields = {"subject": "TILES can do more " * 12, "text": "Hello,\n\nTILES can do more: https://tiles.example/news\n"}
    for name, act, changes in (("refused", "check", {"subject": ""}), ("seen", "check", {}), ("tried", "test", {}),
                               ("running", "send", {})):  # fmt: skip
        pages.post("/announcements/new", name, act=act, **fields | changes)
    of_policy = {"act": "check", "version": "2027-02", "material": "yes"}
    pages.post("/announcements/new", "refused without a summary", summary="", **of_policy)
    pages.post("/announcements/new", "summary", summary="We keep one thing less.", **of_policy)
    with pages.service.app.app_context():
        while worker.deliver():
            pass
        stopped = announcements.announce(News("Second", WIDE)).announcement
    pages.get(*(f"/announcements/{announcement}" for announcement in ids(pages.service, "announcements")))
    pages.get(f"/announcements/{stopped}/stop")
    pages.post(f"/announcements/{stopped}/stop", "stopped")


def test_every_page_of_the_desk_and_every_response_to_its_forms_is_accessible(
    service: Service, browser: Browser
) -> None:
    pages = Pages(service)
    service.register()
    bob = service.register(email=BOB)
    close(service, bob.headers, erase=True)
    hold(service, BOB, clock.now() + 30 * A_DAY)
    service.deliver()
    for show in (people, registered, messages, policies, news):
        show(pages)
    pages.get("/policies?", "/announcements?", "/audit", "/audit?act=held", "/sign-in", "/sign-in/look")
    rules = {rule.rule for rule in service.app.url_map.iter_rules() if rule.rule.startswith("/desk")
             and "GET" in (rule.methods or ())}  # fmt: skip
    assert rules - pages.rules == NO_PAGES
    assert looks(browser, pages.responses) == {}
