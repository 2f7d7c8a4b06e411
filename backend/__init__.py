"""TILES accounts: a name and an email address, and nothing else."""

from pathlib import Path

from flask import Flask, Request
from jinja2 import FileSystemLoader
from werkzeug.routing import MapAdapter

from backend import config, metrics
from backend.database import engine
from backend.mail import transport
from backend.security import hashing, keys, throttle
from backend.web import api, desk, links, pages, problems


class _App(Flask):
    """Flask without a step that has the same result for every request."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match a route by path and method alone, never by the Host header."""
        if request is None:
            return super().create_url_adapter(request)
        scheme, query = request.environ["wsgi.url_scheme"], request.environ["QUERY_STRING"]
        return MapAdapter(self.url_map, "", "/", "", scheme, request.path, request.method, query)


def create_app(settings: config.Settings | None = None, *, make_instance: bool = True) -> Flask:
    """Return the application for these settings, or for those of the environment.

    Args:
        settings: all settings; None reads the environment.
        make_instance: make the instance folder and the key where they are missing.

    Raises:
        config.SettingsError: a setting is invalid, or the instance folder cannot be used.
    """
    settings = settings or config.load()
    app = _App(
        __name__,
        instance_path=str(settings.instance_path.absolute()),
        static_folder="web/static",
        static_url_path="/static",
    )
    # FLASK_DEBUG would turn on Flask's debug mode, in which an error may leave the application.
    app.debug = False
    # The emails' templates come second: pages use their words.
    folders = (Path(app.root_path, part, "templates") for part in ("web", "mail"))
    app.jinja_loader = FileSystemLoader(list(folders))
    app.extensions["tiles.settings"] = settings
    for part in (metrics, keys, engine, hashing, throttle, transport):
        part.init_app(app)
    if make_instance:
        with app.app_context():
            keys.make()
    doors = [api.door, links.door, pages.door, *([desk.door] if settings.desk else [])]
    problems.init_app(app, *doors)
    return app
