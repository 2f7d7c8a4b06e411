"""Unsubscribing: from a page or with an email program's one click (RFC 8058), again and again."""

import re
from email.message import EmailMessage

import pytest
from journeys import MakeService, cancel, change_email, closed_by, erase_due, post, signed_in
from links import announce
from peers import html_of, text_of
from support import OTHER_PASSWORD, Person, Service
from werkzeug.test import TestResponse

from backend.mail.news import News

ADA = "ada@example.org"


def path_of(message: EmailMessage) -> str:
    """Return the path of an email program's one-click request."""
    match = re.fullmatch(r"<https://accounts\.tiles\.test(/unsubscribe/\S+)>", message["List-Unsubscribe"])
    assert match, message["List-Unsubscribe"]
    return match.group(1)


def click(service: Service, path: str, **options: str) -> TestResponse:
    return service.http.post(path, data={"List-Unsubscribe": "One-Click"}, **options)


def wants_emails(service: Service) -> dict[str, bool]:
    return {row["email"]: bool(row["email_updates"]) for row in service.rows("accounts")}


def test_an_announcement_has_the_headers_of_one_click_and_no_other_email_has(service: Service, ada: Person) -> None:
    post(service, "password-resets", email=ada.email)
    assert "List-Unsubscribe" not in service.mail()
    (news,) = announce(service)
    content = service.mail_server.envelopes[-1].content
    assert isinstance(content, bytes)
    # On the wire each header occurs once and is not encoded, because email programs would not decode it.
    headers = content.replace(b"\r\n", b"\n").partition(b"\n\n")[0].replace(b"\n ", b" ")
    fields = [line.split(b":", 1) for line in headers.splitlines() if line.lower().startswith(b"list-unsubscribe")]
    assert [(name, value.strip().decode()) for name, value in sorted(fields)] == [
        (b"List-Unsubscribe", news["List-Unsubscribe"]),
        (b"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
    ]
    link = f"https://accounts.tiles.test{path_of(news)}"
    assert f"\n{link}\n" in text_of(news)
    assert link in html_of(news)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_one_click_ends_the_emails_without_signing_in_and_opening_the_page_does_not(
    service: Service, ada: Person, content_type: str
) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    (news,) = [message for message in announce(service) if message["To"] == ada.email]
    path = path_of(news)
    for response in (service.http.get(path), service.http.head(path)):
        assert response.status_code == 200
    assert wants_emails(service) == {ada.email: True, bob.email: True}
    first, second = (click(service, path, content_type=content_type) for _ in range(2))
    assert (first.status_code, first.data) == (second.status_code, second.data) == (200, first.data)
    assert "Set-Cookie" not in first.headers
    assert wants_emails(service) == {ada.email: False, bob.email: True}
    assert [message["To"] for message in announce(service, News("News", "More news."))] == [bob.email]


def test_the_link_works_after_a_new_password_a_new_email_and_subscribing_again(service: Service, ada: Person) -> None:
    (news,) = announce(service)
    change_email(service, ada.headers, "countess@example.org")
    assert service.reset(service.ask_for_reset("countess@example.org")).status_code == 204
    for _ in range(2):
        assert click(service, path_of(news)).status_code == 200
        assert wants_emails(service) == {"countess@example.org": False}
        headers = signed_in(service, "countess@example.org", OTHER_PASSWORD)
        service.http.patch("/v1/account", json={"email_updates": True}, headers=headers)


def test_the_link_works_while_the_account_is_closed_and_after_its_erasure(make_service: MakeService) -> None:
    service = make_service(erasure_grace_days=0)
    ada = service.register()
    path = path_of(announce(service)[0])
    token = closed_by(service, ada.headers, ADA)
    first = click(service, path)
    assert cancel(service, token).status_code == 204
    service.deliver()
    headers = signed_in(service, ADA)
    assert service.account(headers).json["email_updates"] is False
    closed_by(service, headers, ADA, erase=True)
    assert erase_due(service) == 1
    second = click(service, path)
    assert (second.status_code, second.data) == (200, first.data)
