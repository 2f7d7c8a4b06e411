"""Run `tiles data`, and read its output and the audit."""

import json
from datetime import datetime, timedelta
from typing import Any

from support import Service, invoke

ADA, BOB = "ada@example.org", "bob@example.org"
A_DAY = timedelta(days=1)
ORDER = ("--basis", "Order 12 C 3/26")
HOLD = (*ORDER, "--until", "2099-01-01")
TABLES = ("accounts", "sessions", "mails", "feedback", "holds", "disclosures", "audit")


def printed(service: Service, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """Run a command that succeeds, and return the JSON that it prints."""
    return json.loads(invoke(service, "data", *arguments).stdout)


def refused(service: Service, *arguments: str, status: int = 1) -> str:
    """Run a command that is refused and changes nothing; return the line with the reason."""
    before = stored(service)
    done = invoke(service, "data", *arguments, status=status)
    assert stored(service) == before
    assert done.stdout in {"", "[]\n"}
    last = done.stderr.rstrip("\n").splitlines()[-1]
    assert status == 2 or f"{last}\n" == done.stderr
    assert last.startswith("Error: ")
    return last


def stored(service: Service) -> list[list[dict[str, Any]]]:
    return [service.rows(table) for table in TABLES]


def acts(service: Service) -> list[tuple[str, Any]]:
    """Return the data manager's acts and their details, the oldest first."""
    entries = printed(service, "audit", "--json")
    return [(entry["act"], entry["details"]) for entry in reversed(entries) if entry["actor"] == "data manager"]


def day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def rfc3339(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def parsed(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)
