"""`tiles inventory`: every column that is stored, with what is declared of it, for people and for scripts."""

import json
from dataclasses import asdict
from pathlib import Path

from click.testing import CliRunner
from flask.cli import ScriptInfo
from sqlalchemy import inspect
from support import Service, any_database, run_tiles

from backend.commands.serve import tiles
from backend.database.engine import db
from backend.database.inventory import inventory


def run(service: Service, *arguments: str) -> str:
    info = ScriptInfo(create_app=lambda: service.app)
    done = CliRunner().invoke(tiles, ["inventory", *arguments], obj=info)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


@any_database
def test_a_script_gets_the_declarations_as_they_are(service: Service) -> None:
    found = json.loads(run(service, "--json"))
    assert found == json.loads(json.dumps([asdict(table) for table in inventory()]))
    assert {tuple(table) for table in found} == {("name", "purpose", "columns")}
    told = {tuple(column) for table in found for column in table["columns"]}
    assert told == {("name", "category", "purpose", "retention", "erasure")}


@any_database
def test_a_person_gets_the_same_as_tables(service: Service) -> None:
    blocks = run(service).rstrip("\n").split("\n\n")
    assert len(blocks) == len(inventory())
    for block, table in zip(blocks, inventory(), strict=True):
        title, header, *rows = block.splitlines()
        assert title == f"{table.name}: {table.purpose}"
        assert header.split() == ["name", "category", "purpose", "retention", "erasure"]
        starts = [header.index(name) for name in header.split()]
        ends = [*starts[1:], None]
        cells = [[row[start:end].rstrip() for start, end in zip(starts, ends, strict=True)] for row in rows]
        assert cells == [list(asdict(column).values()) for column in table.columns]


def test_it_tells_of_every_column_that_the_database_has(service: Service) -> None:
    told = {(table["name"], column["name"]) for table in json.loads(run(service, "--json"))
            for column in table["columns"]}  # fmt: skip
    with service.app.app_context():
        found = inspect(db.engine)
        stored = {(table, column["name"]) for table in found.get_table_names() for column in found.get_columns(table)}
    assert stored - told == {("alembic_version", "version_num")}
    assert told <= stored


@any_database
def test_it_tells_what_the_privacy_page_tells(service: Service) -> None:
    page = service.http.get("/privacy").text
    for table in json.loads(run(service, "--json")):
        assert f"<code>{table['name']}</code>" in page
        for column in table["columns"]:
            assert f"<code>{column['name']}</code>" in page


def test_it_needs_no_database(tmp_path: Path) -> None:
    told = run_tiles(tmp_path, "inventory", database_url="postgresql://nobody@127.0.0.1:1/nothing")
    assert told.returncode == 0
    assert told.stdout.startswith("accounts: ")
