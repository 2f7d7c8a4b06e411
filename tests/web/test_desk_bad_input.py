"""No field of any form at the desk, and no query of any link, makes the service fail."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from desk_door import Desk
from journeys import close
from support import Person, Service

from backend import clock
from backend.desk import requests
from backend.mail.news import News
from backend.privacy import announcements, policy

BAD = ("\0", "9999-12-31", "0001-01-01", "\u202e\u200c", "1" * 5_000, "")
# They end the sign-in of this test.
LEFT_OUT = ("/desk/sign-out", "/desk/sessions/")
MULTIPART = "multipart/form-data"


@dataclass
class Form:
    """A form of a page, with the value of each field as the page shows it."""

    action: str
    method: str
    media_type: str
    fields: dict[str, str] = field(default_factory=dict)


class Reader(HTMLParser):
    """Reads the links and the forms of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.forms: list[Form] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.add(values.get("href", ""))
        elif tag == "form":
            self.forms.append(Form(values.get("action", ""), values.get("method", "get"), values.get("enctype", "")))
        elif tag in {"input", "textarea", "select", "button"} and self.forms and "name" in values:
            self.forms[-1].fields[values["name"]] = values.get("value", "")


def every_page(desk: Desk) -> Iterator[tuple[str, Reader]]:
    """Open every page of the desk that a link leads to, each rule a few times at most."""
    waiting, seen = ["/desk"], {"/desk"}
    while waiting:
        response = desk.browser.get(path := waiting.pop())
        assert response.status_code < 500, path
        reader = Reader(response.text if response.mimetype == "text/html" else "")
        yield path, reader
        new = {link for link in reader.links if urlsplit(link).path.startswith("/desk")} - seen
        seen |= new
        waiting += sorted(new)


def with_one_bad(fields: dict[str, str]) -> Iterator[dict[str, str]]:
    for name in fields:
        for value in BAD if name != "form_token" else ():
            yield fields | {name: value}


def fill(service: Service, ada: Person) -> None:
    """Give each page of the desk something to show."""
    service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=ada.headers)
    close(service, service.register(email="bob@example.org").headers, erase=True)
    today = clock.now().date()
    with service.app.app_context():
        requests.record("ada@example.org", kind="access", way="email", identity="by email", received_on=today)
        policy.publish(version="2027-01", effective_on=today + timedelta(days=30), text="# What we store\n\nYour name.")
        announcements.announce(News("Tiles", "There are more tiles."))


@pytest.mark.long
def test_no_field_and_no_query_of_the_desk_makes_the_service_fail(service: Service, ada: Person) -> None:
    fill(service, ada)
    desk, tried = Desk(service), set[tuple[str, ...]]()
    routes = service.app.url_map.bind("")

    def is_new(method: str, path: str, *names: str) -> bool:
        rule, _ = routes.match(path, method.upper(), return_rule=True)
        before = len(tried)
        tried.add((method, rule.rule, *names))
        return len(tried) > before

    for path, page in every_page(desk):
        place = urlsplit(path)
        queried = dict(parse_qsl(place.query)) | {"after": "x"}
        for query in with_one_bad(queried) if is_new("get", place.path, *queried) else ():
            response = desk.browser.get(f"{place.path}?{urlencode(query)}")
            assert response.status_code < 500, (path, query)
        for form in page.forms:
            action = form.action or place.path
            if action.startswith(LEFT_OUT) or not is_new(form.method, action, *form.fields):
                continue
            for fields in with_one_bad(form.fields):
                if form.method == "post":
                    response = desk.browser.post(action, data=fields, content_type=form.media_type or None)
                else:
                    response = desk.browser.get(f"{action}?{urlencode(fields)}")
                assert response.status_code < 500, (action, fields)
    assert len(tried) > 40
