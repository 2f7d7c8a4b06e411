"""`tiles inventory`: every column that is stored, with its declaration, for people and for scripts."""

import json
from dataclasses import asdict
from pathlib import Path

from running import invoke
from support import Service, any_database, run_tiles

from backend.database.inventory import inventory

# test_promises_8_to_10 compares it with the database, the privacy page and the export.


def run(service: Service, *arguments: str) -> str:
    done = invoke(service.app, "inventory", *arguments)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return done.stdout


@any_database
def test_a_script_gets_the_declarations_as_they_are(service: Service) -> None:
    printed = json.loads(run(service, "--json"))
    assert printed == json.loads(json.dumps([asdict(table) for table in inventory()]))
    assert {tuple(table) for table in printed} == {("name", "purpose", "columns")}
    columns = {tuple(column) for table in printed for column in table["columns"]}
    assert columns == {("name", "category", "purpose", "retention", "erasure")}


@any_database
def test_a_person_gets_the_same_as_tables(service: Service) -> None:
    blocks = run(service).rstrip("\n").split("\n\n")
    for block, table in zip(blocks, inventory(), strict=True):
        title, header, *rows = block.splitlines()
        assert title == f"{table.name}: {table.purpose}"
        assert header.split() == ["name", "category", "purpose", "retention", "erasure"]
        starts = [header.index(name) for name in header.split()]
        cells = [[row[start:end].rstrip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
                 for row in rows]  # fmt: skip
        assert cells == [list(asdict(column).values()) for column in table.columns]


def test_it_needs_no_database(tmp_path: Path) -> None:
    done = run_tiles(tmp_path, "inventory", database_url="postgresql://nobody@127.0.0.1:1/nothing")
    assert done.returncode == 0
    assert done.stdout.startswith("accounts: ")
