"""No stranger's text reaches a mailbox."""

from journeys import request_email_change
from peers import html_of, text_of
from support import Person, Service, any_database

ADA, NEW, STRANGER = "ada@example.org", "countess@example.org", "stranger@example.org"
PATHS = "registrations", "password-resets", "erasure-requests"


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
