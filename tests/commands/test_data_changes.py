"""`tiles data`: a name is corrected or removed, a person unsubscribed, a closed account opened again."""

import json
from datetime import timedelta

import pytest
from data_commands import ADA, refused
from journeys import CLOSED, REOPENED, MoveClock, cancel, close, erase_due, the_mail, to_and_subject
from peers import token_of
from support import NOBODY, Person, Service, any_database, assert_problem, invoke

pytestmark = [any_database, pytest.mark.usefixtures("ada")]


def changed(service: Service, *arguments: str) -> dict[str, object]:
    """Run a command that succeeds, and return the account that it prints."""
    account: dict[str, object] = json.loads(invoke(service, "data", *arguments, "--json").stdout)
    return account


def acts(service: Service) -> list[str]:
    return sorted(row["act"] for row in service.rows("audit") if row["actor"] == "data manager")


def test_a_name_an_address_and_the_wish_for_emails_are_changed_and_audited(service: Service, ada: Person) -> None:
    for arguments, field, value in (
        (("rename", ADA, "  Ada King "), "name", "Ada King"),
        (("rename", ADA, "--remove"), "name", None),
        (("unsubscribe", ADA), "email_updates", False),
        (("subscribe", ADA), "email_updates", True),
        # A new address is proven from its own mailbox.
        (("change-email", ADA, "countess@example.org"), "email", ADA),
    ):
        assert changed(service, *arguments)[field] == value
        assert service.account(ada.headers).json[field] == value
    assert acts(service) == ["email-change-requested", "renamed", "renamed", "subscribed", "unsubscribed"]
    assert "King" not in str(service.rows("audit"))
    mail = service.mail()
    assert mail["To"] == "countess@example.org"
    assert service.http.post("/v1/email-changes/confirm", json={"token": token_of(mail)}).status_code == 204
    assert service.account(ada.headers).json["email"] == "countess@example.org"


def test_an_invalid_name_or_address_is_refused(service: Service) -> None:
    for arguments in ((), ("Ada King", "--remove"), ("",), ("Ada\nKing",), ("x" * 201,)):
        assert refused(service, "rename", ADA, *arguments, status=2).startswith("Error: ")
    assert refused(service, "change-email", ADA, "nonsense", status=2).startswith("Error: ")


def test_a_closed_account_is_opened_again_as_it_was_and_its_owner_gets_an_email(service: Service, ada: Person) -> None:
    assert close(service, ada.headers).status_code == 200
    link = token_of(the_mail(service.deliver(), ADA, CLOSED))
    account = changed(service, "reopen", ADA, "--yes")
    assert (account["closed_at"], account["erase_after"], account["name"]) == (None, None, "Ada Lovelace")
    assert to_and_subject(service.deliver()) == {(ADA, REOPENED)}
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert service.sign_in().status_code == 201
    assert acts(service) == ["reopened"]
    assert_problem(cancel(service, link), 400, "invalid-token")


def test_an_erasure_that_waits_is_cancelled_and_does_not_happen(service: Service, move_clock: MoveClock) -> None:
    invoke(service, "data", "erase", ADA, "--yes")
    service.deliver()
    account = changed(service, "cancel", ADA, "--yes")
    assert (account["closed_at"], account["erasure_requested_at"], account["erase_after"]) == (None, None, None)
    assert to_and_subject(service.deliver()) == {(ADA, REOPENED)}
    move_clock(timedelta(days=15))
    assert erase_due(service) == 0
    assert service.sign_in().status_code == 201


def test_an_impossible_reopening_or_cancelling_is_refused(service: Service) -> None:
    assert "is open" in refused(service, "reopen", ADA, "--yes")
    assert "no erasure" in refused(service, "cancel", ADA, "--yes")
    invoke(service, "data", "close", ADA, "--yes")
    service.deliver()
    assert "no erasure" in refused(service, "cancel", ADA, "--yes")
    old = str(service.rows("accounts")[0]["id"])
    service.register(name="Ada", email=ADA)
    assert "stays closed" in refused(service, "reopen", old, "--yes")
    for command in ("rename", "unsubscribe", "reopen", "cancel"):
        options = {"rename": ("Ada",), "unsubscribe": ()}.get(command, ("--yes",))
        assert "there is no account" in refused(service, command, NOBODY, *options)
        assert "several accounts" in str(invoke(service, "data", command, ADA, *options, status=1).stderr)


def test_reopening_an_account_asks_first(service: Service) -> None:
    invoke(service, "data", "erase", ADA, "--yes")
    for command in ("reopen", "cancel"):
        assert invoke(service, "data", command, ADA, typed="n\n", status=1).stderr.endswith("nothing was done\n")
    assert service.rows("accounts")[0]["closed_at"]
