"""The command line: every command explains itself, and tells a script what it asks for."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support import MailServer, Service, any_database, free_port, run_tiles

from backend.commands.serve import tiles

COMMANDS = {"serve", "mail work", "mail deliver", "mail status", "mail retry", "db upgrade"}


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Return each command that does something, by the words one types."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_the_commands_are_there() -> None:
    assert {path for path, _ in commands(tiles)} >= COMMANDS


def test_help_lists_the_commands_and_makes_nothing(tmp_path: Path) -> None:
    told = run_tiles(tmp_path / "instance", "--help")
    assert told.returncode == 0
    for name, command in tiles.commands.items():
        assert f"\n  {name} " in told.stdout
        assert command.help
    assert told.stderr == ""
    assert not (tmp_path / "instance").exists()


def test_help_is_given_though_a_setting_makes_no_sense(tmp_path: Path) -> None:
    told = run_tiles(tmp_path, "--help", mail_port="abc")
    assert told.returncode == 0
    assert told.stderr == ""


@pytest.mark.parametrize("path", sorted(path for path, _ in commands(tiles)))
def test_each_command_and_each_of_its_options_explains_itself(path: str) -> None:
    command = dict(commands(tiles))[path]
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
    shown = CliRunner().invoke(tiles, [*path.split(), "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: tiles {path}")


def told(folder: Path, *arguments: str, **settings: object) -> object:
    """Run a command that shall succeed, and return the JSON that it prints for a script."""
    completed = run_tiles(folder, *arguments, "--json", **settings)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


@any_database
def test_a_script_sees_what_is_in_the_queue_sends_it_and_brings_it_back(
    service: Service, tmp_path: Path, database_url: str, mail_server: MailServer
) -> None:
    settings = {"database_url": database_url, "mail_server": mail_server.host, "mail_port": mail_server.port}
    for number in range(2):
        service.http.post("/v1/registrations", json={"name": "Ada", "email": f"person{number}@example.org"})
    empty = {"waiting": 0, "retrying": 0, "abandoned": 0, "oldest_seconds": 0}
    found = told(tmp_path, "mail", "status", **settings)
    assert isinstance(found, dict)
    assert 0 <= found["oldest_seconds"] < 60
    assert found == empty | {"waiting": 2, "oldest_seconds": found["oldest_seconds"]}
    mail_server.refuse = "550 5.1.1 No such mailbox"
    assert told(tmp_path, "mail", "deliver", **settings) == {"tried": 2}
    assert told(tmp_path, "mail", "status", **settings) == empty | {"abandoned": 2}
    assert told(tmp_path, "mail", "retry", **settings) == {"queued": 2}
    mail_server.refuse = None
    assert told(tmp_path, "mail", "deliver", **settings) == {"tried": 2}
    assert len(mail_server.messages) == 2
    assert told(tmp_path, "mail", "status", **settings) == empty


@any_database
def test_a_person_reads_the_queue_as_a_table(service: Service, tmp_path: Path, database_url: str) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    shown = run_tiles(tmp_path, "mail", "status", database_url=database_url).stdout.splitlines()
    assert [line.rsplit(maxsplit=1)[0].strip() for line in shown] == [
        "waiting",
        "retrying",
        "abandoned",
        "oldest seconds",
    ]
    assert shown[0].split() == ["waiting", "1"]


@any_database
def test_sending_while_the_mail_server_is_away_fails_with_a_reason_and_loses_nothing(
    service: Service, tmp_path: Path, database_url: str
) -> None:
    service.http.post("/v1/registrations", json={"name": "Ada", "email": "ada@example.org"})
    failed = run_tiles(
        tmp_path, "mail", "deliver", database_url=database_url, mail_server="127.0.0.1", mail_port=free_port()
    )
    assert failed.returncode == 1
    reason, folder = failed.stderr.splitlines()
    assert reason == "Error: the mail server is away (connection-refused); nothing was lost, try again later"
    assert folder == f"Instance folder: {tmp_path}"
    assert [row["attempts"] for row in service.rows("mails")] == [0]


def test_upgrading_says_from_which_version_to_which(tmp_path: Path) -> None:
    first, again = (told(tmp_path, "db", "upgrade") for _ in range(2))
    assert isinstance(first, dict)
    assert first["from"] is None
    assert again == {"from": first["to"], "to": first["to"]}


@pytest.mark.parametrize("arguments", [("mail", "status"), ("mail", "deliver"), ("mail", "retry")], ids=" ".join)
def test_a_database_that_is_not_upgraded_is_told_in_a_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    failed = run_tiles(tmp_path, *arguments)
    assert failed.returncode == 1
    assert "tiles db upgrade" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_an_unknown_command_is_a_mistake_and_not_a_crash(tmp_path: Path) -> None:
    failed = run_tiles(tmp_path, "nonsense")
    assert failed.returncode == 2
    assert "No such command 'nonsense'" in failed.stderr
    assert "Traceback" not in failed.stderr
