"""Change the code of the security rooms in small ways, and fail when the tests notice fewer changes than before.

`mutants.py` changes every function of three rooms (hours); `mutants.py quick` changes the tokens only (a minute).
"""

import json
import sys
from pathlib import Path

import click
from mutmut.__main__ import cli
from mutmut.configuration import config

ROOMS = ["backend/security/*", "backend/accounts/*", "backend/privacy/*"]
TESTS = ["tests/security", "tests/accounts", "tests/privacy", "tests/promises"]
# The changed files, the tests that should notice the changes, and the minimum percentage of noticed changes.
SHARES = {
    "quick": (["backend/security/tokens.py"], ["tests/security/test_tokens.py"], 98),
    # A changed function runs slower, so tests that measure time would fail.
    "whole": (ROOMS, [*TESTS, "--ignore=tests/security/test_linear_work.py"], 0),
}


def main(share: str = "whole") -> int:
    """Return 0 if the tests notice the minimum of changes."""
    files, tests, least = SHARES[share]
    config().only_mutate = files
    config().pytest_add_cli_args_test_selection = tests
    for command in ("run", "export-cicd-stats"):
        cli([command], standalone_mode=False)
    counts = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text("utf-8"))
    noticed = 100 * (counts["killed"] + counts["timeout"]) // counts["total"]
    click.echo(f"{noticed} % of {counts['total']} changes were noticed; at least {least} % must be (mutmut results)")
    return int(noticed < least)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
