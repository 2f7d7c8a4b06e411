"""Real faults under load lose no acknowledged request. `make chaos` causes all of them, for longer."""

from contextlib import ExitStack
from dataclasses import replace

import httpx2
import pytest
from chaos.faults import FAULTS
from chaos.scene import Scene, play
from peers import wait_for

pytestmark = pytest.mark.long

# Longer than it takes to notice the fault.
SECONDS = 2.5
PLAYED = [
    ("server and mail worker killed", "sqlite"),
    ("one of two processes killed", "postgresql"),
    ("server and mail worker told to stop", "postgresql"),
    ("PostgreSQL killed", "postgresql"),
    ("PostgreSQL out of reach for a minute", "postgresql"),
    ("failover to the standby", "postgresql"),
    ("Redis gone", "sqlite"),
    ("mail server gone in the middle of DATA", "sqlite"),
    ("mail server away for an hour", "sqlite"),
    ("disk full", "sqlite"),
    ("SQLite locked", "sqlite"),
    ("clock half an hour back", "postgresql"),
]
NAMED = {fault.name: fault for fault in FAULTS}


@pytest.mark.parametrize(("fault", "database"), PLAYED)
def test_nothing_acknowledged_is_lost_and_no_token_accepted_twice(fault: str, database: str) -> None:
    outcome = play(replace(NAMED[fault], lasts=min(NAMED[fault].lasts, SECONDS)), database, quick=True)
    assert outcome.left == {}
    assert outcome.accepted_twice == 0
    assert outcome.untrue_readyz == 0
    assert outcome.is_good


def test_a_process_says_that_it_is_up_while_readyz_waits_for_a_frozen_database() -> None:
    fault = NAMED["PostgreSQL frozen for a minute"]
    with ExitStack() as stack:
        scene = Scene(stack, fault, "postgresql", restart_seconds=0.2)
        with fault.does(scene):
            wait_for(lambda: None in [status for _, _, status in scene.watch.polls])
            assert httpx2.get(f"{scene.server.url}/healthz", timeout=20).status_code == 200
