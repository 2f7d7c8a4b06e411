"""The account's settings: name, emails about TILES, the accepted policy."""

import pytest
from support import Person, Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend import clock
from backend.privacy import policy


def change(service: Service, person: Person, **members: object) -> TestResponse:
    return service.http.patch("/v1/account", json=members, headers=person.headers)


def test_a_name_is_changed_or_removed_and_the_rest_stays(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    before = service.account(ada.headers).json
    for sent, name in (("  Ada King ", "Ada King"), (None, None)):
        response = change(service, ada, name=sent)
        assert (response.status_code, response.json) == (200, before | {"name": name})
        assert service.account(ada.headers).json == change(service, ada).json == response.json
    assert {row["email"]: row["name"] for row in service.rows("accounts")} == {ada.email: None, bob.email: "Bob"}


def test_emails_about_tiles_can_be_declined_and_asked_for_again(service: Service, ada: Person) -> None:
    for wanted in (False, True):
        assert change(service, ada, email_updates=wanted).json["email_updates"] is wanted


def test_only_a_published_policy_can_be_accepted(service: Service, ada: Person) -> None:
    with service.app.app_context():
        policy.publish(version="2026-01", effective_on=clock.now().date(), text="We store little.")
    assert service.account(ada.headers).json["policy"] == {"accepted": None, "current": "2026-01"}
    document = assert_problem(change(service, ada, accepted_policy="2031-01", name="Eve"), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/accepted_policy"]
    assert service.account(ada.headers).json["name"] == "Ada Lovelace"
    accepted = change(service, ada, accepted_policy="2026-01").json["policy"]
    assert accepted == {"accepted": "2026-01", "current": "2026-01"}


@any_database
@pytest.mark.parametrize(
    "members", [{"email_updates": None}, {"email_updates": 1}, {"accepted_policy": None}, {"name": ""}, {"email": "a"}]
)
def test_an_invalid_field_changes_nothing(service: Service, ada: Person, members: dict[str, object]) -> None:
    before = service.rows("accounts")
    assert_problem(change(service, ada, **members), 422, "invalid-request")
    assert_problem(service.http.patch("/v1/account", json={"name": "Eve"}), 401, "unauthenticated")
    assert service.rows("accounts") == before
