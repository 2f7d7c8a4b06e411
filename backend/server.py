"""What each process of `tiles serve` runs: the application behind its front, and the worker beside it."""

import asyncio
import io
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from multiprocessing.util import Finalize
from typing import Any

from flask import Flask
from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from backend import create_app, worker
from backend.config import OWNER_ONLY, served_threads
from backend.logs import configure
from backend.web import BODY_BYTES, LATE

# More than 16 KiB need on a bad line, and half of what a server that is told to stop waits for.
BODY_SECONDS = 10.0
# Whoever tries again at once would keep busy what is overloaded; this wait holds no thread.
REFUSED_SECONDS = 1.0

Answer = tuple[int, list[tuple[str, str]], bytes]


class Front:
    """Gives a request to one of the application's threads when all of its body is here: RSGI outside, WSGI inside.

    Threads are for work. With the server's own WSGI door a thread waits for each body, so that as many clients as
    there are threads, each sending one byte and no more, would stop the service.
    """

    def __init__(self, app: Flask, threads: int) -> None:
        """Answer as many requests at a time as there are threads."""
        self._app = app
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._free = asyncio.Semaphore(threads)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        body: bytes | None = b""
        if "content-length" in scope.headers or "transfer-encoding" in scope.headers:
            body = await _body(protocol)
        if not await self._has_turn(protocol):
            return
        try:
            environ = environ_of(scope, body)
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, environ)
        finally:
            self._free.release()
        if answer[0] == HTTPStatus.SERVICE_UNAVAILABLE and scope.method not in {"GET", "HEAD"}:
            await asyncio.sleep(REFUSED_SECONDS)
        protocol.response_bytes(*answer)

    async def _has_turn(self, protocol: HTTPProtocol) -> bool:
        """Wait for a thread; tell whether the client waited too. What nobody waits for would fill the memory."""
        if not self._free.locked():
            return await self._free.acquire()
        turn = asyncio.ensure_future(self._free.acquire())
        gone = asyncio.ensure_future(protocol.client_disconnect())
        await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        return turn.done() or not turn.cancel()

    def _answer(self, environ: dict[str, Any]) -> Answer:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            head[:] = int(status[:3]), headers

        parts: Iterable[bytes] = self._app(environ, start_response)  # type: ignore[arg-type]
        content = b"".join(parts)
        if close := getattr(parts, "close", None):
            close()
        return head[0], head[1], content


async def _body(protocol: HTTPProtocol) -> bytes | None:
    """Read a body, or as much of it as shows that it is too large; None when it does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in protocol:
                body += chunk
                if len(body) > BODY_BYTES:
                    break
    except TimeoutError:
        return None
    return bytes(body)


def environ_of(scope: Scope, body: bytes | None) -> dict[str, Any]:
    """Return a request in the form of PEP 3333."""
    server, _, port = scope.server.rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body or b""),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        LATE: body is None,
    }
    # Nothing is left of a value that is not ASCII: the header is there, and empty.
    values: dict[str, list[str]] = {name: [] for name in scope.headers.keys()}  # noqa: SIM118 - no dictionary
    for name, value in scope.headers.items():
        values[name].append(value)
    # A name with an underscore would pass for the one with a hyphen, such as X-Forwarded-For.
    environ |= {_variable(name): ",".join(found) for name, found in values.items() if "_" not in name}
    return environ


def _variable(header: str) -> str:
    name = header.upper().replace("-", "_")
    return name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"


def application() -> Front:
    """Make the application for the HTTP server and start the worker beside it."""
    os.umask(OWNER_ONLY)
    configure()
    app = create_app()
    # The HTTP server forks its processes by multiprocessing, which runs its own finalizers and no others.
    Finalize(None, worker.start(app), exitpriority=0)
    worker.watch_parent()
    return Front(app, served_threads())
