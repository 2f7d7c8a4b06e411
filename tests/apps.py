"""Applications for tests: cheap hashes, no limits, and every response checked against the contract."""

from pathlib import Path
from typing import Any

import quick
from contract import check_responses, served_responses_are_as_documented  # noqa: F401 - a fixture
from flask import Flask
from simulated_service import pauses  # noqa: F401 - a fixture

from backend import create_app
from backend.config import Settings
from backend.database import engine, schema

# Argon2 at its cheapest: the tests check that it runs, not what it costs.
CHEAP_ARGON2 = {"argon2_memory_kib": 8, "argon2_time_cost": 1, "argon2_parallelism": 1}
KEY = "a key of the tests and of nobody else"


def make_settings(folder: Path, database_url: str, **changes: Any) -> Settings:
    """Return settings that create no file except the database, and limit nothing."""
    defaults = {
        "instance_path": folder,
        "database_url": database_url,
        "secret_keys": KEY,
        "public_url": "https://accounts.tiles.test",
        "rate_limits": "off",
        **CHEAP_ARGON2,
    }
    return Settings.model_validate(defaults | changes)


def make_app(settings: Settings) -> Flask:
    app = create_app(settings)
    app.testing = False
    quick.speed_up(app)
    check_responses(app)
    return app


def dispose(app: Flask) -> None:
    with app.app_context():
        engine.db.session.remove()
        engine.db.engine.dispose()


def migrate(settings: Settings) -> None:
    app = make_app(settings)
    with app.app_context():
        schema.upgrade()
    dispose(app)
