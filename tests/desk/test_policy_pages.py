"""Policies at the desk: pasted or uploaded, previewed, published, withdrawn."""

import io
import re
from datetime import timedelta
from html import unescape

import pytest
from desk_door import Desk, hidden
from journeys import MoveClock, at_once
from support import Service, any_database
from werkzeug.test import TestResponse

from backend import clock
from backend.accounts import audit
from backend.privacy import policy

OLD, NEW = "We store a name & an email address.\n", "# What we store\n\nLess.\n\n- *much* less\n"
NEW_POLICY = "/policies/new"
NASTY = (
    "<script>alert(1)</script>\n\n[a](javascript:alert(1)) [b](https://example.org) ![c](https://example.org/c.png)\n"
)


def day(days: int) -> str:
    return f"{clock.now() + timedelta(days=days):%Y-%m-%d}"


def send(  # noqa: PLR0913 - the form's fields
    desk: Desk, act: str, version: str, days: int | str, text: str = "", *, file: bytes | None = None
) -> TestResponse:
    effective_on = days if isinstance(days, str) else day(days)
    files = {"file": (io.BytesIO(file), "p.md")} if file is not None else {}
    return desk.write(NEW_POLICY, act, version=version, effective_on=effective_on, text=text, **files)


@any_database
def test_a_pasted_text_is_seen_as_people_will_and_published_from_there(service: Service, desk: Desk) -> None:
    assert "No version was published" in desk.get("/policies")
    assert desk.get("/policies/new")
    preview = send(desk, "check", "2027-01", 3, NEW)
    assert preview.status_code == 200
    assert service.rows("policies") == []
    assert re.search(r"<h3 [^>]*>What we store</h3>", preview.text)
    assert "<em>much</em> less" in preview.text
    for text in ("from " + f"{clock.now() + timedelta(days=3):%-d %B %Y}", "Nobody.", "you can withdraw it"):
        assert text in preview.text
    again = hidden(preview.text)
    assert again["text"] == NEW
    assert desk.write(NEW_POLICY, **again | {"act": "publish"}).location == "/desk/policies"
    (row,) = service.rows("policies")
    assert (row["version"], str(row["effective_on"]), row["text"]) == ("2027-01", day(3), NEW)
    listed = desk.get("/policies")
    assert "upcoming" in listed
    assert "/desk/policies/2027-01/withdraw" in listed
    assert "<em>much</em>" in service.http.get("/privacy/2027-01").text
    with service.app.app_context():
        entry = audit.listed().rows[0]
    assert (entry.act, entry.manager) == ("policy-published", "Mary Somerville")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_a_file_may_have_a_byte_order_mark_and_windows_line_breaks(service: Service, desk: Desk, mark: bytes) -> None:
    preview = send(desk, "check", "2027-01", 1, file=mark + "Über <b>Daten</b>.\r\n\r\nEnde.\r\n".encode())
    again = hidden(preview.text)
    assert again["text"] == "Über <b>Daten</b>.\n\nEnde.\n"
    desk.write(NEW_POLICY, **again | {"act": "publish"})
    assert service.rows("policies")[0]["text"] == "Über <b>Daten</b>.\n\nEnde.\n"


def test_html_scripts_and_images_of_a_text_are_text(service: Service, desk: Desk) -> None:
    preview = send(desk, "check", "2027-01", 1, NASTY).text
    text = preview.partition('id="seen"')[2]
    assert "<script>" not in preview.replace('<script src="/static/', "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'href="javascript:' not in preview
    assert '<a href="https://example.org">b</a>' in text
    assert "<img" not in text
    assert service.rows("policies") == []


def test_an_invalid_policy_is_refused_on_the_form_which_keeps_the_input(service: Service, desk: Desk) -> None:
    send(desk, "publish", "old", 0, OLD)
    for version, days, text, status, reason in (
        ("new", -1, NEW, 409, "is over"),
        ("new", 1, OLD, 409, "Version old has this text already"),
        ("old", 0, NEW, 409, "choose a new name"),
        ("old", 0, OLD, 409, "published already"),
        ("new", 1, " ", 409, "The text is empty"),
        ("new", 1, "a\0b", 409, "not plain text"),
        ("a b", 1, NEW, 409, "Name the version"),
        ("new", "1 January", NEW, 422, "Write a day such as 2027-01-31"),
        ("new", "2027-02-30", NEW, 422, "Write a day such as 2027-01-31"),
        ("new", "", NEW, 422, "Write a day such as 2027-01-31"),
    ):
        for act in ("check", "publish"):
            refused = send(desk, act, version, days, text)
            assert refused.status_code == status, (version, days, text)
            assert reason in unescape(refused.text)
            assert "<title>Error: " in refused.text
            assert f'value="{version}"' in refused.text
    assert "not text in UTF-8" in send(desk, "check", "new", 1, file=b"\xff\xfe").text
    # The text of a file is kept too: a browser does not send the file again.
    assert "Much less." in send(desk, "check", "new", -1, file=b"Much less.").text.partition("<textarea")[2]
    assert "Much less." in send(desk, "change", "new", 1, "Much less.").text.partition("<textarea")[2]
    assert [row["version"] for row in service.rows("policies")] == ["old"]


def test_a_form_that_is_sent_twice_publishes_once_and_says_so(service: Service, desk: Desk) -> None:
    assert send(desk, "publish", "2027-01", 1, NEW).status_code == 303
    again = send(desk, "publish", "2027-01", 1, NEW)
    assert (again.status_code, "published already" in again.text) == (409, True)
    with service.app.app_context():
        assert [entry.act for entry in audit.listed(act="policy-published").rows] == ["policy-published"]


def test_of_two_concurrent_publications_one_is_refused(service: Service) -> None:
    mary, grace = Desk(service), Desk(service, "grace@example.org", name="Grace")

    def act(desk: Desk, version: str) -> int:
        return send(desk, "publish", version, 1, NEW).status_code

    assert sorted(at_once(lambda: act(mary, "one"), lambda: act(grace, "two"))) == [303, 409]
    assert sorted(at_once(lambda: act(mary, "three"), lambda: act(grace, "three"))) == [409, 409]
    assert len(service.rows("policies")) == 1


@any_database
def test_an_upcoming_version_is_withdrawn_after_a_question(service: Service, desk: Desk, move_clock: MoveClock) -> None:
    send(desk, "publish", "old", 0, OLD)
    send(desk, "publish", "new", 2, NEW)
    assert "withdraw" not in desk.get("/policies").partition(">old<")[2]
    assert "cannot be undone" in desk.get("/policies/new/withdraw")
    desk.post("/policies/new/withdraw")
    assert "withdrawn already" in desk.post("/policies/new/withdraw", 409).text
    for version, status, reason in (("old", 409, "came into force"), ("none", 404, "no version")):
        assert reason in desk.get(f"/policies/{version}/withdraw", status)
        assert reason in desk.post(f"/policies/{version}/withdraw", status).text
    move_clock(timedelta(days=3))
    desk.sign_in()
    with service.app.app_context():
        assert [(each.version, each.state) for each in policy.versions()] == [("old", "in force"), ("new", "withdrawn")]


def test_a_text_of_240_kib_is_published_and_a_larger_form_is_refused(service: Service, desk: Desk) -> None:
    text = "x" * (policy.MOST_BYTES - 2) + "\n"
    preview = send(desk, "check", "2027-01", 1, file=text.encode())
    assert desk.write(NEW_POLICY, **hidden(preview.text) | {"act": "publish", "text": text}).status_code == 303
    assert service.rows("policies")[0]["text"] == text
    for longer in (b"x" * (policy.MOST_BYTES + 1), "é\n".encode() * (policy.MOST_BYTES // 3 + 1)):
        assert "longer than 240 KiB" in send(desk, "check", "2027-02", 1, file=longer).text
    assert send(desk, "check", "2027-02", 1, file=b"x" * 300 * 1024).status_code == 413


def test_without_the_forms_own_token_or_a_session_nothing_is_published(service: Service, desk: Desk) -> None:
    fields = {"act": "publish", "version": "2027-01", "effective_on": day(1), "text": NEW}
    for browser, status in ((desk.browser, 422), (service.http, 403)):
        response = browser.post("/desk/policies/new", data=fields, content_type="multipart/form-data")
        assert response.status_code == status
    assert service.rows("policies") == []
