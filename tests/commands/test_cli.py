"""The command line: every command explains itself, and prints JSON for a script."""

import json
import re
from pathlib import Path

import click
from click.testing import CliRunner
from command_line import commands
from peers import MailServer, free_port
from server_process import run_tiles
from support import Service, any_database, invoke

from backend.commands.console import READERS
from backend.commands.serve import tiles


def test_help_lists_each_command_under_its_reader_makes_nothing_and_needs_no_valid_setting(tmp_path: Path) -> None:
    done = run_tiles(tmp_path / "instance", "--help", mail_port="abc")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "instance").exists()
    assert re.findall(r"^(\S.*):$", done.stdout, re.MULTILINE) == ["Options", *READERS]
    assert re.findall(r" (--[a-z-]+)", done.stdout) == ["--help"]
    assert [name for name in tiles.commands if f"\n  {name} " not in done.stdout] == []
    assert sorted(name for names in READERS.values() for name in names) == sorted(tiles.commands)


def test_flasks_own_commands_work_though_help_does_not_list_them(tmp_path: Path) -> None:
    assert "/v1/registrations" in run_tiles(tmp_path / "instance", "routes").stdout
    for name in ("run", "shell"):
        assert run_tiles(tmp_path / "instance", name, "--help").returncode == 0


def test_each_command_and_each_of_its_options_explains_itself() -> None:
    by_path = dict(commands(tiles))
    assert by_path.keys() >= {"serve", "mail work", "mail deliver", "mail status", "mail retry", "db upgrade"}
    for path, command in by_path.items():
        assert command.help
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
        result = CliRunner().invoke(tiles, [*path.split(), "--help"])
        assert result.exit_code == 0
        assert result.output.startswith(f"Usage: tiles {path}")


@any_database
def test_the_queue_is_shown_to_a_script_and_to_a_person_sent_and_brought_back(
    service: Service, mail_server: MailServer
) -> None:
    def printed(command: str) -> dict[str, int]:
        document: dict[str, int] = json.loads(invoke(service, "mail", command, "--json").stdout)
        return document

    for number in range(2):
        service.http.post("/v1/registrations", json={"name": "Ada", "email": f"person{number}@example.org"})
    empty = {"waiting": 0, "retrying": 0, "abandoned": 0, "oldest_seconds": 0}
    status = printed("status")
    assert 0 <= status["oldest_seconds"] < 60
    assert status == empty | {"waiting": 2, "oldest_seconds": status["oldest_seconds"]}
    lines = invoke(service, "mail", "status").stdout.splitlines()
    names = [line.rsplit(maxsplit=1)[0].strip() for line in lines]
    assert names == ["waiting", "retrying", "abandoned", "oldest seconds"]
    assert lines[0].split() == ["waiting", "2"]
    mail_server.refuse = "550 5.1.1 No such mailbox"
    assert printed("deliver") == {"tried": 2}
    assert printed("status") == empty | {"abandoned": 2}
    assert printed("retry") == {"queued": 2}
    mail_server.refuse = None
    assert printed("deliver") == {"tried": 2}
    assert len(mail_server.messages) == 2
    assert printed("status") == empty


@any_database
def test_sending_while_the_mail_server_is_away_fails_with_a_reason_and_loses_nothing(
    service: Service, tmp_path: Path, database_url: str
) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    peer = {"mail_server": "127.0.0.1", "mail_port": free_port()}
    failed = run_tiles(tmp_path, "mail", "deliver", database_url=database_url, **peer)
    assert failed.returncode == 1
    reason, folder = failed.stderr.splitlines()
    assert reason.startswith(
        "Error: the mail server is away (connection-refused): it does not answer; check TILES_MAIL_"
    )
    assert folder == f"Instance folder: {tmp_path}"
    assert [row["attempts"] for row in service.rows("mails")] == [0]


def test_an_unknown_command_is_a_mistake_and_not_a_crash(tmp_path: Path) -> None:
    failed = run_tiles(tmp_path, "nonsense")
    assert failed.returncode == 2
    assert "No such command 'nonsense'" in failed.stderr
    assert "Traceback" not in failed.stderr
