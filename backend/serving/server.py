"""The processes of `tiles serve`: the application behind its front, and the worker."""

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
# These bound the memory that clients can fill in one process: connections, each with one request's head and body.
CONNECTIONS = 8192
HEADER_BYTES = 16 * 1024
BACKLOG = 4096
# Python looks for reference cycles after so many new objects, which takes a few milliseconds. Requests leave few.
GARBAGE = 20_000


def http_server(target: str, address: str, port: int, workers: int, **others: Any) -> MPServer:
    """Return granian as the service runs it, for a target named `module:application`."""
    return MPServer(
        target, address, port, workers=workers, http=HTTPModes.http1, websockets=False, backlog=BACKLOG,
        backpressure=CONNECTIONS, http1_settings=HTTP1Settings(max_buffer_size=HEADER_BYTES), log_level=LogLevels.error,
        # Its own log handler would wait for the reader of standard output.
        log_dictconfig={"handlers": {}, "loggers": {"_granian": {}}}, workers_kill_timeout=GRACE_SECONDS, **others,
    )  # fmt: skip


def run(app: Flask, address: str, port: int, processes: int) -> None:
    """Serve until told to stop, in processes that are forked from this one and share its memory."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    # The garbage collector writes to what it looks at, which would copy the shared memory.
    gc.collect()
    gc.freeze()
    servers = {f"server-{number}": partial(_serve, address, port) for number in range(1, processes + 1)}
    # granian needs a moment after it killed its own process.
    supervise(servers | {"worker": partial(worker.work_beside, app)}, GRACE_SECONDS + 1)


def _serve(address: str, port: int) -> None:
    """Run one granian with one process: with several, it ends all after two deaths of one."""
    server = http_server(f"{__name__}:application", address, port, 1, interface=Interfaces.RSGI, factory=True)
    # On startup, because granian sets its own handler for SIGHUP. In a thread, because the signal may come while the
    # main thread holds the lock of the event that granian's handler sets.
    server.on_startup(lambda: on_finish(lambda *_: threading.Thread(target=server.signal_handler_interrupt).start()))
    server.serve()


def application() -> Front:
    """Make the application in granian's process."""
    # Until granian sets its own handlers, which it does for the first two only.
    for number, action in ((SIGTERM, SIG_DFL), (SIGINT, SIG_DFL), (SIGHUP, SIG_IGN), (SIGQUIT, SIG_IGN)):
        signal(number, action)
    end_with_parent()
    gc.set_threshold(GARBAGE)
    keep_memory()
    os.umask(OWNER_ONLY)
    configure()
    app = create_app()
    with app.app_context():
        # In the event loop nothing may wait for PostgreSQL or Redis.
        outbox = Outbox(db.engine) if db.engine.dialect.name == "sqlite" and settings().redis_url is None else None
    runs = {(operation.method, operation.path): operation.runs for operation in operations.declared}
    return Front(app, served_threads(), runs, outbox)
