"""Promises 11 and 14: logs name nobody, and links come from the configured public URL."""

import json
import logging
import re
from collections.abc import Callable
from email.message import EmailMessage

import pytest
from flask.testing import FlaskClient
from journeys import MakeService, change_email, confirm_erasure, erase_due, post, signed_in
from links import NEW, announce, emailed
from peers import html_of, text_of, token_of
from support import PASSWORD, Service, any_database, assert_problem, bearer
from werkzeug.test import TestResponse

from backend.clock import now
from backend.mail import queue
from backend.mail.news import News
from backend.privacy import policy

ADA, EVIL = "ada@example.org", "evil.example"


# Logs name nobody


MARKED = {
    "User-Agent": "marker-agent/1.0",
    "X-Forwarded-For": "203.0.113.77",
    "Referer": "https://marker-referer.test/",
}


def walk(service: Service) -> list[str]:
    """Send the requests of a person, a broken app and an attacker; return the secrets in them."""
    http = service.http
    person = {"name": "Marker-Name", "email": "marker-email@example.org"}
    password, second, third = "marker-password quiet lemon", "marker-second wooden boats", "marker-third violin snow"

    def send(method: str, path: str, body: object = None, **headers: str) -> TestResponse:
        options = {} if body is None else {"json": body}
        return http.open(path, method=method, headers=MARKED | headers, **options)

    send("POST", "/v1/registrations", person)
    registration = token_of(service.mail())
    send("POST", "/v1/registrations/confirm", {"token": registration[:-3], "password": password})
    send("POST", "/v1/registrations/confirm", {"token": registration, "password": "marker"})
    signed_in = send("POST", "/v1/registrations/confirm", {"token": registration, "password": password})
    session = signed_in.json["session"]
    mine = bearer(session["token"])
    send("POST", "/v1/registrations/confirm", {"token": registration, "password": password})
    send("POST", "/v1/registrations", person)
    send("POST", "/v1/sessions", {"email": person["email"], "password": password})
    send("POST", "/v1/sessions", {"email": person["email"], "password": "marker-wrong"})
    send("POST", "/v1/sessions", {"email": "marker-nobody@example.org", "password": "marker-wrong"})
    send("POST", "/v1/sessions", {"email": "marker-no-address", "password": "marker-wrong", "marker-member": "marker"})
    for path in ("/v1/account", "/v1/sessions", "/marker-path", "/problems/marker-code?marker=query", "/v1/marker"):
        send("GET", path, **mine)
        send("GET", path, Authorization="Bearer tiles_marker-made-up", Accept="text/html")
    send("MARKER", "/v1/account", **mine)
    http.post("/v1/sessions", data=b'{"marker": ', headers=MARKED, content_type="application/json")
    http.post("/v1/sessions", data=b"marker=1", headers=MARKED)
    http.post("/password-reset", data={"email": "marker-no-address"}, headers=MARKED)
    http.post("/password-reset/confirm", data={"token": "marker-token", "password": password}, headers=MARKED)
    change = {"current_password": "marker-wrong", "new_password": second}
    send("PUT", "/v1/account/password", change, **mine)
    send("PUT", "/v1/account/password", change | {"current_password": password}, **mine)
    send("POST", "/v1/password-resets", {"email": person["email"]})
    service.mail_server.refuse = "451 <marker-email@example.org> is asked to wait"
    service.deliver()
    service.mail_server.refuse = None
    service.run(queue.retry)
    reset = next(token_of(message) for message in service.deliver() if "Reset" in str(message["Subject"]))
    send("POST", "/v1/password-resets/confirm", {"token": reset, "password": third})
    send("POST", "/v1/password-resets/confirm", {"token": reset, "password": third})
    service.mail_server.refuse = "550 <marker-email@example.org> is unknown"
    service.deliver()
    again = send("POST", "/v1/sessions", {"email": person["email"], "password": third}).json["session"]
    send("DELETE", f"/v1/sessions/{again['id']}", **bearer(again["token"]))
    return [registration, reset, session["token"], session["id"], again["token"], again["id"]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the log of the service and its libraries."""
    caplog.set_level(logging.DEBUG)

    def lines() -> list[str]:
        own = (record for record in caplog.records if record.name not in {"mail.log", "asyncio"})
        return [json.dumps([record.name, record.getMessage(), record.exc_text]) for record in own]

    return lines


def test_promise_11_logs_name_nobody(
    logged: Callable[[], list[str]], service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = walk(service)
    lines = logged()
    assert sum("backend" in line for line in lines) > 20
    forbidden = ["marker", "127.0.0.1", "203.0.113.77", "argon2id", *secrets]
    assert [line for line in lines if any(word.lower() in line.lower() for word in forbidden)] == []
    assert capfd.readouterr() == ("", "")


# Links come from the configured public URL


class Poisoned(Service):
    """The service; every request names another host in every header that may name one."""

    @property
    def http(self) -> FlaskClient:
        client = super().http
        hosts = ("Host", "X-Forwarded-Host", "X-Forwarded-Server", "X-Host", "X-Original-Host")
        poison = dict.fromkeys(hosts, EVIL) | {
            "X-Original-URL": f"https://{EVIL}/",
            "X-Forwarded-Proto": "javascript",
            "X-Forwarded-Port": "8443",
            "X-Forwarded-Prefix": f"//{EVIL}",
            "Forwarded": f"host={EVIL};proto=javascript",
            "Origin": f"https://{EVIL}",
            "Referer": f"https://{EVIL}/",
        }
        for name, value in poison.items():
            client.environ_base[f"HTTP_{name.upper().replace('-', '_')}"] = value
        return client


def every_email(service: Service) -> dict[str, EmailMessage]:
    """Take an account through its life so that each kind of email is sent; return the emails by their subjects."""
    service.register()
    emailed(service, post(service, "registrations", name="Ada", email=ADA))
    assert service.reset(service.ask_for_reset(), PASSWORD).status_code == 204
    change_email(service, signed_in(service, ADA), NEW)
    announce(service)
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=now().date(), text="We store little.")
    announce(service, News(version="2026-01"))
    link = token_of(emailed(service, post(service, "erasure-requests", email=NEW)))
    assert confirm_erasure(service, link).status_code == 200
    service.deliver()
    assert erase_due(service) == 1
    service.deliver()
    return {str(message["Subject"]): message for message in service.mail_server.messages}


@any_database
@pytest.mark.parametrize("trusted_proxies", [0, 1])
def test_promise_14_a_host_injected_into_a_request_is_in_no_link_of_any_email(
    make_service: MakeService, trusted_proxies: int
) -> None:
    service = make_service(erasure_grace_days=0, trusted_proxies=trusted_proxies)
    emails = every_email(Poisoned(service.app, service.mail_server))
    assert len(emails) == 11
    for subject, message in emails.items():
        content = f"{message.as_string()}{text_of(message)}{html_of(message)}"
        assert EVIL not in content, subject
        links = re.findall(r"https?://[^\s\"'<>]+", f"{text_of(message)}{html_of(message)}")
        assert links
        assert all(url.startswith("https://accounts.tiles.test") for url in links), subject


@any_database
def test_promise_14_no_problem_and_no_page_shows_the_requested_host(service: Service) -> None:
    http = Poisoned(service.app, service.mail_server).http
    assert_problem(http.get("/v1/account"), 401, "unauthenticated")
    assert_problem(http.post("/v1/sessions", json={}), 422, "invalid-request")
    assert_problem(http.get("/nowhere"), 404, "not-found")
    rules = [
        rule.rule for rule in service.app.url_map.iter_rules() if "GET" in (rule.methods or ()) and not rule.arguments
    ]
    assert "/privacy" in rules
    paths = {*rules, *(rule.rstrip("/") or "/" for rule in rules), *(f"{rule}/" for rule in rules), "//privacy"}
    for path in sorted(paths):
        for accept in ("text/html", "application/json"):
            response = http.get(path, headers={"Accept": accept})
            assert EVIL not in response.text + str(response.headers), path
