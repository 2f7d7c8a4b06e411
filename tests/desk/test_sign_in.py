"""Signing in at the desk: who may, for how long, and what a form must prove."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from desk_door import MARY, Desk
from peers import html_of, text_of, token_of
from support import Service, any_database
from werkzeug.test import TestResponse

from backend.desk import managers
from backend.errors import Impossible

Make = Callable[..., Service]
MoveClock = Callable[[timedelta], None]


def ask(service: Service, email: str) -> TestResponse:
    return service.http.post("/desk/sign-in", data={"email": email})


def test_a_manager_signs_in_by_an_emailed_link_once(service: Service) -> None:
    desk = Desk(service)
    assert "Mary Somerville" in desk.get("/sessions")
    desk.browser.post("/desk/sign-in", data={"email": MARY.upper()})
    message = service.mail()
    assert "works for 10 minutes" in text_of(message)
    assert "works for 10 minutes" in html_of(message)
    assert "https://accounts.tiles.test/desk/sign-in#" in text_of(message)
    token = token_of(message)
    looked = service.http.post("/desk/sign-in/look", data={"token": token})
    assert "Mary Somerville" in looked.text
    assert service.http.post("/desk/sign-in/confirm", data={"token": token}).status_code == 303
    assert service.http.post("/desk/sign-in/confirm", data={"token": token}).status_code == 400
    assert "no longer works" in service.http.post("/desk/sign-in/look", data={"token": token}).text


def test_a_link_works_for_ten_minutes(service: Service, move_clock: MoveClock) -> None:
    Desk(service)
    ask(service, MARY)
    token = token_of(service.mail())
    move_clock(timedelta(minutes=11))
    assert "has expired" in service.http.post("/desk/sign-in/look", data={"token": token}).text
    assert service.http.post("/desk/sign-in/confirm", data={"token": token}).status_code == 400


def test_an_address_of_no_manager_gets_the_same_response_and_no_email(service: Service) -> None:
    Desk(service)
    with service.statements() as known:
        mine = ask(service, MARY)
    with service.statements() as unknown:
        others = ask(service, "nobody@example.org")
    assert mine.text == others.text.replace("nobody@example.org", MARY)
    assert (mine.status_code, known) == (others.status_code, unknown)
    assert [message["To"] for message in service.deliver()] == [MARY]


def test_signing_in_is_limited_as_resets_are(make_service: Make) -> None:
    service = make_service(rate_limits="")
    assert [ask(service, MARY).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert 1 <= int(ask(service, MARY).headers["Retry-After"]) <= 3600


@any_database
@pytest.mark.parametrize(("public_url", "start"), [
    ("https://accounts.tiles.test", "__Secure-tiles_desk="), ("http://127.0.0.1:8000", "tiles_desk="),
])  # fmt: skip
def test_the_cookie_is_for_the_desk_alone(make_service: Make, public_url: str, start: str) -> None:
    service = make_service(public_url=public_url)
    cookie = Desk(service).sign_in().headers["Set-Cookie"]
    parts = set(cookie.split("; "))
    assert cookie.startswith(start)
    assert {"HttpOnly", "SameSite=Strict", "Path=/desk", "Max-Age=28800"} <= parts
    assert ("Secure" in parts) == public_url.startswith("https")
    assert len(cookie.partition("=")[2].partition(";")[0]) == 43
    stored = service.rows("desk_sessions")[0]
    assert cookie.partition("=")[2].partition(";")[0].encode() not in str(stored).encode()


def test_only_the_desk_reads_or_sets_a_cookie(service: Service) -> None:
    desk = Desk(service)
    for rule in service.app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and not rule.arguments and not rule.rule.startswith("/desk"):
            with_cookie = desk.browser.get(rule.rule, headers={"Cookie": "tiles_desk=x; __Secure-tiles_desk=x"})
            assert "Set-Cookie" not in with_cookie.headers
            assert with_cookie.status_code == service.http.get(rule.rule).status_code


@pytest.mark.parametrize(("moved", "steps", "status"), [(25, 10, 200), (31, 1, 303), (29, 17, 303)])
def test_a_session_ends_after_30_idle_minutes_and_after_8_hours(
    service: Service, move_clock: MoveClock, moved: int, steps: int, status: int
) -> None:
    desk = Desk(service)
    for _ in range(steps):
        move_clock(timedelta(minutes=moved))
        response = desk.browser.get("/desk/sessions")
    assert response.status_code == status


def sessions(service: Service) -> list[UUID]:
    """Return the ids of all sessions at the desk, the oldest first."""
    rows = sorted(service.rows("desk_sessions"), key=lambda row: str(row["signed_in_at"]))
    return [UUID(str(row["id"])) for row in rows]


def test_a_manager_ends_sessions_and_those_of_others_never(service: Service) -> None:
    first, second, other = Desk(service), Desk(service), Desk(service, "grace@example.org", name="Grace")
    mine, hers, grace = sessions(service)
    first.post(f"/sessions/{grace}/end", 404)
    other.get("/sessions")
    assert first.post(f"/sessions/{hers}/end").location == "/desk/sessions"
    assert second.browser.get("/desk/sessions").location == "/desk/sign-in"
    assert first.post(f"/sessions/{mine}/end").location == "/desk/sign-in"
    assert first.browser.get("/desk/sessions").location == "/desk/sign-in"


def test_a_removed_manager_is_signed_out_at_once_and_stays_in_the_audit(service: Service) -> None:
    desk = Desk(service)
    with service.app.app_context():
        with pytest.raises(Impossible):
            managers.invite(MARY.upper(), "Another")
        removed = managers.remove(MARY)
        with pytest.raises(Impossible):
            managers.remove(MARY)
    assert desk.browser.get("/desk/sessions").status_code == 303
    ask(service, MARY)
    assert service.deliver() == []
    acts = [(row["act"], row["actor"]) for row in service.rows("audit")]
    assert ("manager-removed", "data manager") in acts
    signed_in = next(row for row in service.rows("audit") if row["act"] == "signed-in")
    assert str(signed_in["manager_id"]).replace("-", "") == removed.id.hex
    with service.app.app_context():
        assert managers.invite(MARY, "Mary again").id != removed.id


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
]


def test_a_form_from_another_site_is_refused(service: Service) -> None:
    desk = Desk(service)
    ended = f"/desk/sessions/{sessions(service)[0]}/end"
    form = {"form_token": desk.form_token}
    for headers in FOREIGN:
        assert desk.browser.post(ended, data=form, headers=headers).status_code == 422
        assert desk.browser.post("/desk/sign-in", data={"email": MARY}, headers=headers).status_code == 422
    assert desk.browser.post(ended, data={}).status_code == 422
    assert desk.browser.post(ended, data={"form_token": "0" * 64}).status_code == 422
    assert desk.browser.post(ended, data=form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_without_a_sign_in_the_desk_reveals_nothing(service: Service) -> None:
    Desk(service)
    for rule in service.app.url_map.iter_rules():
        if rule.rule.startswith("/desk") and not rule.rule.startswith("/desk/sign-in"):
            path = rule.rule.replace("<uuid:", "<").replace("<", "").replace(">", "")
            response = service.http.get(path, headers={"Cookie": "__Secure-tiles_desk=forged"})
            assert response.status_code in {303, 404, 405}
            assert service.http.head(path).status_code == service.http.get(path).status_code
    forged = service.http.post("/desk/sessions/x/end", data={})
    assert forged.status_code in {403, 404}


def test_without_the_desk_there_is_no_page_of_it(make_service: Make) -> None:
    service = make_service(desk=False)
    for path in ("/desk", "/desk/sign-in", "/desk/sessions"):
        assert service.http.get(path).status_code == 404
        assert service.http.post(path, data={"email": MARY}).status_code == 404
