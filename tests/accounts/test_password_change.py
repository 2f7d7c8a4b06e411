"""Changing a known password."""

from support import OTHER_PASSWORD, PASSWORD, Person, Service, assert_problem, bearer, html_of, text_of
from werkzeug.test import TestResponse


def change(service: Service, person: Person, current: str = PASSWORD, new: str = OTHER_PASSWORD) -> TestResponse:
    body = {"current_password": current, "new_password": new}
    return service.http.put("/v1/account/password", json=body, headers=person.headers)


def test_the_new_password_signs_in_and_the_old_one_does_not(service: Service, ada: Person) -> None:
    bob = service.register(name="Bob", email="bob@example.org")
    response = change(service, ada)
    assert (response.status_code, response.data) == (204, b"")
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201
    assert_problem(service.sign_in(), 401, "wrong-credentials")
    assert service.account(bob.headers).status_code == 200
    assert service.sign_in(bob.email).status_code == 201


def test_every_other_session_ends_and_this_one_stays(service: Service, ada: Person) -> None:
    others = [bearer(service.sign_in().json["session"]["token"]) for _ in range(2)]
    assert change(service, ada).status_code == 204
    for headers in others:
        assert_problem(service.account(headers), 401, "unauthenticated")
    (entry,) = service.http.get("/v1/sessions", headers=ada.headers).json["sessions"]
    assert (entry["id"], entry["current"]) == (ada.session["id"], True)
    assert len(service.rows("sessions")) == 1
    assert change(service, ada, current=OTHER_PASSWORD, new=PASSWORD).status_code == 204
    assert service.account(ada.headers).status_code == 200


def test_a_wrong_current_password_is_refused_and_changes_nothing(service: Service, ada: Person) -> None:
    other = bearer(service.sign_in().json["session"]["token"])
    link = service.ask_for_reset()
    for new in (OTHER_PASSWORD, "too short"):
        assert_problem(change(service, ada, current="not that one", new=new), 403, "wrong-password")
    assert service.deliver() == []
    assert service.account(other).status_code == 200
    assert service.sign_in().status_code == 201
    assert service.reset(link).status_code == 204


def test_a_weak_new_password_is_refused_and_changes_nothing(service: Service, ada: Person) -> None:
    document = assert_problem(change(service, ada, new="ada lovelace 1815"), 422, "weak-password")
    assert {entry["pointer"] for entry in document["errors"]} == {"/new_password"}
    assert service.deliver() == []
    assert service.sign_in().status_code == 201


def test_every_mailed_reset_link_ends_and_a_notice_without_a_token_arrives(service: Service, ada: Person) -> None:
    links = [service.ask_for_reset(), service.ask_to_register(email=ada.email)]
    assert change(service, ada).status_code == 204
    for link in links:
        assert_problem(service.reset(link), 400, "invalid-token")
    notice = service.mail()
    assert notice["To"] == ada.email
    assert "password was changed" in notice["Subject"]
    assert "#" not in text_of(notice)
    assert "/password-reset#" not in html_of(notice)
