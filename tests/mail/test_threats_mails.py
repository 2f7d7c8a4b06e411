"""Attacks on mails and their links: scanners, injected hosts and headers, spam to strangers.

Each test is named after its attack; `docs/threats.md` says who wants what, and what stops them.
"""

import re
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
    undo,
)
from support import PASSWORD, Person, Service, any_database, html_of, text_of, token_of
from werkzeug.test import TestResponse

from backend.clock import now
from backend.database import engine
from backend.privacy import announcements, policy
from backend.serving import worker

ADA, NEW, STRANGER = "ada@example.org", "countess@example.org", "stranger@example.org"
EVIL = "evil.example"

Use = Callable[[Service, str], TestResponse]


def announce(service: Service) -> EmailMessage:
    """Mail something to everybody, and return the last of the mails."""
    with service.app.app_context():
        announcements.announce(subject="News", text="TILES can do more now.")
        while worker.deliver():
            pass
    return service.mail_server.messages[-1]


def asked(service: Service, path: str, email: str, **more: str) -> EmailMessage:
    assert service.http.post(f"/v1/{path}", json={"email": email, **more}).status_code == 202
    return service.mail()


def closed(service: Service, ada: Person) -> EmailMessage:
    assert close(service, ada.headers).status_code == 200
    return service.mail()


def asked_for_address(service: Service, ada: Person) -> EmailMessage:
    assert request_email_change(service, ada.headers, NEW).status_code == 202
    return service.mail()


# How each mail with a link comes to be, and how a person uses its link.
LINKS: dict[str, tuple[Callable[[Service, Person], EmailMessage], Use]] = {
    "registration": (lambda s, _: asked(s, "registrations", NEW, name="Ada"), Service.confirm),
    "registration of an account": (lambda s, a: asked(s, "registrations", a.email, name="Ada"), Service.reset),
    "reset": (lambda s, a: asked(s, "password-resets", a.email), Service.reset),
    "email change": (asked_for_address, confirm_email_change),
    "undo": (lambda s, a: change_email(s, a.headers, NEW)[-1], undo),
    "erasure": (lambda s, a: asked(s, "erasure-requests", a.email), confirm_erasure),
    "closed": (closed, cancel),
    "announcement": (lambda s, _: announce(s), lambda s, token: s.http.post(f"/unsubscribe/{token}")),
}
each_link = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())

SCANNERS = [
    {"User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) SafeLinks", "Accept": "*/*"},
    {"User-Agent": "Go-http-client/1.1"},
    {"User-Agent": "GoogleImageProxy", "Accept": "text/html", "Purpose": "prefetch", "Sec-Purpose": "prefetch"},
]


def urls_of(message: EmailMessage) -> set[str]:
    """Return every address that a mail names, in its texts and in its headers."""
    said = f"{text_of(message)}\n{html_of(message)}\n{message.get('List-Unsubscribe', '')}"
    return set(re.findall(r"https?://[^\s\"'<>]+", said))


def stored(service: Service) -> dict[str, list[dict[str, object]]]:
    return {name: service.rows(name) for name in engine.Base.metadata.tables}


def scan(service: Service, url: str) -> None:
    """Open an address as scanners do: at once, several times, also rewritten so that the fragment reaches a server."""
    whole, fragment = urldefrag(url)
    path = urlsplit(whole).path or "/"
    rewritten = [f"{path}?token={fragment}", f"{path}/{fragment}", f"{path}%23{fragment}"] if fragment else []
    for address in (path, *rewritten):
        for headers in SCANNERS:
            for method in ("HEAD", "GET", "GET"):
                answer = service.http.open(address, method=method, headers=headers)
                assert answer.status_code in {200, 303, 404}


@each_link
def test_a_mail_scanner_burns_no_link(
    service: Service, ada: Person, link: tuple[Callable[[Service, Person], EmailMessage], Use]
) -> None:
    make, use = link
    message = make(service, ada)
    before = stored(service)
    for url in urls_of(message):
        scan(service, url)
    assert stored(service) == before
    token = re.findall(r"(?:#|/unsubscribe/)(\S{40,})", text_of(message))[0]
    assert use(service, token).status_code < 300
    assert stored(service) != before


# Hosts

POISON = {
    "Host": EVIL,
    "X-Forwarded-Host": EVIL,
    "X-Forwarded-Server": EVIL,
    "X-Host": EVIL,
    "X-Original-Host": EVIL,
    "X-Original-URL": f"https://{EVIL}/",
    "X-Forwarded-Proto": "javascript",
    "X-Forwarded-Prefix": f"//{EVIL}",
    "Forwarded": f"host={EVIL};proto=javascript",
    "Origin": f"https://{EVIL}",
    "Referer": f"https://{EVIL}/",
}


class Poisoned(Service):
    """The service, to which every request comes with another host, and wherever a host may be named."""

    @property
    def http(self) -> FlaskClient:
        client = super().http
        for name, value in POISON.items():
            client.environ_base[f"HTTP_{name.upper().replace('-', '_')}"] = value
        return client


def every_mail(service: Service) -> dict[str, EmailMessage]:
    """Let a person live so that each kind of mail is sent; return the mails by their subjects."""
    before = len(service.mail_server.messages)
    ada = service.register()
    asked(service, "registrations", ADA, name="Ada")
    assert service.reset(token_of(asked(service, "password-resets", ADA)), PASSWORD).status_code == 204
    headers = {"Authorization": f"Bearer {service.sign_in().json['session']['token']}"}
    change_email(service, headers, NEW)
    announce(service)
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=now().date(), text="We store little.")
        announcements.announce_policy("2026-01")
        while worker.deliver():
            pass
    assert confirm_erasure(service, token_of(asked(service, "erasure-requests", NEW))).status_code == 200
    service.deliver()
    assert erase_due(service) == 1
    service.deliver()
    assert ada.name == "Ada Lovelace"
    return {str(message["Subject"]): message for message in service.mail_server.messages[before:]}


@any_database
@pytest.mark.parametrize("trusted_proxies", [0, 1])
def test_a_host_injected_into_a_request_is_in_no_link_of_any_mail(
    make_service: MakeService, trusted_proxies: int
) -> None:
    made = make_service(erasure_grace_days=0, trusted_proxies=trusted_proxies)
    mails = every_mail(Poisoned(made.app, made.mail_server))
    assert len(mails) == 11
    for subject, message in mails.items():
        assert EVIL not in message.as_string() + text_of(message) + html_of(message), subject
        assert all(url.startswith("https://accounts.tiles.test") for url in urls_of(message)), subject


# Strangers

# No hexadecimal digest spells any part of it that is looked for.
SPAM = "WIN 500 EUR NOW http://spam.example/win Call 0190-5550"


@any_database
def test_spam_in_the_name_field_reaches_no_stranger(service: Service) -> None:
    spammer = service.register(name=SPAM, email="spammer@example.org")
    service.register(email=NEW)
    service.deliver()
    seen = len(service.mail_server.messages)
    for email in (STRANGER, NEW):
        for path in ("registrations", "password-resets", "erasure-requests"):
            body = {"email": email} | ({"name": SPAM} if path == "registrations" else {})
            assert service.http.post(f"/v1/{path}", json=body).status_code == 202
        assert request_email_change(service, spammer.headers, email).status_code == 202
    service.deliver()
    mails = service.mail_server.messages[seen:]
    assert sorted({message["To"] for message in mails}) == [NEW, STRANGER]
    for message in mails:
        said = f"{message.as_string()}{text_of(message)}{html_of(message)}".lower()
        assert [word for word in ("win 500", "spam.example", "0190-5550", "spammer") if word in said] == []


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
@pytest.mark.parametrize("injected", HEADERS)
def test_email_header_injection_adds_no_recipient_and_no_header(service: Service, ada: Person, injected: str) -> None:
    for email in (f"bob@example.org{injected}", f"bob{injected}@example.org", f"bob@example.org>{injected}"):
        for path in ("registrations", "password-resets", "erasure-requests"):
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
