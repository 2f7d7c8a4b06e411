"""A client that can send any request of the contract: it has an account, a session and a token for every link."""

import uuid
from itertools import count as numbers
from typing import Any

from sqlalchemy import select
from support import PASSWORD, Service, bearer

from backend.accounts import closing, email_change, registration
from backend.accounts.sessions import account_columns
from backend.database import models
from backend.database.engine import AnyRow, reading
from backend.security import tokens
from backend.security.tokens import Purpose

# The purpose of the token in a request.
PURPOSES = {
    "/v1/registrations/confirm": Purpose.REGISTRATION,
    "/v1/password-resets/confirm": Purpose.PASSWORD_RESET,
    "/v1/email-changes/confirm": Purpose.EMAIL_CHANGE,
    "/v1/email-changes/undo": Purpose.EMAIL_CHANGE_UNDO,
    "/v1/erasure-requests/confirm": Purpose.ERASURE,
    "/v1/erasure-requests/cancel": Purpose.ERASURE_CANCEL,
}


class Caller:
    """A client with an account, a session and every link; `renew` makes another."""

    def __init__(self, service: Service) -> None:
        self.service, self._numbers = service, numbers()
        self.renew()

    def renew(self) -> None:
        self.email = f"ada{next(self._numbers)}@example.org"
        with self.service.app.app_context():
            signed_in = registration.confirm_and_sign_in(
                token=self._registration(self.email), password=PASSWORD, client=None
            )
        self.session = signed_in.session
        self.headers = bearer(self.session.token)

    @staticmethod
    def _registration(email: str) -> str:
        content = {"account": str(uuid.uuid4()), "name": "Ada Lovelace", "email": email}
        return tokens.issue(Purpose.REGISTRATION, content)

    def _account(self) -> AnyRow:
        named = models.Account.email.in_([self.email, f"new-{self.email}"])
        with reading() as session:
            return session.execute(select(*account_columns()).where(named)).one()

    def token(self, purpose: Purpose) -> str:
        """Return a token that works."""
        with self.service.app.app_context():
            match purpose:
                case Purpose.REGISTRATION:
                    return self._registration(f"eve{next(self._numbers)}@example.org")
                case Purpose.EMAIL_CHANGE_UNDO:
                    email_change.confirm(token=self._email_change(), client=None)
                    change = self.service.rows("previous_addresses")[-1]["id"]
                    return tokens.issue_for(purpose, self._account(), change=str(change))
                case Purpose.ERASURE_CANCEL:
                    erasure = tokens.issue_for(Purpose.ERASURE, self._account())
                    closing.confirm_erasure(token=erasure, client=None)
                    return tokens.issue_for(purpose, self._account())
                case Purpose.EMAIL_CHANGE:
                    return self._email_change()
                case _:
                    return tokens.issue_for(purpose, self._account())

    def _email_change(self) -> str:
        return tokens.issue_for(Purpose.EMAIL_CHANGE, self._account(), email=f"new-{self.email}")

    def receipt(self) -> str:
        times = {"requested_at": None, "erased_at": "2026-01-01T00:00:00Z"}
        with self.service.app.app_context():
            return tokens.issue(Purpose.RECEIPT, {"account": str(uuid.uuid4()), **times, "removed": [], "kept": []})

    def complete(self, path: str, body: dict[str, Any]) -> None:
        """Put the right password and a working token into a body for a path."""
        if "receipt" in body:
            body["receipt"] = self.receipt()
        if "token" in body:
            body["token"] = self.token(PURPOSES[path])
        if "current_password" in body:
            body["current_password"] = PASSWORD
        if "password" in body and "token" not in body:
            body["password"] = PASSWORD
        if path == "/v1/sessions":
            body["email"] = self.email
