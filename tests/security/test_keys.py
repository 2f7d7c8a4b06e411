"""Signing keys: a new key takes over without losing a link, and removing a key ends what it signed."""

import json
import re
from pathlib import Path

import httpx2
import pytest
from journeys import MakeService
from support import PASSWORD, MailServer, ServerProcess, any_database, invoke, run_tiles, token_of, wait_for

from backend.security import keys

OLD_KEY, NEW_KEY = "o" * 40, "n" * 40


def written(folder: Path) -> list[str]:
    return (folder / keys.NAME).read_text("ascii").split()


@pytest.mark.long
def test_running_processes_notice_a_rotation_and_the_removal_of_a_key(tmp_path: Path, mail_server: MailServer) -> None:
    peer = {"mail_server": mail_server.host, "mail_port": mail_server.port, "rate_limits": "off"}
    with ServerProcess(tmp_path, "--workers", "2", **peer) as server:

        def token_for(email: str) -> str:
            response = httpx2.post(f"{server.url}/v1/registrations", json={"name": "Ada", "email": email})
            assert response.status_code == 202
            return token_of(wait_for(lambda: [mail for mail in mail_server.messages if mail["To"] == email])[0])

        def confirm(token: str) -> int:
            proof = {"token": token, "password": PASSWORD}
            return httpx2.post(f"{server.url}/v1/registrations/confirm", json=proof).status_code

        tokens = [token_for(f"before{number}@example.org") for number in range(4)]
        shown(server.instance_path)
        tokens += [token_for(f"after{number}@example.org") for number in range(4)]
        assert [confirm(token) for token in tokens] == [201] * 8
        stolen = token_for("thief@example.org")
        shown(server.instance_path, "--keep", "0", "--yes")
        assert [confirm(stolen) for _ in range(6)] == [400] * 6


# The command


def shown(folder: Path, *options: str) -> object:
    """Rotate from the command line, and return its JSON."""
    done = run_tiles(folder, "keys", "rotate", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rotating_puts_a_new_key_first_and_keeps_the_given_number_of_older_ones(tmp_path: Path) -> None:
    assert shown(tmp_path) == {"older_keys_kept": 1, "forgotten": 0}
    first = written(tmp_path)
    assert shown(tmp_path, "--keep", "9") == {"older_keys_kept": 2, "forgotten": 0}
    second = written(tmp_path)
    assert second[1:] == first
    assert len(set(second)) == 3
    assert shown(tmp_path, "--keep", "1", "--yes") == {"older_keys_kept": 1, "forgotten": 2}
    assert written(tmp_path)[1:] == second[:1]
    assert shown(tmp_path, "--keep", "0", "--yes") == {"older_keys_kept": 0, "forgotten": 2}
    assert len(written(tmp_path)) == 1


@any_database
@pytest.mark.parametrize("answer", ["n\n", ""])
def test_before_it_removes_a_key_the_command_says_what_stops_working_and_asks(
    make_service: MakeService, tmp_path: Path, answer: str
) -> None:
    (tmp_path / keys.NAME).write_text(f"{NEW_KEY}\n{OLD_KEY}\n")
    refused = invoke(make_service(secret_keys=""), "keys", "rotate", "--keep", "1", typed=answer, status=1)
    assert refused.stdout == ""
    for part in ("1 oldest", "unused links", "unsubscribe", "open a closed account again", "receipts"):
        assert part in refused.stderr
    assert "Error: nothing was done" in refused.stderr
    assert written(tmp_path) == [NEW_KEY, OLD_KEY]


def test_keys_in_the_environment_are_rotated_by_hand_as_the_command_explains(tmp_path: Path) -> None:
    refused = run_tiles(tmp_path, "keys", "rotate", secret_keys=OLD_KEY)
    assert refused.returncode == 1
    steps = ("TILES_SECRET_KEYS", "old,new", "Restart", "new,old", "Restart", "Take out the old one", "After a theft")
    assert re.search(".*".join(steps), refused.stderr, re.DOTALL)
    assert OLD_KEY not in refused.stderr
    assert not (tmp_path / keys.NAME).exists()
