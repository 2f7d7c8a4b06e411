"""The addresses that programs look for by themselves."""

from datetime import datetime, timedelta

from support import Service, any_database

from backend import clock


@any_database
def test_a_password_manager_finds_where_a_password_is_changed(service: Service) -> None:
    response = service.http.get("/.well-known/change-password", headers={"Host": "stranger.example"})
    assert (response.status_code, response.headers["Location"]) == (303, "/password-reset")


@any_database
def test_security_txt_names_a_contact_and_expires_within_a_year(make_service: object) -> None:
    service = make_service(support_email="help@tiles.test")  # type: ignore[operator]
    response = service.http.get("/.well-known/security.txt")
    assert response.content_type == "text/plain; charset=utf-8"
    fields = dict(line.split(": ", 1) for line in response.text.splitlines())
    assert fields["Contact"] == "mailto:help@tiles.test"
    assert fields["Canonical"] == "https://accounts.tiles.test/.well-known/security.txt"
    lasts = datetime.fromisoformat(fields["Expires"]) - clock.now()
    assert timedelta(days=30) < lasts < timedelta(days=365)


@any_database
def test_without_an_address_the_start_page_is_the_contact(service: Service) -> None:
    assert "Contact: https://accounts.tiles.test/\n" in service.http.get("/.well-known/security.txt").text
