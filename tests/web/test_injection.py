"""Injection by a field: into the database, the log, a page, an email, a terminal; and long input for the hasher."""

import json
import logging
import re
import unicodedata

import pytest
from argon2 import PasswordHasher
from journeys import request_email_change
from peers import html_of, text_of
from support import NOBODY, PASSWORD, Person, Service, any_database, assert_problem, bearer, comparable, invoke

from backend.mail.news import News
from backend.privacy import announcements
from backend.serving import worker

EVIL = "evil.example"


# For the database

SQL = [
    "'; DROP TABLE accounts; --",
    "' OR '1'='1",
    "x' UNION SELECT password_hash FROM accounts --",
    "%' OR email LIKE '%",
    "\\'; DELETE FROM sessions; /*",
    "$$; SELECT pg_sleep(10); $$",
    ":email %(email)s {email} ?",
]


def test_sql_injection_is_stored_as_plain_text(service: Service, ada: Person) -> None:
    eve = service.register(name=SQL[0], email="eve@example.org")
    assert service.account(eve.headers).json["name"] == SQL[0]
    for sql in SQL:
        named = service.http.patch("/v1/account", json={"name": sql}, headers=eve.headers)
        assert named.json["name"] == sql
        headers = eve.headers | {"Idempotency-Key": sql}
        response = service.http.post("/v1/feedback", json={"message": sql}, headers=headers)
        assert response.status_code == 201
        accepted = service.http.patch("/v1/account", json={"accepted_policy": sql[:40]}, headers=eve.headers)
        assert_problem(accepted, 422, "invalid-request")
        assert service.http.delete(f"/v1/sessions/{sql}", headers=eve.headers).status_code == 404
        for token in (sql, f"tiles_{sql}"):
            assert_problem(service.confirm(token), 400, "invalid-token")
            assert service.http.get("/v1/account", headers=bearer(token)).status_code == 401
    assert sorted(row["message"] for row in service.rows("feedback")) == sorted(SQL)
    assert service.account(ada.headers).json["name"] == "Ada Lovelace"
    assert len(service.rows("accounts")) == len(service.rows("sessions")) == 2


def test_sql_injection_by_an_address_signs_nobody_in(service: Service, ada: Person) -> None:
    for local in ("'or'1'='1'or'", "ada'--", "a'/**/or/**/1=1/**/", "%"):
        email = f"{local}@example.org"
        assert service.sign_in(email, PASSWORD).status_code in {401, 422}
        service.http.post("/v1/password-resets", json={"email": email})
    assert service.deliver() == []
    assert service.account(ada.headers).status_code == 200


# For the log


@any_database
def test_log_injection_writes_no_extra_line(service: Service, ada: Person, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    forged = "\r\n2026-01-01 00:00:00,000 INFO backend.web.problems: FORGED"
    quoted = "%0d%0a2026-01-01%20INFO%20FORGED%1b[2J"
    for path in ("/", "/v1/sessions/", "/problems/", "/unsubscribe/", "/?"):
        for method in ("GET", "POST", "DELETE"):
            service.http.open(f"{path}{quoted}", method=method, headers=ada.headers)
    service.http.open("/v1/account", method="FORGED")
    for body in ({"name": forged, "email": "eve@example.org"}, {"name": "Eve", "email": f"eve@example.org{forged}"}):
        service.http.post("/v1/registrations", json=body | {forged: 1})
        service.http.post("/v1/registrations", json=body)
    service.http.post("/password-reset", data={"email": forged})
    service.mail_server.refuse = "550 5.1.1 no\r\n such FORGED mailbox"
    request_email_change(service, ada.headers, "eve@example.org")
    service.deliver()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("backend")]
    assert len(messages) > 15
    assert [line for line in messages if "FORGED" in line or not line.isprintable()] == []


# For a page and for a mail

MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "</textarea><svg onload=alert(1)>",
    "{{ 7 * 191 }}",
    "{% raw %}${7*191}<%= 7*191 %>",
    f"<a href=https://{EVIL}>click</a>",
    "javascript:alert(1)//",
]


@pytest.mark.parametrize("markup", MARKUP)
def test_html_injection_into_a_form_comes_back_as_text(shared_service: Service, markup: str) -> None:
    service, fields = shared_service, dict.fromkeys(("email", "token", "password", "List-Unsubscribe", markup), markup)
    rules = [rule for rule in service.app.url_map.iter_rules() if "POST" in (rule.methods or ())]
    for path in [rule.rule for rule in rules if not rule.rule.startswith("/v1/")]:
        page = service.http.post(path.replace("<token>", markup), data=fields).text
        for active in ("<script>", "<img src=x", "<svg", f"<a href=https://{EVIL}", "1337"):
            assert active not in page
        assert re.findall(r"\son\w+=", re.sub(r'"[^"]*"', "", page)) == []


@any_database
def test_html_or_formula_injection_by_the_name_is_in_no_mail_and_active_in_no_answer(service: Service) -> None:
    names = [*MARKUP, '=HYPERLINK("https://evil.example")', "@SUM(1+1)*cmd|' /C calc'!A0"]
    people = {name: service.register(name=name, email=f"eve{number}@example.org") for number, name in enumerate(names)}
    for name, eve in people.items():
        service.http.post("/v1/registrations", json={"name": name, "email": eve.email})
        service.http.post("/v1/password-resets", json={"email": eve.email})
        for answer in (service.account(eve.headers), service.http.get("/v1/account/export", headers=eve.headers)):
            assert (answer.mimetype, answer.headers["X-Content-Type-Options"]) == ("application/json", "nosniff")
            assert name in str(answer.json)
    with service.app.app_context():
        announcements.announce(News("News", "TILES can do more now."))
        while worker.deliver():
            pass
    assert len(service.mail_server.messages) == 4 * len(names)
    for message in service.mail_server.messages:
        content = message.as_string() + text_of(message) + html_of(message)
        assert [name for name in names if name in content] == []


# For a terminal (kubectl, CVE-2021-25743)

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
ESCAPES = ["\x1b]0;pwned\a", "\x1b[2J\x1b[H", "\x9b31m", "a\rb", "a\bb", "\x1bP+q\x1b\\", "\x85"]


@any_database
def test_no_field_that_a_command_prints_accepts_a_terminal_escape_sequence(service: Service, ada: Person) -> None:
    for text in [f"a{control}b" for control in CONTROLS if control not in "\n\t"] + ESCAPES:
        name = service.http.patch("/v1/account", json={"name": f"Ada{text}Lovelace"}, headers=ada.headers)
        email = service.http.post("/v1/registrations", json={"name": "Eve", "email": f"eve{text}@example.org"})
        # A return before a line feed, as one line break, is taken; alone it is none.
        message = service.http.post("/v1/feedback", json={"message": f"More {text} tiles"})
        assert [answer.status_code for answer in (name, email, message)] == [422] * 3, repr(text)
    for text in "\n\t":
        answer = service.http.patch("/v1/account", json={"name": f"Ada{text}Lovelace"}, headers=ada.headers)
        assert answer.status_code == 422
    assert service.rows("feedback") == []


# Characters that change the direction of text (Trojan Source, CVE-2021-42574).
TURNING = "\u202e\u2066\u2067\u202a"


@any_database
def test_a_command_prints_text_for_a_person_from_left_to_right(service: Service, ada: Person) -> None:
    for text in TURNING:
        answer = service.http.patch("/v1/account", json={"name": f"Ada {text}Lovelace"}, headers=ada.headers)
        assert answer.status_code == 422
        service.http.post("/v1/feedback", json={"message": f"More {text}tiles\n\tand\u2028more\u200b"})
    service.http.patch("/v1/account", json={"name": "Ada 愛 Ωμέγα"}, headers=ada.headers)
    for printed in (invoke(service, "feedback", "list").output, invoke(service, "data", "find", ada.email).output):
        unseen = [c for c in printed if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c != "\n"]
        assert unseen == []


def test_a_command_prints_json_that_turns_no_text_around_and_loses_nothing(service: Service) -> None:
    message = f"More {TURNING}tiles 愛"
    assert service.http.post("/v1/feedback", json={"message": message}).status_code == 201
    for printed in (invoke(service, "feedback", "list", "--json").output, invoke(service, "feedback", "export").output):
        assert [c for c in TURNING if c in printed] == []
        assert "愛" in printed
        assert json.dumps(message) in json.dumps(json.loads(printed))


@any_database
def test_letters_with_too_many_accents_are_refused_before_they_are_composed(service: Service) -> None:
    for marks, status in ((30, 201), (31, 422), (2000, 422)):
        message = "e" + "\u0315" * marks
        assert service.http.post("/v1/feedback", json={"message": message}).status_code == status


# For the hasher (Django, CVE-2013-1443)


@any_database
def test_a_very_long_password_is_refused_before_it_is_hashed(
    service: Service, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was hashed")

    token = service.ask_for_reset()
    monkeypatch.setattr(PasswordHasher, "hash", fail)
    monkeypatch.setattr(PasswordHasher, "verify", fail)
    for password, status in (("x" * 1_000_000, 413), ("x" * 15_000, 422), ("\u0344" * 1_000, 422), ("x" * 257, 422)):
        for method, path, body in (
            ("POST", "/v1/sessions", {"email": ada.email, "password": password}),
            ("POST", "/v1/registrations/confirm", {"token": "made-up", "password": password}),
            ("POST", "/v1/password-resets/confirm", {"token": token, "password": password}),
            ("PUT", "/v1/account/password", {"current_password": password, "new_password": PASSWORD}),
            ("POST", "/v1/account/email-changes", {"email": "eve@example.org", "password": password}),
            ("POST", "/v1/account/close", {"password": password}),
        ):
            answer = service.http.open(path, method=method, json=body, headers=ada.headers)
            assert answer.status_code == status, path
        for page in ("/registration", "/password-reset/confirm"):
            assert service.http.post(page, data={"token": token, "password": password}).status_code == status


# Other people's things (OWASP API1:2023)


def test_broken_object_level_authorization_finds_no_object_of_another_account(service: Service, ada: Person) -> None:
    eve = service.register(name="Eve", email="eve@example.org")
    service.http.post("/v1/feedback", json={"message": "Ada's own"}, headers=ada.headers)
    hers = service.rows("accounts")[0]["id"]
    before = service.everything()
    made_up = service.http.delete(f"/v1/sessions/{NOBODY}", headers=eve.headers)
    for id_ in (ada.session["id"], str(hers), NOBODY):
        answer = service.http.delete(f"/v1/sessions/{id_}", headers=eve.headers)
        assert_problem(answer, 404, "not-found")
        assert comparable(answer) == comparable(made_up)
        for path in ("/v1/account", "/v1/account/export", "/v1/sessions"):
            pretending = {"X-User-Id": id_, "X-Account": id_, "From": ada.email}
            query = {"account": id_, "id": id_, "email": ada.email}
            response = service.http.get(path, query_string=query, headers=eve.headers | pretending)
            assert response.status_code == 200
            assert "Ada" not in response.text
            assert ada.session["id"] not in response.text
    assert service.everything() == before
