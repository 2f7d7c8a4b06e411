"""Changing a password that is known."""

from support import OTHER_PASSWORD, PASSWORD, Person, Service, assert_problem, bearer, html_of, text_of
from werkzeug.test import TestResponse


def change(service: Service, person: Person, current: str = PASSWORD, new: str = OTHER_PASSWORD) -> TestResponse:
    body = {"current_password": current, "new_password": new}
    return service.http.put("/v1/account/password", json=body, headers=person.headers)


def test_the_new_password_signs_in_and_the_old_one_does_not(service: Service, ada: Person) -> None:
    response = change(service, ada)
    assert (response.status_code, response.data) == (204, b"")
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201
    assert_problem(service.sign_in(), 401, "wrong-credentials")


def test_every_other_session_ends_and_this_one_stays(service: Service, ada: Person) -> None:
    other = bearer(service.sign_in().json["session"]["token"])
    assert change(service, ada).status_code == 204
    assert_problem(service.account(other), 401, "unauthenticated")
    (entry,) = service.http.get("/v1/sessions", headers=ada.headers).json["sessions"]
    assert (entry["id"], entry["current"]) == (ada.session["id"], True)
    assert len(service.rows("sessions")) == 1


def test_nobody_else_is_signed_out(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    assert change(service, ada).status_code == 204
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in(bob.email).status_code == 201


def test_a_wrong_current_password_is_refused_and_changes_nothing(service: Service, ada: Person) -> None:
    other = bearer(service.sign_in().json["session"]["token"])
    link = service.ask_for_reset()
    assert_problem(change(service, ada, current="not that one"), 403, "wrong-password")
    assert service.deliver() == []
    assert service.account(other).status_code == 200
    assert service.sign_in().status_code == 201
    assert service.reset(link).status_code == 204


def test_a_weak_new_password_is_refused_and_changes_nothing(service: Service, ada: Person) -> None:
    document = assert_problem(change(service, ada, new="ada lovelace 1815"), 422, "weak-password")
    assert {entry["pointer"] for entry in document["errors"]} == {"/new_password"}
    assert service.deliver() == []
    assert service.sign_in().status_code == 201


def test_only_somebody_who_knows_the_current_password_is_told_that_the_new_one_is_weak(
    service: Service, ada: Person
) -> None:
    assert_problem(change(service, ada, current="not that one", new="too short"), 403, "wrong-password")


def test_every_mailed_reset_link_dies(service: Service, ada: Person) -> None:
    links = [service.ask_for_reset(), service.ask_to_register(email=ada.email)]
    assert change(service, ada).status_code == 204
    for link in links:
        assert_problem(service.reset(link), 400, "invalid-token")


def test_a_notice_arrives_and_holds_no_token(service: Service, ada: Person) -> None:
    assert change(service, ada).status_code == 204
    notice = service.mail()
    assert notice["To"] == ada.email
    assert "password was changed" in notice["Subject"]
    assert "#" not in text_of(notice)
    assert "/password-reset#" not in html_of(notice)


def test_this_session_can_change_the_password_again(service: Service, ada: Person) -> None:
    assert change(service, ada).status_code == 204
    assert change(service, ada, current=OTHER_PASSWORD, new=PASSWORD).status_code == 204
    assert service.account(ada.headers).status_code == 200
    assert service.sign_in().status_code == 201
