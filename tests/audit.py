"""Has anything that is pinned a known vulnerability, or was it withdrawn? `make audit` asks, and `make check` with it.

Run as `.venv/bin/python tests/audit.py`; options go to `uv audit`, such as `--ignore-until-fixed ID`. uv asks a public
database of vulnerabilities (OSV). It exits 1 when a pin has one or was withdrawn by its maker. Where nobody can be
asked it says NOT AUDITED and exits 0, so that everything else can be checked without a network.
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
    """Return what lock files pin, with the markers, each once."""
    return sorted({pin for file in files for pin in PIN.findall(file.read_text("utf-8"))})


def audit(pinned: list[str], *options: str) -> int:
    """Ask about the pins, tell what was answered, and return the exit status."""
    listed = "\n".join(f'    """{pin}""",' for pin in pinned)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(
            f'[project]\nname = "pins"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = [\n{listed}\n]\n'
        )
        asked = subprocess.run(
            [UV, "audit", "--preview-features", "audit-command", "--no-progress", "--directory", folder, *options],
            env=os.environ | {"UV_HTTP_RETRIES": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    withdrawn = re.findall(r"^warning: (.* is yanked.*)", asked.stdout, re.MULTILINE)
    if asked.returncode in {0, FOUND}:
        click.echo(asked.stdout.strip())
    else:
        reasons = re.findall(r"^(?:error|  cause): (.*)", asked.stdout, re.MULTILINE)
        click.echo(f"NOT AUDITED: nobody could be asked about {len(pinned)} pins ({': '.join(reasons)})")
    for reason in withdrawn:
        click.echo(f"WITHDRAWN: {reason}")
    return FOUND if withdrawn or asked.returncode == FOUND else 0


if __name__ == "__main__":
    sys.exit(audit(pins(*sorted(ROOT.glob("requirements/*.txt"))), *sys.argv[1:]))
