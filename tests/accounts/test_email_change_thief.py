"""Whoever knows the password and changes the address does not keep the account from the mailbox it was taken from."""

from datetime import timedelta

from journeys import (
    CHANGED,
    CLOSED,
    RESET,
    MakeService,
    MoveClock,
    cancel,
    change_email,
    change_password,
    close,
    recover,
    request_email_change,
    signed_in,
    the_mail,
    told,
    turning_away,
    undo,
    undo_link,
)
from support import OTHER_PASSWORD, PASSWORD, MailServer, Person, Service, any_database, assert_problem, token_of

MINE = "ada@example.org"
HIS = "countess@example.org"
HIS_SECOND = "lovelace@example.org"
HIS_PASSWORD = "copper violin under snow"


def test_by_no_means_does_a_thief_keep_the_account(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, MINE, HIS)
    change_password(service, ada.headers, HIS_PASSWORD)
    service.deliver()
    change_email(service, ada.headers, HIS_SECOND, HIS_PASSWORD)
    assert close(service, ada.headers, erase=True, password=HIS_PASSWORD).status_code == 200
    mails = service.deliver()
    assert told(mails) == {(MINE, CHANGED), (HIS, CHANGED), (HIS_SECOND, CLOSED)}
    links = [token_of(message) for message in mails if message["To"] != MINE]
    headers = recover(service, token_of(the_mail(mails, MINE, CHANGED)), MINE)
    for link in links:
        assert_problem(undo(service, link), 400, "invalid-token")
        assert_problem(cancel(service, link), 400, "invalid-token")
    assert service.account(headers).json["email"] == MINE


def test_an_account_that_is_closed_is_taken_back_also_when_the_thief_registered_anew(
    service: Service, ada: Person
) -> None:
    undo_link(service, ada.headers, MINE, HIS)
    assert close(service, ada.headers, erase=True).status_code == 200
    link = token_of(the_mail(service.deliver(), MINE, CHANGED))
    service.register(name="Thief", email=HIS, password=HIS_PASSWORD)
    headers = recover(service, link, MINE)
    assert service.account(headers).json["name"] == "Ada Lovelace"


@any_database
def test_an_account_that_is_closed_is_taken_back_also_where_closed_ones_stay(make_service: MakeService) -> None:
    service = make_service(closed_retention_days=0)
    ada = service.register()
    undo_link(service, ada.headers, MINE, HIS)
    assert close(service, ada.headers).status_code == 200
    recover(service, token_of(the_mail(service.deliver(), MINE, CHANGED)), MINE)


@any_database
def test_a_notice_that_a_mailbox_takes_late_gives_nobody_the_account_that_was_taken_back(
    service: Service, ada: Person, mail_server: MailServer, move_clock: MoveClock
) -> None:
    undo_link(service, ada.headers, MINE, HIS)
    with turning_away(mail_server, HIS):
        mails = change_email(service, ada.headers, HIS_SECOND)
        headers = recover(service, token_of(the_mail(mails, MINE, CHANGED)), MINE)
        service.deliver()
    move_clock(timedelta(hours=2))
    assert HIS not in {message["To"] for message in service.deliver()}
    assert service.account(headers).json["email"] == MINE


def test_the_password_that_the_thief_knew_does_not_open_what_was_taken_back(service: Service, ada: Person) -> None:
    token = undo_link(service, ada.headers, MINE, HIS)
    assert undo(service, token).status_code == 204
    reset = the_mail(service.deliver(), MINE, RESET)
    assert_problem(service.sign_in(MINE, PASSWORD), 401, "wrong-credentials")
    assert service.reset(token_of(reset)).status_code == 204
    assert_problem(service.sign_in(MINE, PASSWORD), 401, "wrong-credentials")
    mine = signed_in(service, MINE, OTHER_PASSWORD)
    assert request_email_change(service, mine, HIS_SECOND, OTHER_PASSWORD).status_code == 202


def test_whoever_changes_the_address_back_by_hand_loses_the_account_to_nobody(service: Service, ada: Person) -> None:
    undo_link(service, ada.headers, MINE, HIS)
    change_email(service, ada.headers, HIS_SECOND)
    mails = change_email(service, ada.headers, MINE)
    assert (MINE, CHANGED) not in told(mails)
    change_password(service, ada.headers, OTHER_PASSWORD)
    mails += service.deliver()
    # An address that was proven again before its right ended is the older claim.
    for message in [message for message in mails if message["Subject"] == CHANGED]:
        assert_problem(undo(service, token_of(message)), 400, "invalid-token")
    assert service.account(ada.headers).json["email"] == MINE
