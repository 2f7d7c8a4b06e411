"""Unsubscribing: from a page or with a mail program's one click (RFC 8058), again and again, whatever became of it."""

import re
from email.message import EmailMessage

import pytest
from journeys import MakeService, cancel, change_email, close, closed_by, erase_due, signed_in
from support import Person, Service, any_database
from werkzeug.test import TestResponse

from backend.privacy import announcements
from backend.serving import worker

ADA = "ada@example.org"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


def announce(service: Service, text: str = "New tiles are here.") -> list[EmailMessage]:
    """Announce something, and return the mails that came of it."""
    with service.app.app_context():
        announcements.announce(subject="News", text=text)
    before = len(service.mail_server.messages)
    with service.app.app_context():
        while worker.deliver():
            pass
    return service.mail_server.messages[before:]


def path_of(message: EmailMessage) -> str:
    """Return the path that a mail program's one click leads to."""
    found = re.fullmatch(r"<https://accounts\.tiles\.test(/unsubscribe/\S+)>", message["List-Unsubscribe"])
    assert found, message["List-Unsubscribe"]
    return found.group(1)


def click(service: Service, path: str) -> TestResponse:
    return service.http.post(path, data=ONE_CLICK)


def wants_mails(service: Service) -> list[bool]:
    return [bool(row["email_updates"]) for row in service.rows("accounts")]


@any_database
@pytest.mark.usefixtures("ada")
def test_no_other_mail_has_the_headers(service: Service) -> None:
    service.http.post("/v1/password-resets", json={"email": ADA})
    assert "List-Unsubscribe" not in service.mail()


@any_database
@pytest.mark.usefixtures("ada")
def test_opening_the_page_changes_nothing(service: Service) -> None:
    path = path_of(announce(service)[0])
    for response in (service.http.get(path), service.http.head(path)):
        assert response.status_code == 200
    assert wants_mails(service) == [True]


@any_database
@pytest.mark.usefixtures("ada")
def test_a_second_click_is_answered_like_the_first(service: Service) -> None:
    path = path_of(announce(service)[0])
    first, second = click(service, path), click(service, path)
    assert (first.status_code, first.data) == (second.status_code, second.data) == (200, first.data)
    assert wants_mails(service) == [False]


@any_database
def test_an_old_link_works_after_somebody_wanted_mails_again(service: Service, ada: Person) -> None:
    path = path_of(announce(service)[0])
    click(service, path)
    service.http.patch("/v1/account", json={"email_updates": True}, headers=ada.headers)
    assert click(service, path).status_code == 200
    assert wants_mails(service) == [False]


def test_the_link_outlives_a_new_password_and_a_new_address(service: Service, ada: Person) -> None:
    path = path_of(announce(service)[0])
    change_email(service, ada.headers, "countess@example.org")
    assert service.reset(service.ask_for_reset("countess@example.org")).status_code == 204
    assert click(service, path).status_code == 200
    assert wants_mails(service) == [False]


def test_the_link_works_while_the_account_is_closed_and_counts_when_it_is_opened_again(
    service: Service, ada: Person
) -> None:
    path = path_of(announce(service)[0])
    token = closed_by(service, ada.headers, ADA)
    assert click(service, path).status_code == 200
    assert cancel(service, token).status_code == 204
    assert service.account(signed_in(service, ADA)).json["email_updates"] is False


def test_the_link_is_answered_the_same_when_the_account_is_erased(make_service: MakeService) -> None:
    service = make_service(erasure_grace_days=0)
    ada = service.register()
    path = path_of(announce(service)[0])
    first = click(service, path)
    close(service, ada.headers, erase=True)
    assert erase_due(service) == 1
    second = click(service, path)
    assert (second.status_code, second.data) == (200, first.data)


@any_database
@pytest.mark.usefixtures("ada")
def test_a_link_of_another_purpose_or_made_up_is_refused(service: Service) -> None:
    for token in ("made-up", service.ask_for_reset()):
        assert click(service, f"/unsubscribe/{token}").status_code == 400
    assert wants_mails(service) == [True]


def test_one_persons_link_ends_nobody_elses_mails(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    (mine,) = [message for message in announce(service) if message["To"] == ada.email]
    click(service, path_of(mine))
    assert service.account(bob.headers).json["email_updates"] is True
