"""A row of the queue that cannot be read is set aside and shown; EHLO and the ports are what they have to be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from conftest import make_settings
from pydantic import ValidationError
from support import MailServer, Service, any_database, run_tiles
from test_check import probe
from test_mail_queue import ask_many, counts, status, tried

from backend.database import engine
from backend.mail import queue

Make = Callable[..., Service]

BROKEN = [
    "kind = 'of_a_later_release'",
    "kind = ''",
    "email = NULL",
    "email = 'no address'",
]
BROKEN_ON_SQLITE = [
    "created_at = 'nonsense'",
    "created_at = ''",
    "created_at = 17",
    "due_at = 'nonsense'",
    "about = x'00ff'",
    "email = x'00ff'",
    "attempts = 'many', email = 'no address'",
    "id = 'nonsense'",
]


def spoil(service: Service, change: str) -> list[str]:
    """Queue five mails, and spoil the row of one; return the addresses of the others."""
    addresses = ask_many(service, 5)
    with service.app.app_context(), engine.transaction() as session:
        session.execute(engine.text(f"UPDATE mails SET {change} WHERE email = 'person3@example.org'"))
    return sorted(set(addresses) - {"person3@example.org"})


def assert_set_aside(service: Service, others: list[str], tmp_path: Path, database_url: str) -> None:
    """Check that the others leave, and that the one is seen."""
    assert sorted(message["To"] for message in service.deliver()) == others
    assert tried(service) == 0
    assert status(service) == counts(abandoned=1)
    with service.app.app_context(), engine.reading() as session:
        assert session.scalars(engine.text("SELECT failure FROM mails")).all() == ["unreadable"]
    assert service.http.get("/readyz").status_code == 200
    assert probe(service, "queue") == {"mails-given-up": "warning"}
    shown = json.loads(run_tiles(tmp_path, "mail", "status", "--json", database_url=database_url).stdout)
    assert shown["unreadable"] == 1


@pytest.mark.parametrize("change", BROKEN)
def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_leave(
    service: Service, tmp_path: Path, database_url: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_set_aside(service, spoil(service, change), tmp_path, database_url)
    assert "example.org" not in caplog.text
    assert "later_release" not in caplog.text


@any_database
@pytest.mark.parametrize("change", [change for change in BROKEN_ON_SQLITE if not change.startswith("due_at")])
def test_values_that_only_sqlite_can_hold_are_set_aside_too(
    service: Service, tmp_path: Path, database_url: str, change: str
) -> None:
    assert_set_aside(service, spoil(service, change), tmp_path, database_url)


@any_database
def test_a_day_that_is_none_keeps_no_mail(service: Service) -> None:
    spoil(service, "due_at = 'nonsense'")
    assert len(service.deliver()) == 5


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_day_that_only_postgresql_can_hold_is_set_aside(service: Service, tmp_path: Path, database_url: str) -> None:
    assert_set_aside(service, spoil(service, "created_at = '+infinity'"), tmp_path, database_url)


def test_a_kind_of_a_later_release_leaves_once_that_release_is_there(service: Service) -> None:
    spoil(service, "kind = 'of_a_later_release'")
    service.deliver()
    with service.app.app_context():
        with engine.transaction() as session:
            session.execute(engine.text("UPDATE mails SET kind = 'registration'"))
        assert queue.retry() == 1
    assert service.mail()["To"] == "person3@example.org"


class Greeted(MailServer):
    """Remembers the name by which it was greeted."""

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.greeted_by = hostname
        return await super().handle_EHLO(server, session, envelope, hostname, responses)


@any_database
@pytest.mark.parametrize(
    ("public_url", "name"),
    [
        ("https://accounts.tiles.test", "accounts.tiles.test"),
        ("https://accounts.tiles.test:8443", "accounts.tiles.test"),
        ("http://192.0.2.7:8000", "[192.0.2.7]"),
        ("http://[2001:db8::7]", "[IPv6:2001:db8::7]"),
    ],
)
def test_the_mail_server_is_greeted_by_the_public_urls_host(make_service: Make, public_url: str, name: str) -> None:
    with Greeted() as peer:
        service = make_service(mail_port=peer.port, public_url=public_url)
        ask_many(service, 1)
        service.deliver()
    assert len(peer.messages) == 1
    assert peer.greeted_by == name


@pytest.mark.parametrize("use", [{}, {"mail_use_tls": True}])
def test_port_465_without_tls_from_the_first_byte_is_told_by_name(tmp_path: Path, use: dict[str, bool]) -> None:
    given = {"mail_server": "smtp.example.org", "mail_port": 465, **use}
    with pytest.raises(ValidationError, match="TILES_MAIL_USE_SSL"):
        make_settings(tmp_path, f"sqlite:///{tmp_path / 'tiles.sqlite3'}", **given)
    done = run_tiles(tmp_path, "check", "--json", **given)
    assert done.returncode == 1
    assert "TILES_MAIL_USE_SSL" in json.loads(done.stdout)[0]["what"]
    assert "TILES_MAIL_USE_SSL" in run_tiles(tmp_path, "mail", "status", **given).stderr
