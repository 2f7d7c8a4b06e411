"""What each process of `tiles serve` runs: the application behind its front, and the worker beside it."""

import asyncio
import io
import os
import random
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from multiprocessing.util import Finalize
from typing import Any

from flask import Flask
from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from backend import create_app, worker
from backend.config import OWNER_ONLY, served_threads
from backend.hashing import LINE, before_waiting
from backend.logs import configure
from backend.web import BODY_BYTES, LATE

# More than 16 KiB need on a bad line, and half of what a server that is told to stop waits for.
BODY_SECONDS = 10.0
# Whoever tries again at once would keep busy what is overloaded, and all who do at the same moment would stop it; this
# wait holds no thread.
REFUSED_SECONDS = 1.0, 3.0

# Anybody can send these without end, and each costs more than any other request.
SIGN_IN = "POST", "/v1/sessions"
# Asked by whoever decides whether this process is to live: also while all others wait for the database, which is what
# the latter two do. None waits for another.
PROBES = ("/healthz", "/readyz", "/metrics")

Answer = tuple[int, list[tuple[str, str]], bytes]


class _Turn:
    """A place among those that are answered, until it is given up."""

    def __init__(self, threads: ThreadPoolExecutor, free: asyncio.Semaphore) -> None:
        self._threads, self._free = threads, free
        self._loop, self._over = asyncio.get_running_loop(), False

    async def work(self, work: Callable[..., Answer], *given: object) -> Answer:
        """Do it in a thread."""
        return await self._loop.run_in_executor(self._threads, work, *given)

    def end(self) -> None:
        """Let the next one in, once."""
        if not self._over:
            self._over = True
            self._free.release()

    def end_early(self) -> None:
        """Let the next one in, from the thread that waits."""
        self._loop.call_soon_threadsafe(self.end)


class _Lane:
    """Requests that wait for each other: so many have a place at a time, in the order in which they came."""

    def __init__(self, places: int) -> None:
        self._threads = ThreadPoolExecutor(places + LINE, thread_name_prefix="request")
        self._free = asyncio.Semaphore(places)

    async def turn(self, protocol: HTTPProtocol) -> _Turn | None:
        """Wait for a place; none for a client that did not wait too: what nobody waits for would fill the memory."""
        if not self._free.locked():
            await self._free.acquire()
            return _Turn(self._threads, self._free)
        place = asyncio.ensure_future(self._free.acquire())
        gone = asyncio.ensure_future(protocol.client_disconnect())
        await asyncio.wait({place, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        return _Turn(self._threads, self._free) if place.done() or not place.cancel() else None


class Front:
    """Gives a request to one of the application's threads when all of its body is here: RSGI outside, WSGI inside.

    Threads are for work. With the server's own WSGI door a thread waits for each body, so that as many clients as
    there are threads, each sending one byte and no more, would stop the service. Those who sign in, however many they
    are, take one place among the others: while they wait for a hash, none.
    """

    def __init__(self, app: Flask, threads: int) -> None:
        """Answer so many requests at a time, beside them one that signs in, and one of each that asks how all is."""
        self._app = app
        self._requests, self._sign_ins = _Lane(threads), _Lane(1)
        self._probes = {path: _Lane(1) for path in PROBES}

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        body: bytes | None = b""
        if "content-length" in scope.headers or "transfer-encoding" in scope.headers:
            body = await _body(protocol)
        turn = await self._lane(scope).turn(protocol)
        if not turn:
            return
        try:
            answer = await turn.work(self._answer, environ_of(scope, body), turn.end_early)
        finally:
            turn.end()
        if answer[0] == HTTPStatus.SERVICE_UNAVAILABLE and scope.method not in {"GET", "HEAD"}:
            await asyncio.sleep(random.uniform(*REFUSED_SECONDS))  # noqa: S311 - no secret
        protocol.response_bytes(*answer)

    def _lane(self, scope: Scope) -> _Lane:
        if scope.path in PROBES:
            return self._probes[scope.path]
        return self._sign_ins if (scope.method, scope.path) == SIGN_IN else self._requests

    def _answer(self, environ: dict[str, Any], wait: Callable[[], None]) -> Answer:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            head[:] = int(status[:3]), headers

        before_waiting.set(wait)
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
