"""Argon2 parameters are raised: a hash follows at the next sign-in, and no time tells who has an old one."""

from collections import Counter

import pytest
from alembic import command
from journeys import MakeService, close
from support import OTHER_PASSWORD, PASSWORD, Person, Service, assert_problem, empty_database
from test_house import migrate

from backend.serving import worker

LOW, HIGH = "m=8,t=1,p=1", "m=16,t=2,p=1"


def work_of(costs: tuple[str, ...]) -> dict[str, int]:
    return {f"verify $argon2id$v=19${cost}": 1 for cost in costs}


@pytest.fixture
def raised(ada: Person, make_service: MakeService) -> Service:  # noqa: ARG001 - Ada came before
    """The service after its operator raised the parameters."""
    return make_service(argon2_memory_kib=16, argon2_time_cost=2)


def costs(service: Service) -> set[str]:
    return {row["cost"] for row in service.rows("password_costs")}


def tidy(service: Service) -> None:
    with service.app.app_context():
        list(worker.tidy())


def test_raised_argon2_parameters_cost_every_address_the_same(raised: Service, hash_work: Counter[str]) -> None:
    raised.register(name="Eve", email="eve@example.org")
    closed = raised.register(name="Bob", email="bob@example.org")
    assert close(raised, closed.headers).status_code == 200
    executed = set()
    for address in ("ada@example.org", "eve@example.org", "bob@example.org", "nobody@example.org"):
        hash_work.clear()
        with raised.statements() as statements:
            assert_problem(raised.sign_in(address, "not that one"), 401, "wrong-credentials")
        executed.add(tuple(statements))
        assert hash_work == work_of((LOW, HIGH))
    assert len(executed) == 1


def test_before_anybody_has_a_new_hash_every_address_costs_the_same(raised: Service, hash_work: Counter[str]) -> None:
    for address in ("ada@example.org", "nobody@example.org"):
        hash_work.clear()
        assert_problem(raised.sign_in(address, "not that one"), 401, "wrong-credentials")
        assert hash_work == work_of((LOW, HIGH))


def test_parameters_that_no_hash_has_any_more_cost_nobody_anything(raised: Service, hash_work: Counter[str]) -> None:
    tidy(raised)
    assert costs(raised) == {LOW}
    assert raised.sign_in().status_code == 201
    assert costs(raised) == {LOW, HIGH}
    tidy(raised)
    assert costs(raised) == {HIGH}
    hash_work.clear()
    assert_problem(raised.sign_in("nobody@example.org"), 401, "wrong-credentials")
    assert hash_work == work_of((HIGH,))


@pytest.mark.parametrize("renew", ["reset", "change"])
def test_every_new_hash_has_its_cost_noted(raised: Service, ada: Person, renew: str) -> None:
    if renew == "reset":
        assert raised.reset(raised.ask_for_reset()).status_code == 204
    else:
        change = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
        assert raised.http.put("/v1/account/password", json=change, headers=ada.headers).status_code == 204
    assert costs(raised) == {LOW, HIGH}


@pytest.mark.usefixtures("raised")
def test_an_older_process_beside_newer_ones_still_signs_everybody_in(service: Service, raised: Service) -> None:
    assert raised.sign_in().status_code == 201
    assert service.sign_in().status_code == 201
    assert service.sign_in(password="not that one").status_code == 401


@empty_database
def test_the_upgrade_notes_what_the_hashes_there_are_have_cost(
    make_service: MakeService, hash_work: Counter[str]
) -> None:
    service = make_service()
    migrate(service.app, command.upgrade, "head")
    service.register()
    migrate(service.app, command.downgrade, "0003")
    migrate(service.app, command.upgrade, "head")
    assert costs(service) == {LOW}
    hash_work.clear()
    raised = make_service(argon2_memory_kib=16)
    assert_problem(raised.sign_in("nobody@example.org"), 401, "wrong-credentials")
    assert hash_work == work_of((LOW, "m=16,t=1,p=1"))
