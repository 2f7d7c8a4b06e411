"""Password hashes: their cost, equal work for every address also after the cost was raised, and a bounded backlog."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from apps import make_settings
from argon2 import Type, extract_parameters
from argon2.low_level import hash_secret_raw
from flask import Flask
from journeys import MakeService, close, tidy
from migrations import migrate
from peers import free_port
from server_process import run_tiles
from support import OTHER_PASSWORD, PASSWORD, Person, Service, assert_problem, empty_database

from backend.config import Settings
from backend.security.hashing import Hasher, hasher

LOW, HIGH = "m=8,t=1,p=1", "m=16,t=2,p=1"


def test_the_installed_argon2_gives_the_reference_hashes() -> None:
    # From the reference implementation's own tests (test.c, Argon2id, version 0x13).
    raw = hash_secret_raw(b"password", b"somesalt", 2, 65536, 1, 32, Type.ID)
    assert raw.hex(" ", 4) == "09316115 d5cf24ed 5a15a31a 3ba326e5 cf32edc2 4702987c 02b6566f 61913cf7"


def test_the_default_argon2_parameters_are_those_of_owasp(app: Flask, tmp_path: Path) -> None:
    fields = Settings.model_fields
    defaults = {name: fields[name].default for name in fields if name.startswith("argon2_")}
    settings = make_settings(tmp_path, f"sqlite:///{tmp_path / 'none.sqlite3'}").model_copy(update=defaults)
    with app.app_context():
        encoded = Hasher(settings).hash(PASSWORD)
    parameters = extract_parameters(encoded)
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)


def test_a_process_makes_as_many_hashes_at_a_time_as_the_setting_says(make_service: MakeService) -> None:
    app = make_service(argon2_threads=1).app
    before = set(threading.enumerate())

    def hash_one(_: int) -> set[str]:
        with app.app_context():
            hasher().hash(PASSWORD)
            return {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("hasher")}

    with ThreadPoolExecutor(8) as callers:
        assert set().union(*callers.map(hash_one, range(32))) == {"hasher_0"}


# The parameters were raised


@pytest.fixture
def raised(ada: Person, make_service: MakeService) -> Service:  # noqa: ARG001 - Ada came before
    """The service after its operator raised the parameters."""
    return make_service(argon2_memory_kib=16, argon2_time_cost=2)


def costs(service: Service) -> set[str]:
    return {row["cost"] for row in service.rows("password_costs")}


def assert_work(service: Service, hash_work: Counter[str], addresses: list[str], *expected: str) -> None:
    """Check that a refused sign-in of each address runs the same statements and verifies one hash of each cost."""
    executed = set()
    for address in addresses:
        hash_work.clear()
        with service.statements() as statements:
            assert_problem(service.sign_in(address, "not that one"), 401, "wrong-credentials")
        assert hash_work == {f"verify $argon2id$v=19${cost}": 1 for cost in expected}
        executed.add(tuple(statements))
    assert len(executed) == 1


def test_after_argon2_is_raised_every_address_costs_the_same(raised: Service, hash_work: Counter[str]) -> None:
    # Before an account has a new hash, and after.
    assert_work(raised, hash_work, ["ada@example.org", "nobody@example.org"], LOW, HIGH)
    raised.register(name="Eve", email="eve@example.org")
    closed = raised.register(name="Bob", email="bob@example.org")
    assert close(raised, closed.headers).status_code == 200
    addresses = ["ada@example.org", "eve@example.org", "bob@example.org", "nobody@example.org"]
    assert_work(raised, hash_work, addresses, LOW, HIGH)


def test_parameters_that_no_hash_uses_are_no_longer_computed(
    service: Service, raised: Service, hash_work: Counter[str]
) -> None:
    tidy(raised)
    assert costs(raised) == {LOW}
    assert raised.sign_in().status_code == 201
    assert costs(raised) == {LOW, HIGH}
    # This process still has the old parameters.
    assert service.sign_in(password="not that one").status_code == 401
    tidy(raised)
    assert costs(raised) == {HIGH}
    assert_work(raised, hash_work, ["ada@example.org", "nobody@example.org"], HIGH)


@pytest.mark.parametrize("renew", ["reset", "change"])
def test_the_cost_of_every_new_hash_is_recorded(raised: Service, service: Service, ada: Person, renew: str) -> None:
    if renew == "reset":
        assert raised.reset(raised.ask_for_reset()).status_code == 204
    else:
        change = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
        assert raised.http.put("/v1/account/password", json=change, headers=ada.headers).status_code == 204
    assert costs(raised) == {LOW, HIGH}
    assert service.sign_in(password=OTHER_PASSWORD).status_code == 201


@empty_database
def test_the_upgrade_records_the_costs_of_existing_hashes(make_service: MakeService) -> None:
    service = make_service()
    migrate(service.app, command.upgrade, "head")
    service.register()
    migrate(service.app, command.downgrade, "0003")
    migrate(service.app, command.upgrade, "head")
    assert costs(service) == {LOW}


# Argon2 built for another processor


# Python runs this first: every hash then fails with an illegal instruction.
FOREIGN = """
import ctypes, mmap, platform
import argon2, argon2.low_level

def illegal(*_arguments, **_options):
    code = {"x86_64": b"\\x0f\\x0b", "aarch64": b"\\x00\\x00\\x00\\x00"}[platform.machine()]
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

argon2.low_level.hash_secret = argon2._password_hasher.hash_secret = illegal
argon2.low_level.verify_secret = argon2._password_hasher.verify_secret = illegal
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every started process use an Argon2 that was built for another processor."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "sitecustomize.py").write_text(FOREIGN)
    path = os.pathsep.join([str(tmp_path / "foreign"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


@pytest.mark.long
@pytest.mark.usefixtures("foreign")
def test_an_argon2_built_for_another_processor_stops_the_start(tmp_path: Path) -> None:
    folder, named = tmp_path / "instance", "Argon2 was built for another processor"
    done = run_tiles(folder, "serve", "--port", str(free_port()))
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {named}")
    assert "make" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "tiles.sqlite3").exists()
    # A command that needs no hash still works.
    assert run_tiles(folder, "db", "upgrade").returncode == 0
