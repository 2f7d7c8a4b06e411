"""Every change of an account's state sends one email to each affected mailbox, and to no other."""

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

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
    to_and_subject,
    undo,
    undo_link,
)
from pairwise import on_one_database_each
from peers import html_of, text_of, token_of
from support import OTHER_PASSWORD, Person, Service, any_database

from backend import clock
from backend.desk import disclosures, holds
from backend.desk import operations as desk
from backend.web.api import operations

MINE = "ada@example.org"
NEW = "countess@example.org"
Act = Callable[[], object]


class Life(NamedTuple):
    """A person with an account, and a function that moves the clock."""

    service: Service
    ada: Person
    move_clock: MoveClock

    def manage(self, act: Callable[..., object]) -> None:
        """Do something as the data manager."""
        self.service.run(act, MINE)

    def closed(self, *, erase: bool = False) -> str:
        """Close the account, and return the token that opens it again."""
        return closed_by(self.service, self.ada.headers, MINE, erase=erase)

    def changed(self) -> str:
        """Change the email, and return the token that undoes it."""
        return undo_link(self.service, self.ada.headers, MINE, NEW)

    def changing(self, new: str) -> Act:
        token = ask_for_email_change(self.service, self.ada.headers, new)
        return partial(confirm_email_change, self.service, token)

    def erasing(self) -> Act:
        return partial(confirm_erasure, self.service, ask_for_erasure(self.service, MINE))


def undoing_after_a_closing(life: Life) -> Act:
    life.changed()
    assert close(life.service, life.ada.headers, erase=True).status_code == 200
    return partial(undo, life.service, token_of(the_mail(life.service.deliver(), MINE, CHANGED)))


def cancelling_what_the_data_manager_closed(life: Life) -> Act:
    life.manage(desk.erase)
    return partial(cancel, life.service, token_of(life.service.mail()))


def holding(life: Life) -> Act:
    life.closed(erase=True)
    return partial(hold, life.service, MINE, clock.now() + timedelta(days=99))


def releasing(life: Life) -> Act:
    holding(life)()
    life.service.deliver()
    return partial(life.manage, holds.release)


def erasing_when_due(life: Life) -> Act:
    life.closed(erase=True)
    life.move_clock(timedelta(days=14, minutes=1))
    return partial(finish_erasing, life.service)


# Each function prepares the account, and returns the action that changes its state.
STORIES: dict[str, tuple[Callable[[Life], Act], set[tuple[str, str]]]] = {
    "a reset": (lambda life: partial(life.service.reset, life.service.ask_for_reset(MINE)), {(MINE, PASSWORD_CHANGED)}),
    "a new password": (lambda life: partial(change_password, life.service, life.ada.headers, OTHER_PASSWORD),
                       {(MINE, PASSWORD_CHANGED)}),
    "a new email": (lambda life: life.changing(NEW), {(MINE, CHANGED)}),
    "the old email again": (lambda life: (life.changed(), life.changing(MINE))[1], {(NEW, TAKEN_BACK)}),
    "an undo": (lambda life: partial(undo, life.service, life.changed()), {(MINE, RESET), (NEW, TAKEN_BACK)}),
    "an undo after a closing": (undoing_after_a_closing, {(MINE, RESET), (MINE, REOPENED), (NEW, TAKEN_BACK)}),
    "closing": (lambda life: partial(close, life.service, life.ada.headers), {(MINE, CLOSED)}),
    "closing to be erased": (lambda life: partial(close, life.service, life.ada.headers, erase=True), {(MINE, CLOSED)}),
    "erasing without the app": (Life.erasing, {(MINE, CLOSED)}),
    "erasing after a closing": (lambda life: (life.closed(), life.erasing())[1], {(MINE, CLOSED)}),
    "opening": (lambda life: partial(cancel, life.service, life.closed()), {(MINE, REOPENED)}),
    "cancelling an erasure": (lambda life: partial(cancel, life.service, life.closed(erase=True)), {(MINE, REOPENED)}),
    "cancelling the data manager's erasure": (cancelling_what_the_data_manager_closed, {(MINE, REOPENED)}),
    "closing by the data manager": (lambda life: partial(life.manage, desk.close), {(MINE, CLOSED)}),
    "erasing by the data manager": (lambda life: partial(life.manage, desk.erase), {(MINE, CLOSED)}),
    "erasing what is closed by the data manager": (lambda life: (life.closed(), partial(life.manage, desk.erase))[1],
                                                   {(MINE, CLOSED)}),
    "a hold": (holding, {(MINE, CLOSED)}),
    "releasing a hold": (releasing, {(MINE, CLOSED)}),
    "the erasure": (erasing_when_due, {(MINE, ERASED)}),
}  # fmt: skip
# These operations do not change an account's state: they request an email, create it, or concern sessions or settings.
STATELESS = {
    "/v1/registrations", "/v1/registrations/confirm", "/v1/password-resets", "/v1/sessions", "/v1/sessions/current",
    "/v1/sessions/<uuid:id>", "/v1/account", "/v1/account/name", "/v1/account/email-changes", "/v1/erasure-requests",
    "/v1/erasure-receipts/verify", "/v1/feedback",
}  # fmt: skip
CHANGING = {
    "/v1/password-resets/confirm", "/v1/account/password", "/v1/email-changes/confirm", "/v1/email-changes/undo",
    "/v1/account/close", "/v1/erasure-requests/confirm", "/v1/erasure-requests/cancel",
}  # fmt: skip
LOOKING = {"get_account", "accounts_where", "lock_account", "state", "find", "export", "disclose", "audit_trail",
           "is_late_but_for_a_hold", "forget_ended"}  # fmt: skip


def state(service: Service) -> list[Any]:
    """Return the state of each account of which its owner must be notified."""
    columns = ("email", "password_hash", "closed_at", "erase_after")
    accounts = [[row[column] for column in columns] for row in service.rows("accounts")]
    return [accounts, [row["until"] for row in service.rows("holds")]]


@on_one_database_each("story", STORIES)
def test_promise_12_each_change_sends_one_notice_to_each_affected_address(
    service: Service, ada: Person, move_clock: MoveClock, story: str
) -> None:
    prepare, mails = STORIES[story]
    act = prepare(Life(service, ada, move_clock))
    before = state(service)
    assert service.deliver() == []
    act()
    assert state(service) != before
    assert to_and_subject(service.deliver()) == mails


def test_the_changes_include_every_operation_and_every_action_of_the_data_manager() -> None:
    assert {operation.path for operation in operations.declared if operation.method != "GET"} == STATELESS | CHANGING
    modules = (desk, holds, disclosures)
    acts = {
        name
        for module in modules
        for name, act in inspect.getmembers(module, inspect.isfunction)
        if act.__module__ == module.__name__ and not name.startswith("_")
    }
    assert acts == LOOKING | {
        "rename", "subscribe", "unsubscribe", "request_email_change", "close", "reopen", "erase", "place", "release",
    }  # fmt: skip


@any_database
def test_the_notice_of_reopening_says_what_to_do_and_has_no_link(make_service: MakeService) -> None:
    service = make_service(support_email="help@tiles.test")
    ada = service.register()
    assert cancel(service, closed_by(service, ada.headers, MINE, erase=True)).status_code == 204
    message = service.mail()
    for part in (text_of(message), html_of(message)):
        for words in ("is open again", "https://accounts.tiles.test/password-reset", "help@tiles.test"):
            assert words in part
        assert "Lovelace" not in part
        assert not re.search(r"tiles\.test/[a-z-]+#", part)


@any_database
def test_an_address_that_loses_the_account_gets_a_notice_without_a_link(
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
def test_an_account_that_is_closed_again_before_the_email_is_sent_is_not_called_open(
    service: Service, ada: Person
) -> None:
    assert cancel(service, closed_by(service, ada.headers, MINE)).status_code == 204
    service.run(desk.close, MINE)
    assert to_and_subject(service.deliver()) == {(MINE, CLOSED)}
