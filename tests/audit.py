"""Audit the pins for known vulnerabilities and withdrawn releases. `make audit` and `make check` run it.

Run as `.venv/bin/python tests/audit.py`; options go to `uv audit`, such as `--ignore-until-fixed ID`. uv queries
the public database OSV. The exit status is 1 if a pin has a vulnerability or was withdrawn by its maker. Without a
network it prints NOT AUDITED and exits 0, so that the other checks can run.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
UV = Path(sysconfig.get_path("scripts")) / "uv"
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*==[^\s;]+(?: ; [^\\\n]+?)?) \\$", re.MULTILINE)
FOUND = 1


def pins(*files: Path) -> list[str]:
    """Return the pins of lock files with their markers, without duplicates."""
    return sorted({pin for file in files for pin in PIN.findall(file.read_text("utf-8"))})


def audit(pinned: list[str], *options: str) -> int:
    """Look the pins up, print the result, and return the exit status."""
    listed = "\n".join(f'    """{pin}""",' for pin in pinned)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(
            f'[project]\nname = "pins"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = [\n{listed}\n]\n'
        )
        result = subprocess.run(
            [UV, "audit", "--preview-features", "audit-command", "--no-progress", "--directory", folder, *options],
            env=os.environ | {"UV_HTTP_RETRIES": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    withdrawn = re.findall(r"^warning: (.* is yanked.*)", result.stdout, re.MULTILINE)
    if result.returncode in {0, FOUND}:
        click.echo(result.stdout.strip())
    else:
        reasons = re.findall(r"^(?:error|  cause): (.*)", result.stdout, re.MULTILINE)
        click.echo(f"NOT AUDITED: nobody could be asked about {len(pinned)} pins ({': '.join(reasons)})")
    for reason in withdrawn:
        click.echo(f"WITHDRAWN: {reason}")
    return FOUND if withdrawn or result.returncode == FOUND else 0


if __name__ == "__main__":
    sys.exit(audit(pins(*sorted(ROOT.glob("requirements/*.txt"))), *sys.argv[1:]))
