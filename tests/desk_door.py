"""A data manager at the desk: invited, signed in by the emailed link, with a browser's cookie."""

import re
from html import unescape

import pytest
from peers import token_of
from support import Person, Service
from werkzeug.test import TestResponse

from backend.desk import managers

MARY = "mary@example.org"


def hidden(page: str) -> dict[str, str]:
    """Return the hidden fields of a page."""
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: unescape(value) for name, value in fields}


class Desk:
    """A browser in which a data manager is signed in."""

    def __init__(self, service: Service, email: str = MARY, *, name: str = "Mary Somerville") -> None:
        self.service, self.email, self.browser = service, email, service.http
        with service.app.app_context():
            if email not in [manager.email for manager in managers.listed()]:
                managers.invite(email, name)
        self.sign_in()

    def sign_in(self) -> TestResponse:
        """Sign in by an emailed link; a session that this browser has ends."""
        self._form_token = ""
        self.browser.post("/desk/sign-in", data={"email": self.email})
        token = next(token_of(mail) for mail in self.service.deliver() if mail["To"] == self.email)
        return self.browser.post("/desk/sign-in/confirm", data={"token": token})

    @property
    def form_token(self) -> str:
        """The token that every form of this sign-in contains."""
        self._form_token = self._form_token or hidden(self.browser.get("/desk/sessions").text).get("form_token", "")
        return self._form_token

    def get(self, path: str, status: int = 200) -> str:
        """Return a page of the desk, such as `/people`."""
        response = self.browser.get(f"/desk{path}")
        assert response.status_code == status, response.text
        return response.text

    def post(self, path: str, status: int = 303, **fields: object) -> TestResponse:
        """Send a form of the desk."""
        response = self.browser.post(f"/desk{path}", data={"form_token": self.form_token, **fields})
        assert response.status_code == status, response.text
        return response

    def act(self, path: str, status: int = 303, /, **fields: object) -> str:
        """Open a page with a form, and send it; return the redirect, or the page with the refusal."""
        response = self.post(path, status, **{**hidden(self.get(path)), **fields})
        return response.location.removeprefix("/desk") if status == 303 else response.text

    def write(self, path: str, act: str, **fields: object) -> TestResponse:
        """Send a form with a long text or a file, with the line breaks of a browser."""
        data = {"form_token": self.form_token, **fields, "act": act}
        data |= {name: value.replace("\n", "\r\n") for name, value in fields.items() if isinstance(value, str)}
        return self.browser.post(f"/desk{path}", data=data, content_type="multipart/form-data")


@pytest.fixture
def desk(service: Service, ada: Person) -> Desk:  # noqa: ARG001 - somebody has an account
    """A browser in which Mary is signed in at the desk."""
    return Desk(service)
