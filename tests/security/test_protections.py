"""Second lines of defence: each is tested alone, as if the first one were missing."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from journeys import MakeService, account_id, close, erase_due, hold, in_ledger, post, undo, undo_link
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from support import PASSWORD, Person, Service, any_database, assert_problem

from backend import clock
from backend.database import engine, models
from backend.privacy import erasure
from backend.security import tokens
from backend.security.tokens import Purpose


def store(service: Service, table: type[engine.Base], row_id: uuid.UUID, **values: Any) -> None:
    """Change a row directly in the database."""
    with service.app.app_context(), engine.transaction() as session:
        session.execute(update(table.__table__).where(table.__table__.c.id == row_id).values(**values))


def stored_session(person: Person) -> uuid.UUID:
    return uuid.UUID(person.session["id"])


# Sessions whose rows were not deleted


@pytest.mark.parametrize("change", [{"credentials_id": uuid.uuid4()}, {"closed_at": datetime.now(UTC)}])
def test_a_leftover_session_of_an_older_password_or_a_closed_account_does_not_work(
    service: Service, ada: Person, change: dict[str, Any]
) -> None:
    store(service, models.Account, account_id(service, ada.email), **change)
    assert_problem(service.account(ada.headers), 401, "unauthenticated")
    assert len(service.rows("sessions")) == 1


def test_the_list_shows_no_session_of_a_stranger_or_an_older_password(service: Service, ada: Person) -> None:
    bob, older = service.register(email="bob@example.org"), service.sign_in().json["session"]
    (credentials_id,) = {row["credentials_id"] for row in service.rows("accounts") if row["email"] == ada.email}
    same = credentials_id if isinstance(credentials_id, uuid.UUID) else uuid.UUID(credentials_id)
    store(service, models.Session, stored_session(bob), credentials_id=same)
    store(service, models.Session, uuid.UUID(older["id"]), credentials_id=uuid.uuid4())
    listed = service.http.get("/v1/sessions", headers=ada.headers).json["sessions"]
    assert [entry["id"] for entry in listed] == [ada.session["id"]]


# How accounts and sessions begin


@any_database
def test_a_new_service_has_no_account(service: Service) -> None:
    assert service.rows("accounts") == service.rows("sessions") == []
    for email in ("admin@example.org", "root@tiles.test", "tiles@accounts.tiles.test"):
        for password in ("admin", "root", "tiles", PASSWORD):
            assert_problem(service.sign_in(email, password), 401, "wrong-credentials")


@any_database
def test_only_a_password_starts_a_session(service: Service) -> None:
    document = service.http.get("/openapi.json").json
    schemas, opens = document["components"]["schemas"], {}
    for path, item in document["paths"].items():
        for operation in item.values():
            for response in operation["responses"].values():
                if "schemas/SignedIn'" in str(response):
                    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                    opens[path] = set(schemas[body.rpartition("/")[2]]["required"])
    assert opens == {"/v1/sessions": {"email", "password"}, "/v1/registrations/confirm": {"token", "password"}}


@any_database
def test_a_password_works_for_ten_years(service: Service, ada: Person, move_clock: Callable[[timedelta], None]) -> None:
    move_clock(timedelta(days=3650))
    assert service.sign_in(ada.email, PASSWORD).status_code == 201


# Who may change what


def test_an_undo_link_names_a_change_of_its_own_account(service: Service, ada: Person) -> None:
    service.register(email="eve@example.org")
    undo_link(service, ada.headers, ada.email, "countess@example.org")
    (change,) = service.rows("previous_addresses")
    with service.app.app_context(), engine.reading() as session:
        eve = session.scalars(engine.db.select(models.Account).filter_by(email="eve@example.org")).one()
        token = tokens.issue_for(Purpose.EMAIL_CHANGE_UNDO, eve, change=str(uuid.UUID(str(change["id"]))))
    assert_problem(undo(service, token), 400, "invalid-token")
    assert {row["email"] for row in service.rows("accounts")} == {"countess@example.org", "eve@example.org"}


# Equal work, and limits before any work


ASKING = {
    "sessions": ("sign-in", {"email": "ada@example.org", "password": "not that one"}),
    "registrations": ("registration", {"name": "Ada", "email": "ada@example.org"}),
    "password-resets": ("password-reset", {"email": "ada@example.org"}),
    "erasure-requests": ("erasure-request", {"email": "ada@example.org"}),
}


@pytest.mark.parametrize("path", ASKING)
def test_promise_13_a_limit_is_charged_before_any_look_up(make_service: MakeService, path: str) -> None:
    limit, body = ASKING[path]
    service = make_service(rate_limits=f"{limit}/address+client=1/hour")
    assert post(service, path, **body).status_code in {202, 401}
    with service.statements() as statements:
        assert_problem(post(service, path, **body), 429, "too-many-requests")
    assert statements == []


def redeeming(service: Service) -> list[tuple[str, dict[str, str]]]:
    """Return a request for every operation and every page that takes an emailed token."""
    schemas = service.http.get("/openapi.json").json["components"]["schemas"]
    bodies = {name: set(schema.get("required", ())) for name, schema in schemas.items()}
    made_up = {"token": "made-up", "receipt": "made-up", "password": PASSWORD}
    requests: list[tuple[str, dict[str, str]]] = [("/unsubscribe/made-up", {})]
    rules = service.app.url_map.iter_rules()
    looks = {rule.rule for rule in rules if rule.rule.endswith("/look")}
    requests += [(path, {"token": "made-up"}) for path in sorted(looks)]
    for path, operations in service.http.get("/openapi.json").json["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        names = [part["schema"]["$ref"].rpartition("/")[2] for part in content.values()]
        taking = [bodies[name] for name in names if bodies[name] & {"token", "receipt"}]
        requests += [(path, {field: made_up[field] for field in fields}) for fields in taking]
    return requests


@any_database
def test_promise_13_every_operation_that_redeems_a_token_is_charged(make_service: MakeService) -> None:
    service = make_service(rate_limits="token/client=1/hour")
    operations = redeeming(service)
    assert len(operations) == 8 + 8
    for number, (path, body) in enumerate(operations):
        client = {"REMOTE_ADDR": f"192.0.2.{number}"}
        options = {"json": body} if path.startswith("/v1/") else {"data": body}
        statuses = [service.http.post(path, **options, environ_overrides=client).status_code for _ in range(2)]
        assert statuses == [400, 429], path


# Legal holds


def test_a_hold_placed_while_accounts_are_marked_counts(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(erasure_grace_days=0)
    ada = service.register()
    assert close(service, ada.headers, erase=True).status_code == 200
    hold(service, ada.email, clock.now() + timedelta(days=10))
    # The worker selected the due accounts before the hold was placed.
    account = models.Account
    monkeypatch.setattr(erasure, "is_due", lambda now: account.closed_at.is_not(None) & (account.erase_after <= now))
    assert erase_due(service) == 0
    assert in_ledger(service) == []
    assert [row["erasing_since"] for row in service.rows("accounts")] == [None]


# Logged errors


def test_a_database_error_contains_no_value(service: Service) -> None:
    with service.app.app_context(), engine.reading() as session, pytest.raises(DBAPIError) as error:
        session.execute(text("SELECT :marker FROM nothing"), {"marker": "kilimanjaro"})
    assert "kilimanjaro" not in str(error.value)
