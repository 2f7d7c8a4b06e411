"""The account's settings: name, emails about TILES, the accepted policy."""

from support import PASSWORD, Person, Service, assert_problem
from werkzeug.test import TestResponse

from backend import clock
from backend.privacy import policy


def change(service: Service, person: Person, **fields: object) -> TestResponse:
    return service.http.patch("/v1/account", json=fields, headers=person.headers)


def test_a_name_is_changed_or_removed_and_the_rest_stays(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    before = service.account(ada.headers).json
    for typed, name in (("  Ada King ", "Ada King"), (None, None)):
        response = change(service, ada, name=typed)
        assert (response.status_code, response.json) == (200, before | {"name": name})
        assert service.account(ada.headers).json == change(service, ada).json == response.json
    assert {row["email"]: row["name"] for row in service.rows("accounts")} == {ada.email: None, bob.email: "Bob"}


def test_a_name_is_removed_by_a_separate_request(service: Service, ada: Person) -> None:
    before = service.account(ada.headers).json
    for _ in range(2):
        response = service.http.delete("/v1/account/name", headers=ada.headers)
        assert (response.status_code, response.json) == (200, before | {"name": None})
    assert service.account(ada.headers).json == response.json


def test_the_policy_that_was_accepted_on_registering_is_recorded(service: Service) -> None:
    service.run(policy.publish, version="2026-01", effective_on=clock.now().date(), text="We store little.")
    token = service.ask_to_register()

    def confirm(version: str) -> TestResponse:
        body = {"token": token, "password": PASSWORD, "accepted_policy": version}
        return service.http.post("/v1/registrations/confirm", json=body)

    document = assert_problem(confirm("2031-01"), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/accepted_policy"]
    assert service.rows("accounts") == []
    response = confirm("2026-01")
    assert response.status_code == 201
    assert response.json["account"]["policy"] == {"accepted": "2026-01", "current": "2026-01"}


def test_emails_about_tiles_can_be_declined_and_requested_again(service: Service, ada: Person) -> None:
    for email_updates in (False, True):
        assert change(service, ada, email_updates=email_updates).json["email_updates"] is email_updates


def test_only_a_published_policy_can_be_accepted(service: Service, ada: Person) -> None:
    service.run(policy.publish, version="2026-01", effective_on=clock.now().date(), text="We store little.")
    assert service.account(ada.headers).json["policy"] == {"accepted": None, "current": "2026-01"}
    document = assert_problem(change(service, ada, accepted_policy="2031-01", name="Eve"), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/accepted_policy"]
    assert service.account(ada.headers).json["name"] == "Ada Lovelace"
    accepted = change(service, ada, accepted_policy="2026-01").json["policy"]
    assert accepted == {"accepted": "2026-01", "current": "2026-01"}
