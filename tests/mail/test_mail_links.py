"""Links in emails: scanners use none up, no request chooses their host, and no stranger's text reaches a mailbox."""

import re
import uuid
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import urldefrag, urlsplit

import pytest
from flask.testing import FlaskClient
from journeys import (
    MakeService,
    cancel,
    change_email,
    close,
    confirm_email_change,
    confirm_erasure,
    erase_due,
    request_email_change,
    signed_in,
    undo,
)
from support import PASSWORD, Person, Service, any_database, html_of, text_of, token_of
from werkzeug.test import TestResponse

from backend.clock import now
from backend.database import engine
from backend.desk import feedback
from backend.mail.news import News
from backend.privacy import announcements, policy
from backend.serving import worker

ADA, NEW, STRANGER = "ada@example.org", "countess@example.org", "stranger@example.org"
PATHS = "registrations", "password-resets", "erasure-requests"
EVIL = "evil.example"

Link = tuple[Callable[[Service, Person], EmailMessage], Callable[[Service, str], TestResponse]]


def announce(service: Service) -> EmailMessage:
    """Email something to everybody; return the last email."""
    with service.app.app_context():
        announcements.announce(News("News", "TILES can do more now."))
        while worker.deliver():
            pass
    return service.mail_server.messages[-1]


def reply(service: Service, person: Person) -> EmailMessage:
    """Email a reply to a person's feedback."""
    sent = service.http.post("/v1/feedback", json={"message": "More tiles."}, headers=person.headers)
    with service.app.app_context():
        feedback.reply(uuid.UUID(sent.json["id"]), message="Thank you.", after=0)
    return service.mail()


def request(service: Service, path: str, email: str, name: str = "Ada") -> EmailMessage:
    body = {"email": email} | ({"name": name} if path == "registrations" else {})
    assert service.http.post(f"/v1/{path}", json=body).status_code == 202
    return service.mail()


def mailed(service: Service, response: TestResponse) -> EmailMessage:
    assert response.status_code < 300
    return service.mail()


# For each email with a link: how it is requested, and how a person uses the link.
LINKS: dict[str, Link] = {
    "registration": (lambda s, _: request(s, "registrations", NEW), Service.confirm),
    "registration of an account": (lambda s, a: request(s, "registrations", a.email), Service.reset),
    "reset": (lambda s, a: request(s, "password-resets", a.email), Service.reset),
    "email change": (lambda s, a: mailed(s, request_email_change(s, a.headers, NEW)), confirm_email_change),
    "undo": (lambda s, a: change_email(s, a.headers, NEW)[-1], undo),
    "erasure": (lambda s, a: request(s, "erasure-requests", a.email), confirm_erasure),
    "closed": (lambda s, a: mailed(s, close(s, a.headers)), cancel),
    "announcement": (lambda s, _: announce(s), lambda s, token: s.http.post(f"/unsubscribe/{token}")),
    "feedback reply": (reply, lambda s, token: s.http.post(f"/unsubscribe/{token}")),
}
SCANNERS = [
    {"User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) SafeLinks", "Accept": "*/*"},
    {"User-Agent": "GoogleImageProxy", "Accept": "text/html", "Purpose": "prefetch", "Sec-Purpose": "prefetch"},
]


def urls_of(message: EmailMessage) -> set[str]:
    """Return every URL in an email's parts and headers."""
    parts = f"{text_of(message)}\n{html_of(message)}\n{message.get('List-Unsubscribe', '')}"
    return set(re.findall(r"https?://[^\s\"'<>]+", parts))


def scan(service: Service, url: str) -> None:
    """Open a URL as scanners do: several times, also rewritten so that the fragment reaches a server."""
    whole, fragment = urldefrag(url)
    path = urlsplit(whole).path or "/"
    rewritten = [f"{path}?token={fragment}", f"{path}/{fragment}", f"{path}%23{fragment}"] if fragment else []
    for address in (path, *rewritten):
        for headers in SCANNERS:
            for method in ("HEAD", "GET", "GET"):
                response = service.http.open(address, method=method, headers=headers)
                assert response.status_code in {200, 303, 404}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
def test_a_mail_scanner_uses_up_no_link(service: Service, ada: Person, link: Link) -> None:
    def stored() -> dict[str, list[dict[str, object]]]:
        return {name: service.rows(name) for name in engine.Base.metadata.tables}

    make, use = link
    message = make(service, ada)
    before = stored()
    for url in urls_of(message):
        scan(service, url)
    assert stored() == before
    token = re.findall(r"(?:#|/unsubscribe/)(\S{40,})", text_of(message))[0]
    assert use(service, token).status_code < 300
    assert stored() != before


class Poisoned(Service):
    """The service; every request names another host in every header that may name one."""

    @property
    def http(self) -> FlaskClient:
        client = super().http
        hosts = ("Host", "X-Forwarded-Host", "X-Forwarded-Server", "X-Host", "X-Original-Host")
        poison = dict.fromkeys(hosts, EVIL) | {
            "X-Original-URL": f"https://{EVIL}/",
            "X-Forwarded-Proto": "javascript",
            "X-Forwarded-Prefix": f"//{EVIL}",
            "Forwarded": f"host={EVIL};proto=javascript",
            "Origin": f"https://{EVIL}",
            "Referer": f"https://{EVIL}/",
        }
        for name, value in poison.items():
            client.environ_base[f"HTTP_{name.upper().replace('-', '_')}"] = value
        return client


def every_mail(service: Service) -> dict[str, EmailMessage]:
    """Let a person live so that each kind of email is sent; return the emails by their subjects."""
    service.register()
    request(service, "registrations", ADA)
    assert service.reset(token_of(request(service, "password-resets", ADA)), PASSWORD).status_code == 204
    change_email(service, signed_in(service, ADA), NEW)
    announce(service)
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=now().date(), text="We store little.")
        announcements.announce(News(version="2026-01"))
        while worker.deliver():
            pass
    assert confirm_erasure(service, token_of(request(service, "erasure-requests", NEW))).status_code == 200
    service.deliver()
    assert erase_due(service) == 1
    service.deliver()
    return {str(message["Subject"]): message for message in service.mail_server.messages}


@any_database
@pytest.mark.parametrize("trusted_proxies", [0, 1])
def test_a_host_injected_into_a_request_is_in_no_link_of_any_email(
    make_service: MakeService, trusted_proxies: int
) -> None:
    service = make_service(erasure_grace_days=0, trusted_proxies=trusted_proxies)
    emails = every_mail(Poisoned(service.app, service.mail_server))
    assert len(emails) == 11
    for subject, message in emails.items():
        assert EVIL not in message.as_string() + text_of(message) + html_of(message), subject
        assert all(url.startswith("https://accounts.tiles.test") for url in urls_of(message)), subject


# No hexadecimal digest can contain any of these words.
SPAM = "WIN 500 EUR NOW http://spam.example/win Call 0190-5550"


@any_database
def test_spam_in_the_name_field_reaches_no_stranger(service: Service) -> None:
    spammer = service.register(name=SPAM, email="spammer@example.org")
    service.register(email=NEW)
    before = len(service.mail_server.messages)
    for email in (STRANGER, NEW):
        for path in PATHS:
            body = {"email": email} | ({"name": SPAM} if path == "registrations" else {})
            assert service.http.post(f"/v1/{path}", json=body).status_code == 202
        assert request_email_change(service, spammer.headers, email).status_code == 202
    service.deliver()
    emails = service.mail_server.messages[before:]
    assert sorted({message["To"] for message in emails}) == [NEW, STRANGER]
    for message in emails:
        content = f"{message.as_string()}{text_of(message)}{html_of(message)}".lower()
        assert [word for word in ("win 500", "spam.example", "0190-5550", "spammer") if word in content] == []


HEADERS = [
    "\r\nBcc: eve@example.org",
    "\nBcc: eve@example.org",
    "\r\n\r\nBody",
    "%0d%0aBcc: eve@example.org",
    "\u2028Bcc: eve@example.org",
    "\x85Bcc: eve@example.org",
    "\0",
    "> ORCPT=x\r\nRCPT TO:<eve@example.org",
]


@any_database
def test_email_header_injection_adds_no_recipient_and_no_header(service: Service, ada: Person) -> None:
    for injected in HEADERS:
        for email in (f"bob@example.org{injected}", f"bob{injected}@example.org", f"bob@example.org>{injected}"):
            for path in PATHS:
                body = {"email": email} | ({"name": "Bob"} if path == "registrations" else {})
                assert service.http.post(f"/v1/{path}", json=body).status_code == 422
            for page in ("/password-reset", "/erasure"):
                service.http.post(page, data={"email": email})
            assert request_email_change(service, ada.headers, email).status_code == 422
        service.http.post("/v1/registrations", json={"name": f"Bob{injected}", "email": "bob@example.org"})
    service.deliver()
    for envelope, message in zip(service.mail_server.envelopes, service.mail_server.messages, strict=True):
        assert len(envelope.rcpt_tos) == 1
        assert "eve@" not in f"{envelope.rcpt_tos}{message['To']}{message['Subject']}"
        assert message.get_all("Bcc") is None
