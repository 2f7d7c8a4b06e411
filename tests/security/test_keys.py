"""The keys that sign: a new one takes over without a link being lost, and what an old one signed ends with it."""

import itertools
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from journeys import (
    ERASED,
    MakeService,
    ask_for_email_change,
    ask_for_erasure,
    cancel,
    close,
    closed_by,
    confirm_email_change,
    confirm_erasure,
    erase_due,
    post,
    receipt_of,
    the_mail,
    undo,
    undo_link,
)
from support import (
    PASSWORD,
    TILES,
    MailServer,
    ServerProcess,
    Service,
    any_database,
    environment,
    run_tiles,
    token_of,
    wait_for,
)
from werkzeug.test import TestResponse

from backend.privacy import announcements
from backend.security import keys
from backend.security.tokens import Purpose
from backend.serving import worker

ADA, NEW = "ada@example.org", "countess@example.org"
OLD_KEY, NEW_KEY = "o" * 40, "n" * 40

Use = Callable[[Service], TestResponse]


# A token of each purpose: what makes one, and what one does with it


def registration(service: Service) -> Use:
    token = service.ask_to_register()
    return lambda later: later.confirm(token)


def password_reset(service: Service) -> Use:
    service.register()
    token = service.ask_for_reset()
    return lambda later: later.reset(token)


def email_change(service: Service) -> Use:
    token = ask_for_email_change(service, service.register().headers, NEW)
    return lambda later: confirm_email_change(later, token)


def email_change_undo(service: Service) -> Use:
    token = undo_link(service, service.register().headers, ADA, NEW)
    return lambda later: undo(later, token)


def erasure(service: Service) -> Use:
    service.register()
    token = ask_for_erasure(service, ADA)
    return lambda later: confirm_erasure(later, token)


def erasure_cancel(service: Service) -> Use:
    token = closed_by(service, service.register().headers, ADA)
    return lambda later: cancel(later, token)


def unsubscribe(service: Service) -> Use:
    service.register()
    with service.app.app_context():
        announcements.announce(subject="News", text="New tiles are here.")
        while worker.deliver():
            pass
    path = service.mail_server.messages[-1]["List-Unsubscribe"].strip("<>").removeprefix("https://accounts.tiles.test")
    return lambda later: later.http.post(path, data={"List-Unsubscribe": "One-Click"})


def erasure_receipt(service: Service) -> Use:
    close(service, service.register().headers, erase=True)
    service.deliver()
    assert erase_due(service) == 1
    receipt = receipt_of(the_mail(service.deliver(), ADA, ERASED))
    return lambda later: post(later, "erasure-receipts/verify", receipt=receipt)


JOURNEYS: dict[Purpose, Callable[[Service], Use]] = {
    Purpose.REGISTRATION: registration,
    Purpose.PASSWORD_RESET: password_reset,
    Purpose.EMAIL_CHANGE: email_change,
    Purpose.EMAIL_CHANGE_UNDO: email_change_undo,
    Purpose.ERASURE: erasure,
    Purpose.ERASURE_CANCEL: erasure_cancel,
    Purpose.UNSUBSCRIBE: unsubscribe,
    Purpose.RECEIPT: erasure_receipt,
}
every_purpose = pytest.mark.parametrize("purpose", Purpose)
each_source = pytest.mark.parametrize("source", ["file", "environment"])


@pytest.fixture
def own(make_service: MakeService) -> Service:
    """The service with a key that the instance made itself."""
    return make_service(secret_keys="", erasure_grace_days=0)


@pytest.fixture
def signing(source: str, own: Service, make_service: MakeService) -> Service:
    """The service whose keys come from one source or the other."""
    return own if source == "file" else make_service(secret_keys=OLD_KEY, erasure_grace_days=0)


@pytest.fixture
def restart(source: str, own: Service, make_service: MakeService) -> Callable[..., Service]:
    """Let a new key sign, the old one verify still or not; return the service after it: the file needs no restart."""

    def restart(*, keep: bool) -> Service:
        if source == "environment":
            return make_service(secret_keys=f"{NEW_KEY},{OLD_KEY}" if keep else NEW_KEY)
        rotate(own, leaving=() if keep else in_use(own))
        return own

    return restart


def in_use(service: Service) -> keys.Keys:
    with service.app.app_context():
        return keys.in_use()


def rotate(service: Service, *, leaving: keys.Keys = ()) -> None:
    with service.app.app_context():
        keys.rotate(leaving)


def written(folder: Path) -> list[str]:
    return (folder / keys.NAME).read_text("ascii").split()


@any_database
@each_source
@every_purpose
def test_a_token_signed_before_a_rotation_is_redeemed_after_it(
    purpose: Purpose, signing: Service, restart: Callable[..., Service]
) -> None:
    use = JOURNEYS[purpose](signing)
    assert use(restart(keep=True)).status_code in {200, 201, 204}


@any_database
@each_source
@every_purpose
def test_a_token_dies_when_its_key_leaves(purpose: Purpose, signing: Service, restart: Callable[..., Service]) -> None:
    use = JOURNEYS[purpose](signing)
    assert use(restart(keep=False)).status_code == 400


@any_database
@pytest.mark.parametrize("purpose", [Purpose.REGISTRATION, Purpose.RECEIPT])
def test_what_a_new_key_signs_is_redeemed_by_a_process_that_ran_before_it(
    purpose: Purpose, own: Service, make_service: MakeService
) -> None:
    before, first = make_service(secret_keys=""), in_use(own)
    rotate(own)
    use = JOURNEYS[purpose](own)
    rotate(own, leaving=first)
    assert use(before).status_code in {200, 201}


@any_database
def test_a_session_outlives_every_key(own: Service) -> None:
    ada = own.register()
    rotate(own, leaving=in_use(own))
    assert own.account(ada.headers).status_code == 200


def test_processes_that_run_learn_of_a_rotation_and_of_the_end_of_a_key(
    tmp_path: Path, mail_server: MailServer
) -> None:
    peer = {"mail_server": mail_server.host, "mail_port": mail_server.port, "rate_limits": "off"}
    with ServerProcess(tmp_path, "--workers", "2", **peer) as server:

        def token_for(email: str) -> str:
            answer = httpx2.post(f"{server.url}/v1/registrations", json={"name": "Ada", "email": email})
            assert answer.status_code == 202
            return token_of(wait_for(lambda: [mail for mail in mail_server.messages if mail["To"] == email])[0])

        def confirm(token: str) -> int:
            proof = {"token": token, "password": PASSWORD}
            return httpx2.post(f"{server.url}/v1/registrations/confirm", json=proof).status_code

        tokens = [token_for(f"before{number}@example.org") for number in range(4)]
        told(server.instance_path)
        tokens += [token_for(f"after{number}@example.org") for number in range(4)]
        assert [confirm(token) for token in tokens] == [201] * 8
        stolen = token_for("thief@example.org")
        told(server.instance_path, "--keep", "0", "--yes")
        assert [confirm(stolen) for _ in range(6)] == [400] * 6


# The command


def told(folder: Path, *options: str) -> object:
    """Rotate from the command line, and return what a script is told."""
    done = run_tiles(folder, "keys", "rotate", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rotating_puts_a_new_key_first_and_keeps_the_older_ones(tmp_path: Path) -> None:
    assert told(tmp_path) == {"older_keys_kept": 1, "forgotten": 0}
    first = written(tmp_path)
    assert told(tmp_path) == {"older_keys_kept": 2, "forgotten": 0}
    second = written(tmp_path)
    assert second[1:] == first
    assert len(set(second)) == 3


def test_the_oldest_keys_leave_where_so_many_are_to_be_kept(tmp_path: Path) -> None:
    told(tmp_path)
    before = written(tmp_path)
    assert told(tmp_path, "--keep", "1", "--yes") == {"older_keys_kept": 1, "forgotten": 1}
    assert written(tmp_path)[1:] == before[:1]
    assert told(tmp_path, "--keep", "9") == {"older_keys_kept": 2, "forgotten": 0}
    assert told(tmp_path, "--keep", "0", "--yes") == {"older_keys_kept": 0, "forgotten": 3}
    assert len(written(tmp_path)) == 1


def test_before_a_key_leaves_it_is_said_what_ends_with_it_and_asked(tmp_path: Path) -> None:
    told(tmp_path)
    before = written(tmp_path)
    for answer in ("n\n", ""):
        asked = subprocess.run(
            [TILES, "keys", "rotate", "--keep", "1"],
            env=environment(tmp_path), input=answer, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (asked.returncode, asked.stdout) == (1, "")
        for what in ("1 oldest", "unused links", "unsubscribe", "open a closed account again", "receipts"):
            assert what in asked.stderr
        assert "Error: nothing was done" in asked.stderr
    assert written(tmp_path) == before


def test_keys_of_the_environment_are_rotated_by_hand_as_the_command_tells(tmp_path: Path) -> None:
    refused = run_tiles(tmp_path, "keys", "rotate", secret_keys=OLD_KEY)
    assert refused.returncode == 1
    steps = ("TILES_SECRET_KEYS", "old,new", "Restart", "new,old", "Restart", "Take out the old one", "After a theft")
    assert re.search(".*".join(steps), refused.stderr, re.DOTALL)
    assert OLD_KEY not in refused.stderr
    assert not (tmp_path / keys.NAME).exists()


@any_database
def test_by_hand_no_link_is_lost_while_some_processes_are_a_step_behind(make_service: MakeService) -> None:
    steps = [make_service(secret_keys=given) for given in (OLD_KEY, f"{OLD_KEY},{NEW_KEY}", f"{NEW_KEY},{OLD_KEY}")]
    behind = [*itertools.pairwise(steps), *itertools.pairwise(reversed(steps))]
    for number, (one, other) in enumerate(behind):
        assert other.confirm(one.ask_to_register(email=f"ada{number}@example.org")).status_code == 201
