"""Signing keys: a new key takes over without losing a link, and removing a key ends what it signed."""

import itertools
import json
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from journeys import (
    ERASED,
    MakeService,
    MoveClock,
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
    bearer,
    environment,
    run_tiles,
    token_of,
    wait_for,
)
from werkzeug.test import TestResponse

from backend.desk import managers
from backend.mail.news import News
from backend.privacy import announcements
from backend.security import keys
from backend.security.tokens import Purpose
from backend.serving import worker

ADA, NEW = "ada@example.org", "countess@example.org"
OLD_KEY, NEW_KEY = "o" * 40, "n" * 40

Use = Callable[[Service], TestResponse]


# One function for each purpose: it makes a token, and returns a function that uses the token.


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
        announcements.announce(News("News", "New tiles are here."))
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


def desk_sign_in(service: Service) -> Use:
    with service.app.app_context():
        managers.invite(ADA, "Ada")
    service.http.post("/desk/sign-in", data={"email": ADA})
    token = token_of(service.mail())
    return lambda later: later.http.post("/desk/sign-in/confirm", data={"token": token})


JOURNEYS: dict[Purpose, Callable[[Service], Use]] = {
    Purpose.REGISTRATION: registration,
    Purpose.PASSWORD_RESET: password_reset,
    Purpose.EMAIL_CHANGE: email_change,
    Purpose.EMAIL_CHANGE_UNDO: email_change_undo,
    Purpose.ERASURE: erasure,
    Purpose.ERASURE_CANCEL: erasure_cancel,
    Purpose.UNSUBSCRIBE: unsubscribe,
    Purpose.RECEIPT: erasure_receipt,
    Purpose.DESK: desk_sign_in,
}
every_purpose = pytest.mark.parametrize("purpose", Purpose)


@pytest.fixture
def own(make_service: MakeService) -> Service:
    """The service with a key that the instance created."""
    return make_service(secret_keys="", erasure_grace_days=0)


def in_use(service: Service) -> keys.Keys:
    with service.app.app_context():
        return keys.in_use()


def rotate(service: Service, *, leaving: keys.Keys = ()) -> None:
    with service.app.app_context():
        keys.rotate(leaving)


def written(folder: Path) -> list[str]:
    return (folder / keys.NAME).read_text("ascii").split()


# Machines whose clocks differ


APART = timedelta(seconds=90)


@any_database
@every_purpose
def test_a_link_from_a_machine_90_seconds_ahead_works(own: Service, move_clock: MoveClock, purpose: Purpose) -> None:
    move_clock(APART)
    use = JOURNEYS[purpose](own)
    move_clock(-APART)
    assert use(own).status_code in {200, 201, 204, 303}


@pytest.mark.parametrize("ahead", [APART, -APART], ids=["ahead", "behind"])
def test_an_email_and_a_session_from_a_machine_90_seconds_apart_work(
    service: Service, move_clock: MoveClock, ahead: timedelta
) -> None:
    move_clock(ahead)
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    move_clock(-ahead)
    token = token_of(service.mail())
    move_clock(ahead)
    session = service.confirm(token).json["session"]
    move_clock(-ahead)
    assert service.account(bearer(session["token"])).status_code == 200
    assert service.sign_in().status_code == 201


# Adding and removing keys


@any_database
@every_purpose
def test_a_token_signed_before_a_rotation_is_redeemed_after_it(purpose: Purpose, own: Service) -> None:
    use = JOURNEYS[purpose](own)
    rotate(own)
    assert use(own).status_code in {200, 201, 204, 303}


@any_database
@every_purpose
def test_a_token_stops_working_when_its_key_is_removed(purpose: Purpose, own: Service) -> None:
    ada, use = own.register(email="eve@example.org"), JOURNEYS[purpose](own)
    rotate(own, leaving=in_use(own))
    assert use(own).status_code == 400
    # A session token is not signed.
    assert own.account(ada.headers).status_code == 200


@any_database
@pytest.mark.parametrize("purpose", [Purpose.REGISTRATION, Purpose.RECEIPT])
def test_a_running_process_accepts_tokens_signed_with_a_new_key(
    purpose: Purpose, own: Service, make_service: MakeService
) -> None:
    before, first = make_service(secret_keys=""), in_use(own)
    rotate(own)
    use = JOURNEYS[purpose](own)
    rotate(own, leaving=first)
    assert use(before).status_code in {200, 201}


@any_database
def test_a_manual_rotation_loses_no_link_while_processes_are_a_step_behind(make_service: MakeService) -> None:
    steps = [make_service(secret_keys=setting) for setting in (OLD_KEY, f"{OLD_KEY},{NEW_KEY}", f"{NEW_KEY},{OLD_KEY}")]
    behind = [*itertools.pairwise(steps), *itertools.pairwise(reversed(steps))]
    for number, (one, other) in enumerate(behind):
        assert other.confirm(one.ask_to_register(email=f"ada{number}@example.org")).status_code == 201
    token = steps[0].ask_to_register()
    assert make_service(secret_keys=NEW_KEY).confirm(token).status_code == 400


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


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_before_it_removes_a_key_the_command_says_what_stops_working_and_asks(tmp_path: Path, answer: str) -> None:
    (tmp_path / keys.NAME).write_text(f"{NEW_KEY}\n{OLD_KEY}\n")
    result = subprocess.run(
        [TILES, "keys", "rotate", "--keep", "1"],
        env=environment(tmp_path), input=answer, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    for part in ("1 oldest", "unused links", "unsubscribe", "open a closed account again", "receipts"):
        assert part in result.stderr
    assert "Error: nothing was done" in result.stderr
    assert written(tmp_path) == [NEW_KEY, OLD_KEY]


def test_keys_in_the_environment_are_rotated_by_hand_as_the_command_explains(tmp_path: Path) -> None:
    refused = run_tiles(tmp_path, "keys", "rotate", secret_keys=OLD_KEY)
    assert refused.returncode == 1
    steps = ("TILES_SECRET_KEYS", "old,new", "Restart", "new,old", "Restart", "Take out the old one", "After a theft")
    assert re.search(".*".join(steps), refused.stderr, re.DOTALL)
    assert OLD_KEY not in refused.stderr
    assert not (tmp_path / keys.NAME).exists()
