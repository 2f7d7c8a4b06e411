"""What the processes of `tiles serve` run: the application behind its front, and the worker."""

import asyncio
import gc
import io
import os
import random
import resource
import sys
import threading
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from signal import SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGQUIT, SIGTERM, signal
from typing import TYPE_CHECKING, Any

from flask import Flask
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.rsgi import HTTPProtocol, ProtocolClosed, ProtocolError, Scope  # type: ignore[attr-defined]
from granian.server import MPServer

from backend import create_app, worker
from backend.bodies import BODY, BODY_BYTES, LATE
from backend.config import OWNER_ONLY, served_threads, settings
from backend.db import db
from backend.hashing import LINE, before_waiting, keep_memory
from backend.logs import configure
from backend.supervisor import end_with_parent, on_finish, supervise
from backend.waiting import Greenlets

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

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

# The loop answers these, where all that they ask is on this machine: what they wait for, other threads do.
HERE_ALWAYS = frozenset({("GET", "/healthz")})
HERE = HERE_ALWAYS | {
    SIGN_IN,
    ("POST", "/v1/registrations"),
    ("POST", "/v1/password-resets"),
    ("POST", "/v1/erasure-requests"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/account"),
}
# So many of them may wait for the disk at a time; more do not make it quicker.
WAITING_HERE = 64

GRACE_SECONDS = 20
# What strangers may hold of a process at most: connections, each with one request's headers and body.
CONNECTIONS = 8192
HEADER_BYTES = 16 * 1024
BACKLOG = 4096
# Objects that are new and not gone, before somebody looks which of them only know each other: a few milliseconds' work.
GARBAGE = 20_000

Headers = list[tuple[str, str]]
Answer = tuple[int, Headers, bytes]


class _Lane:
    """Requests that wait for each other: so many have a place at a time, in the order in which they came."""

    def __init__(self, places: int) -> None:
        self._free, self._lock = places, threading.Lock()
        self._waiting = deque[asyncio.Future[None]]()

    def take(self) -> bool:
        """Take a place if one is free."""
        with self._lock:
            taken = self._free > 0
            self._free -= taken
        return taken

    async def wait(self, protocol: HTTPProtocol) -> bool:
        """Wait for a place; none for a client that did not wait too: what nobody waits for would fill the memory."""
        place = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(place)
        if self.take():
            self.give()
        gone = asyncio.ensure_future(protocol.client_disconnect())
        await asyncio.wait({place, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        return place.done() or not self._leave(place)

    def _leave(self, place: asyncio.Future[None]) -> bool:
        """Wait no longer; false, and the place is taken, where one was given in this moment."""
        with self._lock:
            if place not in self._waiting:
                return False
            self._waiting.remove(place)
        return True

    def give(self) -> None:
        """Give a place to whoever waits longest, from whichever thread."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            place = self._waiting.popleft()
        place.get_loop().call_soon_threadsafe(place.set_result, None)


class _Turn:
    """A place that was taken, until it is given up."""

    def __init__(self, lane: _Lane) -> None:
        self._lane, self._over = lane, False

    def end(self) -> None:
        """Let the next one in, once."""
        if not self._over:
            self._over = True
            self._lane.give()


class Front:
    """Gives a request to the application when all of its body is here: RSGI outside, WSGI inside.

    Where the database is a file of this machine, the event loop itself answers the requests that come most. They wait
    for nothing but what other threads do (`waiting`), and meanwhile the loop answers others: as fast as Python can, as
    its threads only take its one lock from each other. Everything else gets a thread. With the server's own WSGI door
    a thread would wait for each body, and as many clients as there are threads, each sending one byte and no more,
    would stop the service. Those who sign in, however many they are, take one place among the others: while they
    wait for a hash, none.
    """

    def __init__(self, app: "WSGIApplication", threads: int, here: Collection[tuple[str, str]] = HERE_ALWAYS) -> None:
        """Answer so many requests at a time in threads, in the loop those of `here`; one that signs in, one a probe."""
        self._app, self._here = app, here
        self._in_threads, self._in_loop, self._sign_ins = _Lane(threads), _Lane(WAITING_HERE), _Lane(1)
        self._probes = {path: _Lane(1) for path in PROBES}
        self._greenlets = Greenlets()
        # All that may have a place, and all that gave theirs up to wait for a hash.
        self._threads = ThreadPoolExecutor(threads + 1 + len(PROBES) + LINE, thread_name_prefix="request")

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        body: bytes | None = b""
        if "content-length" in scope.headers or "transfer-encoding" in scope.headers:
            try:
                body = await _body(scope.headers.get("content-length", ""), protocol)
            except (ProtocolClosed, ProtocolError):
                # The client left in the middle: nobody waits for an answer.
                return
        request = scope.method, scope.path
        lane = self._lane(request)
        if not (lane.take() or await lane.wait(protocol)):
            return
        turn = _Turn(lane)
        try:
            answer = await self._answer(environ_of(scope, body), turn, here=request in self._here)
        finally:
            turn.end()
        if answer[0] == HTTPStatus.SERVICE_UNAVAILABLE and scope.method not in {"GET", "HEAD"}:
            await asyncio.sleep(random.uniform(*REFUSED_SECONDS))  # noqa: S311 - no secret
        protocol.response_bytes(*answer)

    def _lane(self, request: tuple[str, str]) -> _Lane:
        if request[1] in self._probes:
            return self._probes[request[1]]
        if request == SIGN_IN:
            return self._sign_ins
        return self._in_loop if request in self._here else self._in_threads

    async def _answer(self, environ: dict[str, Any], turn: _Turn, *, here: bool) -> Answer:
        if here:
            return await self._greenlets.do(partial(self._ask, environ, turn))
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, environ, turn)

    def _ask(self, environ: dict[str, Any], turn: _Turn) -> Answer:
        head: list[Any] = []

        def start_response(status: str, headers: Headers, *_: object) -> None:
            head[:] = int(status[:3]), headers

        before_waiting.set(turn.end)
        parts: Iterable[bytes] = self._app(environ, start_response)  # type: ignore[arg-type]
        content = b"".join(parts)
        if close := getattr(parts, "close", None):
            close()
        return head[0], head[1], content


async def _body(length: str, protocol: HTTPProtocol) -> bytes | None:
    """Read a body, or as much of it as shows that it is too large; None when it does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if length.isdecimal() and int(length) <= BODY_BYTES:
                return await protocol()
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
        # Methods are case-sensitive (RFC 9110 section 9.1), and the framework takes all for upper case.
        "REQUEST_METHOD": scope.method if scope.method.isupper() else "_OTHER",
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        # The HTTP server writes an IPv6 address in brackets; RFC 3875 section 4.1.8 has none.
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body or b""),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        BODY: body or b"",
        LATE: body is None,
    }
    for name, value in scope.headers.items():
        # A name with an underscore would pass for the one with a hyphen, such as X-Forwarded-For.
        if "_" not in name:
            variable = _variable(name)
            environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    # Nothing is left of a value that is not ASCII: the header is there, and empty.
    for name in scope.headers.keys():  # noqa: SIM118 - no dictionary
        if "_" not in name:
            environ.setdefault(_variable(name), "")
    return environ


def _variable(header: str) -> str:
    return _VARIABLES.get(header) or f"HTTP_{header.upper().replace('-', '_')}"


# What most requests have. A cache would be filled by everybody, and could be timed by everybody.
_VARIABLES = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"} | {
    name: f"HTTP_{name.upper().replace('-', '_')}"
    for name in ("host", "accept", "accept-encoding", "user-agent", "authorization", "connection", "x-forwarded-for")
}


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
    server.on_startup(lambda: on_finish(server.signal_handler_interrupt))
    server.serve()


def _is_all_here(app: Flask) -> bool:
    """Tell whether nothing that a request asks is at the other end of a network."""
    with app.app_context():
        return db.engine.dialect.name == "sqlite" and settings().redis_url is None


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
    return Front(app, served_threads(), HERE if _is_all_here(app) else HERE_ALWAYS)
