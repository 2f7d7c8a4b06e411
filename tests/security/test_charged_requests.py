"""Which requests a limit counts: all that change something, copies of data, and of unsubscribing only a repetition."""

import uuid
from urllib.parse import urlsplit

from journeys import MakeService
from limits_steps import client
from support import PASSWORD, Service, any_database

from backend.mail.news import unsubscribe
from backend.security import tokens
from backend.security.tokens import Purpose

pytestmark = any_database


def test_requests_that_change_something_are_charged_without_a_body_too(make_service: MakeService) -> None:
    service = make_service(rate_limits="request/client=3/hour")
    ada = service.register()
    delete = [
        service.http.delete("/v1/account/name", headers=ada.headers, environ_overrides=client(1)) for _ in range(4)
    ]
    assert [response.status_code for response in delete] == [200, 200, 200, 429]
    assert service.account(ada.headers).status_code == 200


def test_copies_of_the_data_of_an_account_are_limited(make_service: MakeService) -> None:
    service = make_service(rate_limits="export/account=2/hour")
    ada = service.register()
    copies = [service.http.get("/v1/account/export", headers=ada.headers).status_code for _ in range(3)]
    assert copies == [200, 200, 429]


def test_a_mail_provider_unsubscribes_many_people_from_one_address(make_service: MakeService) -> None:
    service = make_service(rate_limits="request/client=2/hour,token/client=2/hour")
    with service.app.app_context():
        links = [unsubscribe(account)[0] for account in map(uuid.UUID, accounts(service, 4))]
    paths = [urlsplit(link).path for link in links]
    assert [service.http.post(path).status_code for path in paths] == [200] * 4
    assert [service.http.post(paths[0]).status_code for _ in range(3)] == [200, 200, 429]


def accounts(service: Service, number: int) -> list[str]:
    for index in range(number):
        email = f"person{index}@example.org"
        token = real_registration(service, email)
        body = {"token": token, "password": PASSWORD}
        assert (
            service.http.post("/v1/registrations/confirm", json=body, environ_overrides=client(index)).status_code
            == 201
        )
    return [str(row["id"]) for row in service.rows("accounts")]


def real_registration(service: Service, email: str) -> str:
    with service.app.app_context():
        content = {"account": str(uuid.uuid4()), "name": "Ada", "email": email}
        return tokens.issue(Purpose.REGISTRATION, content)
