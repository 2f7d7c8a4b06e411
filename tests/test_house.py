"""The code's own rules: imports, sizes, and that the migrations make the schema that the models declare."""

import ast
import re
import warnings
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from flask import Flask
from migrations import ROOT
from sqlalchemy import Connection, Engine, text
from support import Service, empty_database

from backend.database import engine as db
from backend.database import schema
from backend.database.inventory import inventory

BACKEND = ROOT / "backend"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
    for path in BACKEND.rglob("*.py")
    if "migrations" not in path.parts
}
FEATURES = sorted(
    name for name in MODULES if name.split(".")[1] in {"database", "security", "mail", "accounts", "privacy", "desk"}
)
# `tiles check` asks the database about itself.
DOORS = sorted(
    name for name in MODULES if name.split(".")[1] in {"web", "commands"} and name != "backend.commands.check"
)


# Imports; import-linter checks that they go down the rooms only


def imported(tree: ast.Module) -> set[str]:
    """Return every name that a module imports, in full: `backend.web`, `flask.request`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_a_feature_knows_nothing_of_http() -> None:
    for module in FEATURES:
        http = [name for name in imported(MODULES[module]) if re.match(r"flask\.(request|g\b)|werkzeug|http\b", name)]
        assert http == [], module


def test_a_door_never_writes() -> None:
    for module in DOORS:
        called = {node.attr for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}
        assert called.isdisjoint({"commit", "rollback", "scalars"}), module
        assert "backend.database.engine.transaction" not in imported(MODULES[module]), module


def test_the_words_of_the_pages_stand_in_their_templates() -> None:
    for module in ("backend.web.links", "backend.web.pages"):
        statements = {node.value for node in ast.walk(MODULES[module]) if isinstance(node, ast.Expr)}
        texts = [
            node.value
            for node in ast.walk(MODULES[module])
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in statements
        ]
        assert [text for text in texts if len(text.split()) > 2] == [], module


def test_only_the_clock_reads_the_calendar() -> None:
    for module, tree in MODULES.items():
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert module == "backend.clock" or called.isdisjoint(
            {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
        )


def test_only_the_settings_read_the_environment() -> None:
    for module, tree in MODULES.items():
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert module == "backend.config" or used.isdisjoint({"os.environ", "os.getenv", "os.environb"})


# Sizes; a migration may be as long as its tables need

FILE_LINES, FUNCTION_LINES = 350, 40


def test_files_and_functions_are_short() -> None:
    long = []
    for path in [path for path in BACKEND.rglob("*.py") if "versions" not in path.parts]:
        source = path.read_text("utf-8")
        long += [path.name] if len(source.splitlines()) > FILE_LINES else []
        long += [
            f"{path.name}: {node.name}"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
        ]
    assert long == []


def test_names_addresses_and_hashes_are_declared_as_personal() -> None:
    sensitive = {f"{table}.{column.name}" for table in db.Base.metadata.sorted_tables for column in table.columns
             if column.name in {"name", "email", "password_hash"}}  # fmt: skip
    declared = {f"{table.name}.{column.name}" for table in inventory() for column in table.columns
                if column.category in {"personal", "staff"}}  # fmt: skip
    assert len(sensitive) >= 5
    assert sensitive <= declared


# Migrations


def differences(engine: Engine) -> list[Any]:
    """Return the differences that Alembic finds between the database and the models."""
    with engine.connect() as connection, warnings.catch_warnings():
        # SQLite's index on an expression is compared below, by its definition.
        warnings.filterwarnings("ignore", ".*expression-based index")
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, db.Base.metadata))


def indexes(connection: Connection) -> set[str]:
    """Return the definition of every index, as the database stores it."""
    catalogue = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }
    definitions = connection.scalars(text(catalogue[connection.dialect.name]))
    return {re.sub(r"\s+", " ", index) for index in definitions if "alembic_version" not in index}


def test_the_migrations_make_what_the_models_declare(service: Service) -> None:
    with service.app.app_context():
        assert differences(db.db.engine) == []


@empty_database
def test_the_migrations_make_the_indexes_that_the_models_declare(app: Flask) -> None:
    with app.app_context():
        schema.upgrade()
        with db.db.engine.connect() as connection:
            migrated = indexes(connection)
        db.Base.metadata.drop_all(db.db.engine)
        db.Base.metadata.create_all(db.db.engine)
        with db.db.engine.connect() as connection:
            assert indexes(connection) == migrated
