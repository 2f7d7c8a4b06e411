"""An account can be named without its address in the shell's history or the list of processes."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from forking import TILES
from server_process import environment
from support import Person, Service, any_database, invoke

from backend.commands.data import data

ADA = "ada@example.org"
HOLD = ("--basis", "Order 12/26", "--until", "2099-01-01")
COMMANDS = {"find": (), "export": (), "audit": (), "hold": HOLD, "release": (),
            "disclose": ("--basis", "Order 12/26", "--authority", "Police"), "close": ("--yes",),
            "reopen": ("--yes",), "rename": ("Ada",), "unsubscribe": (), "subscribe": (),
            "change-email": ("new@example.org",), "erase": ("--yes",), "cancel": ("--yes",)}  # fmt: skip

pytestmark = [any_database, pytest.mark.usefixtures("ada")]


def test_a_dash_reads_the_address_or_the_id_from_standard_input(service: Service, ada: Person) -> None:
    assert {name for name, command in data.commands.items() if any(p.name == "who" for p in command.params)} == {
        *COMMANDS
    }
    (account,) = service.rows("accounts")
    addresses = (f" {ada.email.upper()} \n", str(account["id"]).encode())
    for number, (command, options) in enumerate(COMMANDS.items()):
        before = service.rows("audit")
        invoke(service, "data", command, "-", *options, "--json", typed=addresses[number % 2])
        assert command == "audit" or len(service.rows("audit")) > len(before)


def test_the_question_whether_one_is_sure_is_answered_by_the_next_line(service: Service) -> None:
    assert invoke(service, "data", "close", "-", typed=f"{ADA}\nn\n", status=1).stderr.endswith("nothing was done\n")
    assert "give --yes" in invoke(service, "data", "close", "-", typed=f"{ADA}\n", status=1).stderr
    assert "closed at" in invoke(service, "data", "close", "-", typed=f"{ADA}\ny\n").stdout


@pytest.mark.parametrize("typed", [b"", b"\n", b"  \n", b"\xff@example.org\n", b"nobody\0@example.org"])
def test_a_line_that_names_no_account_is_refused_in_a_line(service: Service, typed: bytes) -> None:
    done = invoke(service, "data", "find", "-", typed=typed, status=1 if typed.strip() else 2)
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert done.stdout == ""


def test_at_a_terminal_it_asks_and_no_process_shows_the_address(service: Service, tmp_path: Path) -> None:
    with service.app.app_context():
        url = service.app.config["SQLALCHEMY_DATABASE_URI"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [TILES, "data", "find", "-", "--json"], env=environment(tmp_path, database_url=url),
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr
        assert process.stdout
        try:
            assert process.stderr.read(15) == b"Address or id: "
            assert ADA not in Path(f"/proc/{process.pid}/cmdline").read_text()
            os.write(ours, f"{ADA}\n".encode())
            printed = process.stdout.read()
        finally:
            # The command ends with its terminal.
            os.close(ours)
            os.close(theirs)
    assert process.returncode == 0
    assert json.loads(printed)[0]["email"] == ADA
