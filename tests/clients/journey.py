"""One person's journey through the generated Python client: `journey.py URL EMAIL`. It asks for mailed tokens."""

import sys
from datetime import datetime
from typing import TypeVar

from tiles_api import AuthenticatedClient, Client, models
from tiles_api.api.account import (
    change_account,
    confirm_email_change,
    export_account,
    remove_name,
    request_email_change,
    show_account,
)
from tiles_api.api.erasure import close_account
from tiles_api.api.feedback import send_feedback
from tiles_api.api.passwords import confirm_password_reset, request_password_reset
from tiles_api.api.registering import confirm_registration, register
from tiles_api.api.sessions import end_session, list_sessions, sign_in

T = TypeVar("T")
URL, EMAIL = sys.argv[1:]
NEW_EMAIL = f"new-{EMAIL}"
PASSWORD, OTHER_PASSWORD = "quiet lemon gravel piano", "seven wooden boats drift"


def mailed(email: str, subject: str) -> str:
    return input(f"{email} {subject}\n")


def expect(kind: type[T], response: object) -> T:
    assert isinstance(response, kind), response
    return response


def with_session(signed_in: models.SignedIn) -> AuthenticatedClient:
    return AuthenticatedClient(base_url=URL, token=signed_in.session.token)


def register_and_confirm(tiles: Client) -> models.SignedIn:
    requested = expect(
        models.LinkRequested, register.sync(client=tiles, body=models.RegistrationRequest(name="Ada", email=EMAIL))
    )
    assert requested.link_valid_for_seconds == 86_400
    token = mailed(EMAIL, "registering")
    weak = confirm_registration.sync(client=tiles, body=models.RegistrationConfirmation(token=token, password="short"))
    problem = expect(models.InvalidRequestOrWeakPasswordProblem, weak)
    assert problem.code == models.InvalidRequestOrWeakPasswordProblemCode.WEAK_PASSWORD
    assert problem.errors[0].pointer == "/password"
    confirmation = models.RegistrationConfirmation(token=token, password=PASSWORD)
    signed_in = expect(models.SignedIn, confirm_registration.sync(client=tiles, body=confirmation))
    assert isinstance(signed_in.account.created_at, datetime)
    return signed_in


def change_each_field_alone(tiles: AuthenticatedClient, account: models.AccountDetails) -> None:
    def change(update: models.AccountUpdate) -> models.AccountDetails:
        return expect(models.AccountDetails, change_account.sync(client=tiles, body=update))

    account.name = "Ada King"
    assert change(models.AccountUpdate(name=account.name)) == account
    account.email_updates = not account.email_updates
    assert change(models.AccountUpdate(email_updates=account.email_updates)) == account
    account.policy.accepted = version = expect(str, account.policy.current)
    assert change(models.AccountUpdate(accepted_policy=version)) == account
    account.name = None
    assert remove_name.sync(client=tiles) == account
    assert change(models.AccountUpdate(name=None)) == account


def send_feedback_twice(tiles: AuthenticatedClient) -> None:
    body = models.FeedbackRequest(message="More tiles, please.")
    first = expect(models.FeedbackReceipt, send_feedback.sync(client=tiles, body=body, idempotency_key="one key"))
    assert send_feedback.sync(client=tiles, body=body, idempotency_key="one key") == first


def reset(tiles: Client) -> None:
    expect(
        models.LinkRequested, request_password_reset.sync(client=tiles, body=models.PasswordResetRequest(email=EMAIL))
    )
    confirmation = models.PasswordResetConfirmation(token=mailed(EMAIL, "Reset"), password=OTHER_PASSWORD)
    assert confirm_password_reset.sync_detailed(client=tiles, body=confirmation).status_code == 204


def end_the_other_session(tiles: AuthenticatedClient) -> None:
    sessions = expect(models.SessionList, list_sessions.sync(client=tiles)).sessions
    (other,) = [session for session in sessions if not session.current]
    assert end_session.sync_detailed(client=tiles, id=other.id).status_code == 204
    assert len(expect(models.SessionList, list_sessions.sync(client=tiles)).sessions) == len(sessions) - 1


def change_the_email(tiles: AuthenticatedClient) -> None:
    change = models.EmailChangeRequest(email=NEW_EMAIL, password=OTHER_PASSWORD)
    expect(models.LinkRequested, request_email_change.sync(client=tiles, body=change))
    token = models.TokenRequest(token=mailed(NEW_EMAIL, "Confirm your new"))
    assert confirm_email_change.sync_detailed(client=Client(base_url=URL), body=token).status_code == 204
    assert expect(models.AccountDetails, show_account.sync(client=tiles)).email == NEW_EMAIL


def live() -> None:
    tiles = Client(base_url=URL)
    signed_in = register_and_confirm(tiles)
    session = with_session(signed_in)
    change_each_field_alone(session, signed_in.account)
    send_feedback_twice(session)
    reset(tiles)
    expect(models.UnauthenticatedProblem, show_account.sync(client=session))
    for _ in range(2):
        signed_in = expect(
            models.SignedIn, sign_in.sync(client=tiles, body=models.SignInRequest(email=EMAIL, password=OTHER_PASSWORD))
        )
    session = with_session(signed_in)
    end_the_other_session(session)
    change_the_email(session)
    exported = expect(models.AccountExport, export_account.sync(client=session))
    (accounts,) = [table for table in exported.stored if table.table == "accounts"]
    assert accounts.rows[0]["email"] == NEW_EMAIL
    closure = models.AccountClosureRequest(password=OTHER_PASSWORD, erase=True)
    assert expect(models.AccountClosure, close_account.sync(client=session, body=closure)).erase_after
    expect(models.UnauthenticatedProblem, show_account.sync(client=session))


live()
