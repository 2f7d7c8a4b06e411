"""What each process of `tiles serve` runs: the application, and the worker beside it."""

import os
from multiprocessing.util import Finalize

from flask import Flask

from backend import create_app, worker
from backend.config import OWNER_ONLY
from backend.logs import configure


def application() -> Flask:
    """Make the application for the HTTP server and start the worker beside it."""
    os.umask(OWNER_ONLY)
    configure()
    app = create_app()
    # The HTTP server forks its processes by multiprocessing, which runs its own finalizers and no others.
    Finalize(None, worker.start(app), exitpriority=0)
    worker.watch_parent()
    return app
