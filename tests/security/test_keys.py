"""Signing keys: rotated without losing a link; a machine whose keys the database does not know is stopped."""

import hashlib
import json
import re
from pathlib import Path

import httpx2
import pytest
from journeys import MakeService
from peers import MailServer, free_port, token_of, wait_for
from server_process import ServerProcess, run_tiles
from support import PASSWORD, Service, any_database, assert_problem, invoke, working

from backend.commands import check
from backend.errors import Impossible
from backend.security import key_file, keys

OLD, NEW, OTHER = "o" * 40, "n" * 40, "x" * 40


def keys_in(folder: Path) -> list[str]:
    return (folder / key_file.NAME).read_text("ascii").split()


def digests(service: Service) -> set[str]:
    return {row["digest"] for row in service.rows("key_digests")}


@pytest.fixture
def first(make_service: MakeService) -> Service:
    """The first machine, whose keys the database knows."""
    service = make_service(secret_keys=OLD)
    service.run(keys.begin)
    return service


# A machine with other keys


@any_database
@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("command", ["serve", "mail work", "mail deliver"])
def test_a_machine_with_other_keys_does_not_start_and_says_what_to_do(
    database_url: str, tmp_path: Path, command: str
) -> None:
    port = ("--port", str(free_port())) if command == "serve" else ()
    refused = run_tiles(tmp_path, *command.split(), *port, database_url=database_url, secret_keys=OTHER)
    assert refused.returncode in {1, 2}
    assert refused.stdout == ""
    assert refused.stderr.startswith("Error: TILES_SECRET_KEYS: none of the keys here is known to this database")
    for part in ("Another machine signs with other keys", "not brought back after a restore", "`tiles keys adopt`"):
        assert part in refused.stderr
    assert OTHER not in refused.stderr


def test_a_process_with_other_keys_is_unready_and_the_check_finds_it(first: Service, make_service: MakeService) -> None:
    other = make_service(secret_keys=OTHER)
    assert_problem(other.http.get("/readyz"), 503, "overloaded")
    assert other.http.get("/healthz").status_code == 200
    codes = [finding.code for group in check.run(other.app) for finding in group if finding.level == "error"]
    assert "keys-others" in codes
    assert first.http.get("/readyz").status_code == 200
    assert "keys-others" not in [finding.code for group in check.run(first.app) for finding in group]


def test_a_worker_with_other_keys_leaves_emails_to_a_worker_with_known_keys(
    first: Service, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    first.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    with working(make_service(secret_keys=OTHER).app):
        wait_for(lambda: "none of the keys here is known to this database" in caplog.text)
    assert first.mail_server.messages == []
    assert first.mail()["To"] == "ada@example.org"


def test_a_database_without_known_keys_accepts_the_first_ones(make_service: MakeService) -> None:
    service = make_service(secret_keys=f"{NEW},{OLD}")
    assert service.http.get("/readyz").status_code == 200
    service.run(keys.begin)
    assert len(digests(service)) == 2
    for key in (OLD, NEW):
        assert not digests(service) & {key, hashlib.sha256(key.encode()).hexdigest()}


# A lost key


def test_a_key_file_missing_after_a_restore_stops_the_start_and_no_key_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    assert run_tiles(folder, "db", "upgrade").returncode == 0
    assert run_tiles(folder, "mail", "deliver").returncode == 0
    assert run_tiles(folder, "backup", str(tmp_path / "backup")).returncode == 0
    for file in folder.iterdir():
        file.unlink() if file.is_file() else None
    restored = run_tiles(folder, "restore", str(tmp_path / "backup"), "--yes")
    assert restored.returncode == 0
    assert "bring back the secret_key" in restored.stderr
    assert run_tiles(folder, "db", "upgrade").returncode == 0
    for command in (("serve", "--port", str(free_port())), ("keys", "rotate")):
        refused = run_tiles(folder, *command)
        assert f"Error: {folder}/secret_key: none of the keys here is known" in refused.stderr
    assert not (folder / "secret_key").exists()
    assert json.loads(run_tiles(folder, "keys", "adopt", "--yes", "--json").stdout) == {"keys": 1}
    assert run_tiles(folder, "mail", "deliver").returncode == 0


def test_a_new_key_is_adopted_only_after_confirmation(
    first: Service, make_service: MakeService, database_url: str, tmp_path: Path
) -> None:
    other = {"database_url": database_url, "secret_keys": OTHER}
    before = digests(first)
    result = run_tiles(tmp_path, "keys", "adopt", **other)
    assert result.returncode == 1
    assert "receipts of erasures" in result.stderr
    assert digests(first) == before
    assert run_tiles(tmp_path, "keys", "adopt", "--yes", **other).returncode == 0
    assert digests(first).isdisjoint(before)
    make_service(secret_keys=OTHER).run(keys.begin)
    assert_problem(first.http.get("/readyz"), 503, "overloaded")


# Rotating


def test_rotating_stores_the_new_key_and_forgets_the_removed_ones(make_service: MakeService) -> None:
    own = make_service(secret_keys="")
    own.run(keys.begin)
    before = digests(own)
    with own.app.app_context():
        keys.rotate(())
        both = digests(own)
        assert len(both) == 2
        assert before < both
        keys.rotate(keys.in_use())
        assert len(digests(own)) == 1
        assert digests(own).isdisjoint(both)
    assert own.http.get("/readyz").status_code == 200


@pytest.mark.usefixtures("first")
def test_rotating_adopts_no_key_by_accident(make_service: MakeService, tmp_path: Path) -> None:
    own = make_service(secret_keys="")
    before = (tmp_path / key_file.NAME).read_text()
    with own.app.app_context(), pytest.raises(Impossible, match="none of the keys here"):
        keys.rotate(())
    assert (tmp_path / key_file.NAME).read_text() == before


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
        rotate(server.instance_path)
        tokens += [token_for(f"after{number}@example.org") for number in range(4)]
        assert [confirm(token) for token in tokens] == [201] * 8
        stolen = token_for("thief@example.org")
        rotate(server.instance_path, "--keep", "0", "--yes")
        assert [confirm(stolen) for _ in range(6)] == [400] * 6


# The command


def rotate(folder: Path, *options: str) -> object:
    """Rotate from the command line, and return its JSON."""
    done = run_tiles(folder, "keys", "rotate", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rotating_puts_a_new_key_first_and_keeps_the_given_number_of_older_ones(tmp_path: Path) -> None:
    assert rotate(tmp_path) == {"older_keys_kept": 1, "forgotten": 0}
    first = keys_in(tmp_path)
    assert rotate(tmp_path, "--keep", "9") == {"older_keys_kept": 2, "forgotten": 0}
    second = keys_in(tmp_path)
    assert second[1:] == first
    assert len(set(second)) == 3
    assert rotate(tmp_path, "--keep", "1", "--yes") == {"older_keys_kept": 1, "forgotten": 2}
    assert keys_in(tmp_path)[1:] == second[:1]
    assert rotate(tmp_path, "--keep", "0", "--yes") == {"older_keys_kept": 0, "forgotten": 2}
    assert len(keys_in(tmp_path)) == 1


@any_database
@pytest.mark.parametrize("answer", ["n\n", ""])
def test_before_it_removes_a_key_the_command_says_what_stops_working_and_asks(
    make_service: MakeService, tmp_path: Path, answer: str
) -> None:
    (tmp_path / key_file.NAME).write_text(f"{NEW}\n{OLD}\n")
    refused = invoke(make_service(secret_keys=""), "keys", "rotate", "--keep", "1", typed=answer, status=1)
    assert refused.stdout == ""
    for part in ("1 oldest", "unused links", "unsubscribe", "open a closed account again", "receipts"):
        assert part in refused.stderr
    assert "Error: nothing was done" in refused.stderr
    assert keys_in(tmp_path) == [NEW, OLD]


def test_keys_in_the_environment_are_rotated_by_hand_as_the_command_explains(tmp_path: Path) -> None:
    refused = run_tiles(tmp_path, "keys", "rotate", secret_keys=OLD)
    assert refused.returncode == 1
    steps = ("TILES_SECRET_KEYS", "old,new", "Restart", "new,old", "Restart", "Take out the old one", "After a theft")
    assert re.search(".*".join(steps), refused.stderr, re.DOTALL)
    assert OLD not in refused.stderr
    assert not (tmp_path / key_file.NAME).exists()
