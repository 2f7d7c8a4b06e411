"""A Flask application with one route that does nothing, for the same HTTP server: what no service on it can exceed.

Run as `.venv/bin/python tests/bench/bare.py rsgi|wsgi PORT PROCESSES`.
"""

import os
import sys

from flask import Flask
from granian.constants import Interfaces

from backend.security.hashing import keep_memory
from backend.serving.front import HEALTH, Front
from backend.serving.server import http_server

THREADS = int(os.environ["BENCH_THREADS"])
app = Flask(__name__)
BODY = b'{"status":"accepted"}\n'


@app.route(HEALTH)
def nothing() -> tuple[bytes, int, dict[str, str]]:
    """Answer."""
    return BODY, 202, {"Content-Type": "application/json"}


def front() -> Front:
    """Return the application behind the service's own front, which answers it as it answers the busiest requests."""
    keep_memory()
    return Front(app, THREADS, {("GET", HEALTH): "loop"}, None)


if __name__ == "__main__":
    interface, port, processes = Interfaces(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if interface is Interfaces.WSGI:
        http_server("bare:app", "127.0.0.1", port, processes, interface=interface, blocking_threads=THREADS).serve()
    else:
        http_server("bare:front", "127.0.0.1", port, processes, interface=interface, factory=True).serve()
