"""What each process of `tiles serve` runs: the application, and the worker beside it."""

import atexit

from flask import Flask

from backend import create_app, worker
from backend.logs import configure


def application() -> Flask:
    """Make the application for the HTTP server and start the worker beside it."""
    configure()
    app = create_app()
    atexit.register(worker.start(app))
    worker.watch_parent()
    return app
