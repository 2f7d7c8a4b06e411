"""Run commands of `tiles` in the test's own process, and erase accounts."""

import json
from typing import Any

from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from support import Service

from backend.commands.serve import tiles
from backend.desk import operations
from backend.privacy import erasure


def invoke(app: Flask, *arguments: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(tiles, list(arguments), obj=ScriptInfo(create_app=lambda: app))


def json_of(app: Flask, *arguments: str) -> dict[str, Any]:
    """Run a command that succeeds with --json, and return its output."""
    done = invoke(app, *arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def error_of(app: Flask, *arguments: str, status: int = 1) -> str:
    """Run a command that fails, and return its only line."""
    done = invoke(app, *arguments)
    assert (done.exit_code, done.stdout) == (status, ""), (done.output, done.exception)
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def erase(service: Service, email: str = "ada@example.org") -> None:
    """Erase an account, and send the receipt."""
    with service.app.app_context():
        operations.erase(email, at_once=True)
        assert erasure.erase_due() == 1
    assert [message["To"] for message in service.deliver()] == [email]
