"""The account's settings: what a person may change about it at any time."""

from datetime import date

import pytest
from support import Person, Service, assert_problem
from werkzeug.test import TestResponse

from backend import clock
from backend.privacy import policy


def change(service: Service, person: Person, **members: object) -> TestResponse:
    return service.http.patch("/v1/account", json=members, headers=person.headers)


def publish(service: Service, version: str, effective_on: date | None = None) -> policy.Published:
    with service.app.app_context():
        return policy.publish(
            version=version, effective_on=effective_on or clock.now().date(), text=f"The policy {version}."
        )


def test_a_name_is_changed_and_the_rest_stays(service: Service, ada: Person) -> None:
    before = service.account(ada.headers).json
    response = change(service, ada, name="  Ada King ")
    assert (response.status_code, response.json) == (200, before | {"name": "Ada King"})
    assert service.account(ada.headers).json == response.json


def test_a_name_can_be_removed(service: Service, ada: Person) -> None:
    assert change(service, ada, name=None).json["name"] is None
    assert service.rows("accounts")[0]["name"] is None


def test_mails_about_tiles_can_be_declined_and_wished_for_again(service: Service, ada: Person) -> None:
    assert change(service, ada, email_updates=False).json["email_updates"] is False
    assert change(service, ada, email_updates=True).json["email_updates"] is True


def test_nothing_named_is_nothing_changed(service: Service, ada: Person) -> None:
    assert change(service, ada).json == service.account(ada.headers).json


def test_a_published_policy_is_accepted_by_its_version(service: Service, ada: Person) -> None:
    publish(service, "2026-01")
    assert service.account(ada.headers).json["policy"] == {"accepted": None, "current": "2026-01"}
    assert change(service, ada, accepted_policy="2026-01").json["policy"] == {
        "accepted": "2026-01",
        "current": "2026-01",
    }


def test_a_policy_that_was_not_published_cannot_be_accepted(service: Service, ada: Person) -> None:
    document = assert_problem(change(service, ada, accepted_policy="2031-01", name="Eve"), 422, "invalid-request")
    assert [entry["pointer"] for entry in document["errors"]] == ["/accepted_policy"]
    assert service.account(ada.headers).json["name"] == "Ada Lovelace"


@pytest.mark.parametrize(
    "members", [{"email_updates": None}, {"email_updates": 1}, {"accepted_policy": None}, {"name": ""}, {"email": "a"}]
)
def test_what_breaks_its_rule_changes_nothing(service: Service, ada: Person, members: dict[str, object]) -> None:
    before = service.rows("accounts")
    assert_problem(change(service, ada, **members), 422, "invalid-request")
    assert service.rows("accounts") == before


def test_nobody_changes_an_account_without_its_session(service: Service, ada: Person) -> None:
    assert_problem(service.http.patch("/v1/account", json={"name": "Eve"}), 401, "unauthenticated")
    service.register(name="Eve", email="eve@example.org")
    change(service, ada, name="Ada King")
    assert {row["email"]: row["name"] for row in service.rows("accounts")} == {
        "ada@example.org": "Ada King",
        "eve@example.org": "Eve",
    }
