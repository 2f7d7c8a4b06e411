"""TILES accounts: a name and an email address, and nothing else."""

from flask import Flask

from backend import config, metrics
from backend.database import engine
from backend.mail import transport
from backend.security import hashing, keys, throttle
from backend.web import api, pages, problems


def create_app(settings: config.Settings | None = None, *, make_instance: bool = True) -> Flask:
    """Return the application for these settings, or for those of the environment.

    Args:
        settings: all settings; None reads the environment.
        make_instance: make the instance folder and the key where they are missing.

    Raises:
        config.SettingsError: a setting is invalid, or the instance folder cannot be used.
    """
    settings = settings or config.load()
    app = Flask(
        __name__,
        instance_path=str(settings.instance_path.absolute()),
        template_folder="web/templates",
        static_folder="web/static",
        static_url_path="/static",
    )
    app.extensions["tiles.settings"] = settings
    for part in (metrics, keys, engine, hashing, throttle, transport):
        part.init_app(app)
    if make_instance:
        with app.app_context():
            keys.make()
    problems.init_app(app, api.door, pages.door)
    return app
