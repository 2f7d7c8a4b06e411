"""What the processes of `tiles serve` run: the application behind its front, and the worker."""

import gc
import os
import resource
import threading
from functools import partial
from signal import SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGQUIT, SIGTERM, signal
from typing import Any

from flask import Flask
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from backend import create_app
from backend.config import OWNER_ONLY, served_threads, settings
from backend.database.engine import db
from backend.database.outbox import Outbox
from backend.logs import configure
from backend.security.hashing import keep_memory
from backend.serving import worker
from backend.serving.front import Front
from backend.serving.supervisor import end_with_parent, on_finish, supervise
from backend.web.api import operations

GRACE_SECONDS = 20
# The most that one process holds of strangers: connections, each with one request's headers and body.
CONNECTIONS = 8192
HEADER_BYTES = 16 * 1024
BACKLOG = 4096
# How many new objects are left before Python looks for circles among them, which takes a few milliseconds.
GARBAGE = 20_000


def http_server(target: str, address: str, port: int, workers: int, **others: Any) -> MPServer:
    """Return the HTTP server as the service runs it, for a target named `module:application`."""
    return MPServer(
        target, address, port, workers=workers, http=HTTPModes.http1, websockets=False, backlog=BACKLOG,
        backpressure=CONNECTIONS, http1_settings=HTTP1Settings(max_buffer_size=HEADER_BYTES), log_level=LogLevels.error,
        # Its own handler would wait for whoever reads standard output.
        log_dictconfig={"handlers": {}, "loggers": {"_granian": {}}}, workers_kill_timeout=GRACE_SECONDS, **others,
    )  # fmt: skip


def run(app: Flask, address: str, port: int, processes: int) -> None:
    """Serve until told to stop, in processes that are made from this one, and so share the memory of what is loaded."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    # What is never freed is not looked at either, and so stays shared.
    gc.collect()
    gc.freeze()
    servers = {f"server-{number}": partial(_serve, address, port) for number in range(1, processes + 1)}
    # The HTTP server is given a little longer to end than it gives its own process.
    supervise(servers | {"worker": partial(worker.work_beside, app)}, GRACE_SECONDS + 1)


def _serve(address: str, port: int) -> None:
    """Run one process of the HTTP server, and end with it: several of its own would end after two deaths of one."""
    server = http_server(f"{__name__}:application", address, port, 1, interface=Interfaces.RSGI, factory=True)
    # Set last, for the server itself would start anew on SIGHUP.
    # In a thread: the signal may come while the server waits for the event that its handler sets, and holds its lock.
    server.on_startup(lambda: on_finish(lambda *_: threading.Thread(target=server.signal_handler_interrupt).start()))
    server.serve()


def application() -> Front:
    """Make the application for the HTTP server."""
    # Until the HTTP server sets its own handlers, for the first two only.
    for number, action in ((SIGTERM, SIG_DFL), (SIGINT, SIG_DFL), (SIGHUP, SIG_IGN), (SIGQUIT, SIG_IGN)):
        signal(number, action)
    end_with_parent()
    # Requests leave little in circles, and to look for them after each few costs a fifth of the time.
    gc.set_threshold(GARBAGE)
    keep_memory()
    os.umask(OWNER_ONLY)
    configure()
    app = create_app()
    with app.app_context():
        # A request in the event loop would wait for a database or for limits at the other end of a network.
        outbox = Outbox(db.engine) if db.engine.dialect.name == "sqlite" and settings().redis_url is None else None
    runs = {(operation.method, operation.path): operation.runs for operation in operations.declared}
    return Front(app, served_threads(), runs, outbox)
