"""Alembic, run as the service runs it, for tests of the schema."""

from collections.abc import Callable
from pathlib import Path

from alembic.config import Config
from flask import Flask

from backend.database import engine as db
from backend.database import schema

ROOT = Path(__file__).parent.parent


def migrate(app: Flask, change: Callable[[Config, str], object], revision: str) -> None:
    """Run Alembic as the service does, on a connection that it is handed."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with app.app_context(), db.db.engine.begin() as connection:
        config.attributes["connection"] = connection
        change(config, revision)
