"""A data manager at the desk, for tests: invited, signed in by the emailed link, with a browser's cookie."""

import re

from support import Service, token_of
from werkzeug.test import TestResponse

from backend.desk import managers

MARY = "mary@example.org"


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
        self.browser.post("/desk/sign-in", data={"email": self.email})
        token = next(token_of(mail) for mail in self.service.deliver() if mail["To"] == self.email)
        return self.browser.post("/desk/sign-in/confirm", data={"token": token})

    @property
    def form_token(self) -> str:
        """What every form of this sign-in carries."""
        found = re.search(r'name="form_token" value="(\w+)"', self.browser.get("/desk/sessions").text)
        return found[1] if found else ""

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
