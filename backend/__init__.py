"""TILES accounts: a name and an email address, and nothing else."""

from flask import Flask

from backend import api, config, db, hashing, keys, pages, throttle, transport, web


def create_app(settings: config.Settings | None = None) -> Flask:
    """Return the application for these settings, or for those of the environment.

    Raises:
        config.SettingsError: a setting makes no sense.
    """
    given = settings or config.load()
    app = Flask(__name__, instance_path=str(given.instance_path.absolute()))
    app.json.sort_keys = False  # type: ignore[attr-defined]
    config.init_app(app, given)
    for part in (keys, db, hashing, throttle, transport):
        part.init_app(app)
    web.init_app(app, api.door, pages.door)
    return app
