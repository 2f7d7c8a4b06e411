"""One process and several, on SQLite and on PostgreSQL; and how often a request asks PostgreSQL."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from statistics import median
from tempfile import TemporaryFile
from typing import Any

from bench.figures import Figure, Options, in_rounds, rate
from bench.peers import requests
from bench.requests import Target
from bench.stage import Stage, stage
from sqlalchemy import event

from backend.database.engine import db

NUMBERS = {"sqlite": (1, 2), "postgresql": (1, 2, 4)}
# How the server ends each of its responses to the driver.
READY = b"ReadyForQuery"
OPERATIONS = ("register", "reset, known", "sign in, right", "own account", "store one record")


def measure(options: Options) -> Iterator[Figure]:
    """Measure the same operations with each number of processes."""
    for kind in options.databases:
        with stage(kind) as on:
            operations = {name: request for name, request in requests(on.have_ada()).items() if name in OPERATIONS}
            if kind == "postgresql":
                yield from _round_trips(on, operations)
            for number in NUMBERS[kind]:
                with on.server(number) as server:
                    own = on.target(server, is_sending=False)
                    for name, request in operations.items():
                        yield from _served(options, f"{kind}, {number} processes: {name}", own, request)


def _served(options: Options, name: str, own: Target, request: bytes) -> Iterator[Figure]:
    loads = in_rounds(options.rounds, {name: partial(own.load, request, seconds=options.seconds)})[name]
    yield rate(name, loads)
    yield replace(
        rate(name, loads), value=median(load.per_processor_second for load in loads), unit="/processor second"
    )


def _round_trips(on: Stage, operations: dict[str, bytes]) -> Iterator[Figure]:
    """Count them by the driver's own trace, for the second request of each kind, when connections are open."""
    with TemporaryFile() as trace:

        def follow(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's
            connection.pgconn.trace(os.dup(trace.fileno()))

        with on.app.app_context():
            db.engine.dispose()
            event.listen(db.engine, "connect", follow)
        for name, request in operations.items():
            for _ in range(2):
                trace.truncate(0)
                _open(on, request)
                trips = trace.seek(0) or trace.read().count(READY)
            yield Figure(name=f"round trips to PostgreSQL: {name}", value=trips, unit="")
        with on.app.app_context():
            event.remove(db.engine, "connect", follow)
            db.engine.dispose()
    on.forget_mails()


def _open(on: Stage, request: bytes) -> None:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    response = on.app.test_client().open(
        path, method=method, headers=[line.split(": ", 1) for line in lines], data=body
    )
    assert response.status_code < HTTPStatus.BAD_REQUEST, response.text
