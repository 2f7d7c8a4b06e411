"""TILES accounts: a name and an email address, and nothing else."""

from collections.abc import Callable
from typing import Any

from flask import Flask

from backend import api, config, db, hashing, keys, meters, pages, statements, throttle, transport, web


class _App(Flask):
    """Flask, asked about each view at each request whether it is asynchronous: none is."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: config.Settings | None = None) -> Flask:
    """Return the application for these settings, or for those of the environment.

    Raises:
        config.SettingsError: a setting makes no sense.
    """
    given = settings or config.load()
    app = _App(__name__, instance_path=str(given.instance_path.absolute()))
    app.json.sort_keys = False  # type: ignore[attr-defined]
    config.init_app(app, given)
    for part in (meters, keys, db, statements, hashing, throttle, transport):
        part.init_app(app)
    web.init_app(app, api.door, pages.door)
    return app
