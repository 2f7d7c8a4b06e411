"""What each process of `tiles serve` runs: the application behind its front, and the worker beside it."""

import gc
import logging
import os
import resource
from multiprocessing.util import Finalize
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from backend import create_app, worker
from backend.api import operations
from backend.config import OWNER_ONLY, served_threads, settings
from backend.db import db
from backend.front import Front
from backend.hashing import keep_memory
from backend.logs import configure
from backend.outbox import Outbox

GRACE_SECONDS = 20
# What strangers may hold of a process at most: connections, each with one request's headers and body.
CONNECTIONS = 8192
HEADER_BYTES = 16 * 1024
BACKLOG = 4096
# Objects that are new and not gone, before somebody looks which of them only know each other: a few milliseconds' work.
GARBAGE = 20_000


def http_server(target: str, address: str, port: int, workers: int, **others: Any) -> MPServer:
    """Return the HTTP server as the service runs it, for a target named `module:application`."""
    return MPServer(
        target, address, port, workers=workers, http=HTTPModes.http1, websockets=False, backlog=BACKLOG,
        backpressure=CONNECTIONS, http1_settings=HTTP1Settings(max_buffer_size=HEADER_BYTES), log_level=LogLevels.error,
        respawn_failed_workers=True, workers_kill_timeout=GRACE_SECONDS, **others,
    )  # fmt: skip


def run(address: str, port: int, workers: int) -> None:
    """Serve until told to stop, in processes that are made from this one, and so share the memory of what is loaded."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    # What is never freed is not looked at either, and so stays shared.
    gc.collect()
    gc.freeze()
    http_server(f"{__name__}:application", address, port, workers, interface=Interfaces.RSGI, factory=True).serve()


def application() -> Front:
    """Make the application for the HTTP server and start the worker beside it."""
    # Requests leave little in circles, and to look for them after each few costs a fifth of the time.
    gc.set_threshold(GARBAGE)
    keep_memory()
    os.umask(OWNER_ONLY)
    configure()
    app = create_app()
    # The HTTP server forks its processes by multiprocessing, which runs its own finalizers and no others: the worker
    # ends first, then what is left of the log is written.
    Finalize(None, logging.shutdown, exitpriority=0)
    Finalize(None, worker.fork(app), exitpriority=1)
    worker.watch_parent()
    with app.app_context():
        # A request in the event loop would wait for a database or for limits at the other end of a network.
        outbox = Outbox(db.engine) if db.engine.dialect.name == "sqlite" and settings().redis_url is None else None
    runs = {(operation.method, operation.path): operation.runs for operation in operations.declared}
    return Front(app, served_threads(), runs, outbox)
