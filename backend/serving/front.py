"""The front: reads a request's body, decides where the request is answered, and sends the response.

RSGI (granian's interface) outside, WSGI inside.
"""

import asyncio
import io
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from granian.rsgi import HTTPProtocol, ProtocolClosed, ProtocolError, Scope  # type: ignore[attr-defined]
from sqlalchemy.exc import DBAPIError

from backend.database.outbox import Outbox, collecting
from backend.security.hashing import BACKLOG
from backend.security.throttle import charged
from backend.web.bodies import ARRIVED, BODY_BYTES, LARGEST_BODY_BYTES, NO_BODY, Arrived, most_bytes
from backend.web.operations import Runs

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# Enough for 64 KiB over a slow line, and half of the time that a stopping server waits for requests.
BODY_SECONDS = 10.0
OVERLOADED_SECONDS = 1.0, 3.0
SAFE = frozenset({"GET", "HEAD"})
HEALTH = "/healthz"
# A service manager decides by these whether this process may live: each has a thread of its own.
PROBES = ("/readyz", "/metrics")

# What is the same in the WSGI environment of every request (PEP 3333).
ALWAYS: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.input_terminated": True,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}

# The headers whose variables have no prefix (PEP 3333).
UNPREFIXED = ("CONTENT_TYPE", "CONTENT_LENGTH")

Response = tuple[int, list[tuple[str, str]], bytes]


class Front:
    """Answers a request in the event loop if nothing in it can wait, and in a thread otherwise.

    granian's own WSGI server lets a thread wait for each body: as many clients as there are threads, each sending one
    byte, would stop the service. Safe methods have their own threads, so that reading goes on while every other thread
    waits for SQLite's write lock. So do requests that wait for a password hash.
    """

    def __init__(
        self, app: "WSGIApplication", threads: int, runs: Mapping[tuple[str, str], Runs], outbox: Outbox | None
    ) -> None:
        """Answer `threads` requests at a time in each lane; without an outbox, none but `/healthz` in the loop."""
        self._app, self._runs, self._outbox = app, runs, outbox
        self._reading, self._writing = _Lane(threads), _Lane(threads)
        # One more than the hasher takes: it refuses that one, and the client learns of it.
        self._hashing = _Lane(BACKLOG + 1)
        self._probes = {path: _Lane(1) for path in PROBES}

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        arrived = NO_BODY
        if "content-length" in scope.headers or "transfer-encoding" in scope.headers:
            try:
                arrived = await self._read(scope, protocol)
            except (ProtocolClosed, ProtocolError):
                # The client disconnected while it sent the body.
                return
        environ = environ_of(scope, arrived)
        runs, charges = self._runs.get((scope.method, scope.path), "thread"), set[object]()
        response = None
        if runs == "loop" and (self._outbox or scope.path == HEALTH):
            response = await self._answer_in_loop(environ, charges)
        if response is None:
            response = await self._lane(scope, runs).run(protocol, partial(self._call, environ, charges))
        if response is None:
            return
        if response[0] == HTTPStatus.SERVICE_UNAVAILABLE and scope.method not in SAFE:
            # Delay each 503 (jittered) so that immediate retries do not keep the service overloaded.
            await asyncio.sleep(random.uniform(*OVERLOADED_SECONDS))  # noqa: S311 - no secret
        protocol.response_bytes(*response)

    async def _read(self, scope: Scope, protocol: HTTPProtocol) -> Arrived:
        """Read a body, or as much of it as shows that it is too large."""
        length, most, body = scope.headers.get("content-length", ""), most_bytes(scope.path), bytearray()
        # A large body is taken only from a client who may open the form's own page; another is refused anyway.
        is_refused = most == LARGEST_BODY_BYTES and not await self._may_open(scope, protocol)
        if is_refused:
            most = BODY_BYTES
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if length.isdecimal() and int(length) <= most:
                    body += await protocol()
                else:
                    async for chunk in protocol:
                        body += chunk
                        if len(body) > most:
                            break
        except TimeoutError:
            return Arrived(b"", most, complete=False)
        return NO_BODY if is_refused else Arrived(bytes(body), most)

    async def _may_open(self, scope: Scope, protocol: HTTPProtocol) -> bool:
        environ = environ_of(scope, NO_BODY) | {"REQUEST_METHOD": "HEAD"}
        response = await self._reading.run(protocol, partial(self._call, environ, set()))
        return response is not None and response[0] == HTTPStatus.OK

    def _lane(self, scope: Scope, runs: Runs) -> "_Lane":
        if runs == "hashing":
            return self._hashing
        return self._probes.get(scope.path) or (self._reading if scope.method in SAFE else self._writing)

    async def _answer_in_loop(self, environ: dict[str, Any], charges: set[object]) -> Response | None:
        """Return the response once its writes are durable, or None to answer the request in a thread."""
        with collecting(self._outbox) as collected:
            response = self._call(environ, charges)
        if collected.failed:
            return None
        if collected.writes and self._outbox:
            try:
                if not await self._outbox.commit(collected):
                    return None
            except DBAPIError as error:
                with collecting(self._outbox, failure=error) as collected:
                    response = self._call(environ, charges)
        for call in collected.afterwards:
            call()
        return response

    def _call(self, environ: dict[str, Any], charges: set[object]) -> Response:
        """Return the response of the application. `charges` were made when the request was answered before."""
        charged.set(charges)
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            head[:] = int(status[:3]), headers

        parts: Iterable[bytes] = self._app(environ, start_response)  # type: ignore[arg-type]
        content = b"".join(parts)
        if close := getattr(parts, "close", None):
            close()
        return head[0], head[1], content


class _Lane:
    """Threads that answer one request each; further requests wait in their order."""

    def __init__(self, threads: int) -> None:
        self._slots = asyncio.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="request")

    async def run(self, protocol: HTTPProtocol, call: Callable[[], Response]) -> Response | None:
        """Return the response, or None if the client disconnected before a thread was free."""
        if self._slots.locked():
            slot = asyncio.ensure_future(self._slots.acquire())
            gone = asyncio.ensure_future(protocol.client_disconnect())
            await asyncio.wait({slot, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not slot.done():
                slot.cancel()
                return None
        else:
            await self._slots.acquire()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._slots.release()


def environ_of(scope: Scope, arrived: Arrived) -> dict[str, Any]:
    """Return a request in the form of PEP 3333."""
    server, _, port = scope.server.rpartition(":")
    environ = ALWAYS | {
        # Methods are case-sensitive (RFC 9110 section 9.1), but Flask uppercases them.
        "REQUEST_METHOD": scope.method if scope.method.isupper() else "_OTHER",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        # granian writes an IPv6 address in brackets.
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(arrived.body),
        "wsgi.errors": sys.stderr,
        ARRIVED: arrived,
    }
    for name in scope.headers.keys():  # noqa: SIM118 - no dictionary
        # As a variable, X_Forwarded_For could not be told from X-Forwarded-For.
        if "_" not in name:
            # granian drops a value that is not ASCII: the header is there, and empty.
            values = scope.headers.get_all(name)  # type: ignore[attr-defined]
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = ",".join(values)
    for name in UNPREFIXED:
        if (value := environ.pop(f"HTTP_{name}", None)) is not None:
            environ[name] = value
    return environ
