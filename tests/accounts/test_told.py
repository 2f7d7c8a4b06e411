"""A mail follows every change of an account's state: one to each mailbox that it concerns, and no other."""

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from journeys import (
    CHANGED,
    CLOSED,
    ERASED,
    PASSWORD_CHANGED,
    REOPENED,
    RESET,
    TAKEN_BACK,
    MakeService,
    MoveClock,
    ask_for_email_change,
    ask_for_erasure,
    cancel,
    change_password,
    close,
    closed_by,
    confirm_email_change,
    confirm_erasure,
    finish_erasing,
    hold,
    the_mail,
    told,
    undo,
    undo_link,
)
from support import OTHER_PASSWORD, Person, Service, any_database, html_of, text_of, token_of

from backend import clock
from backend.desk import operations as desk
from backend.web.api import operations

MINE = "ada@example.org"
NEW = "countess@example.org"


class Life(NamedTuple):
    """One person with an account, and what moves the clock."""

    service: Service
    ada: Person
    move_clock: MoveClock

    @property
    def headers(self) -> dict[str, str]:
        return self.ada.headers

    def manage(self, act: Callable[..., object], **options: object) -> None:
        """Do something as the data manager."""
        with self.service.app.app_context():
            act(MINE, **options)


Act = Callable[[], object]
# A story prepares the account and returns the act that changes its state.
Story = Callable[[Life], Act]


def resetting(life: Life) -> Act:
    token = life.service.ask_for_reset(MINE)
    return lambda: life.service.reset(token)


def changing_the_password(life: Life) -> Act:
    return lambda: change_password(life.service, life.headers, OTHER_PASSWORD)


def changing_the_address(life: Life) -> Act:
    token = ask_for_email_change(life.service, life.headers, NEW)
    return lambda: confirm_email_change(life.service, token)


def changing_the_address_back(life: Life) -> Act:
    undo_link(life.service, life.headers, MINE, NEW)
    token = ask_for_email_change(life.service, life.headers, MINE)
    return lambda: confirm_email_change(life.service, token)


def undoing(life: Life) -> Act:
    token = undo_link(life.service, life.headers, MINE, NEW)
    return lambda: undo(life.service, token)


def undoing_what_was_closed(life: Life, *, erase: bool = True) -> Act:
    undo_link(life.service, life.headers, MINE, NEW)
    assert close(life.service, life.headers, erase=erase).status_code == 200
    token = token_of(the_mail(life.service.deliver(), MINE, CHANGED))
    return lambda: undo(life.service, token)


def closing(life: Life) -> Act:
    return lambda: close(life.service, life.headers)


def closing_to_be_erased(life: Life) -> Act:
    return lambda: close(life.service, life.headers, erase=True)


def erasing_without_the_app(life: Life) -> Act:
    token = ask_for_erasure(life.service, MINE)
    return lambda: confirm_erasure(life.service, token)


def erasing_what_is_closed(life: Life) -> Act:
    closed_by(life.service, life.headers, MINE)
    return erasing_without_the_app(life)


def reopening(life: Life) -> Act:
    token = closed_by(life.service, life.headers, MINE)
    return lambda: cancel(life.service, token)


def cancelling_an_erasure(life: Life) -> Act:
    token = closed_by(life.service, life.headers, MINE, erase=True)
    return lambda: cancel(life.service, token)


def cancelling_what_the_data_manager_closed(life: Life) -> Act:
    life.manage(desk.erase)
    token = token_of(life.service.mail())
    return lambda: cancel(life.service, token)


def managed(act: Callable[..., object], *, closed: bool = False) -> Story:
    def story(life: Life) -> Act:
        if closed:
            closed_by(life.service, life.headers, MINE)
        return lambda: life.manage(act)

    return story


def holding_what_waits(life: Life) -> Act:
    closed_by(life.service, life.headers, MINE, erase=True)
    return lambda: hold(life.service, MINE, clock.now() + timedelta(days=99))


def releasing_what_waits(life: Life) -> Act:
    holding_what_waits(life)()
    life.service.deliver()
    return lambda: life.manage(desk.release)


def erasing_what_is_due(life: Life) -> Act:
    closed_by(life.service, life.headers, MINE, erase=True)
    life.move_clock(timedelta(days=14, minutes=1))
    return lambda: finish_erasing(life.service)


STORIES: Mapping[Story, set[tuple[str, str]]] = {
    resetting: {(MINE, PASSWORD_CHANGED)},
    changing_the_password: {(MINE, PASSWORD_CHANGED)},
    changing_the_address: {(MINE, CHANGED)},
    changing_the_address_back: {(NEW, TAKEN_BACK)},
    undoing: {(MINE, RESET), (NEW, TAKEN_BACK)},
    undoing_what_was_closed: {(MINE, RESET), (MINE, REOPENED), (NEW, TAKEN_BACK)},
    closing: {(MINE, CLOSED)},
    closing_to_be_erased: {(MINE, CLOSED)},
    erasing_without_the_app: {(MINE, CLOSED)},
    erasing_what_is_closed: {(MINE, CLOSED)},
    reopening: {(MINE, REOPENED)},
    cancelling_an_erasure: {(MINE, REOPENED)},
    cancelling_what_the_data_manager_closed: {(MINE, REOPENED)},
    managed(desk.close): {(MINE, CLOSED)},
    managed(desk.erase): {(MINE, CLOSED)},
    managed(desk.erase, closed=True): {(MINE, CLOSED)},
    holding_what_waits: {(MINE, CLOSED)},
    releasing_what_waits: {(MINE, CLOSED)},
    erasing_what_is_due: {(MINE, ERASED)},
}
# Operations that change no account's state: they ask for a mail, concern sessions or settings, or make the account.
STATELESS = {
    "/v1/registrations", "/v1/registrations/confirm", "/v1/password-resets", "/v1/sessions", "/v1/sessions/current",
    "/v1/sessions/<uuid:id>", "/v1/account", "/v1/account/email-changes", "/v1/erasure-requests",
    "/v1/erasure-receipts/verify", "/v1/feedback",
}  # fmt: skip
CHANGING = {
    "/v1/password-resets/confirm", "/v1/account/password", "/v1/email-changes/confirm", "/v1/email-changes/undo",
    "/v1/account/close", "/v1/erasure-requests/confirm", "/v1/erasure-requests/cancel",
}  # fmt: skip
LOOKING = {"find", "export", "disclose", "requests", "audit_trail", "is_late_but_for_a_hold", "forget_ended_holds"}


def state(service: Service) -> list[Any]:
    """Return what of each account its owner has to hear of."""
    columns = ("email", "password_hash", "closed_at", "erase_after")
    accounts = [[row[column] for column in columns] for row in service.rows("accounts")]
    return [accounts, [row["until"] for row in service.rows("holds")]]


@pytest.mark.parametrize(("story", "mails"), STORIES.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_each_change_is_told_once_to_each_whom_it_concerns(
    service: Service, ada: Person, move_clock: MoveClock, story: Story, mails: set[tuple[str, str]]
) -> None:
    act = story(Life(service, ada, move_clock))
    before = state(service)
    assert service.deliver() == []
    act()
    assert state(service) != before
    assert told(service.deliver()) == mails


def test_every_operation_and_every_act_of_the_data_manager_is_among_them() -> None:
    assert {operation.path for operation in operations.declared if operation.method != "GET"} == STATELESS | CHANGING
    acts = {name for name, act in inspect.getmembers(desk, inspect.isfunction) if act.__module__ == desk.__name__}
    assert {name for name in acts if not name.startswith("_")} == LOOKING | {"close", "erase", "hold", "release"}


@any_database
def test_the_mail_says_that_the_account_is_open_and_what_to_do_if_it_was_somebody_else(
    make_service: MakeService,
) -> None:
    service = make_service(support_email="help@tiles.test")
    ada = service.register()
    assert cancel(service, closed_by(service, ada.headers, MINE, erase=True)).status_code == 204
    message = service.mail()
    for part in (text_of(message), html_of(message)):
        assert "is open again" in part
        assert "https://accounts.tiles.test/password-reset" in part
        assert "help@tiles.test" in part
        assert "Lovelace" not in part
        assert not re.search(r"tiles\.test/[a-z-]+#", part)


@any_database
def test_who_loses_an_account_to_its_earlier_address_hears_of_it_and_gets_no_link(
    make_service: MakeService,
) -> None:
    service = make_service(support_email="help@tiles.test")
    ada = service.register()
    assert undo(service, undo_link(service, ada.headers, MINE, NEW)).status_code == 204
    message = the_mail(service.deliver(), NEW, TAKEN_BACK)
    for part in (text_of(message), html_of(message)):
        assert "help@tiles.test" in part
        assert MINE not in part
        assert "-undo" not in part


@any_database
def test_an_account_that_is_closed_again_before_the_mail_leaves_is_not_called_open(
    service: Service, ada: Person
) -> None:
    assert cancel(service, closed_by(service, ada.headers, MINE)).status_code == 204
    with service.app.app_context():
        desk.close(MINE)
    assert told(service.deliver()) == {(MINE, CLOSED)}
