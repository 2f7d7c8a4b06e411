"""How the benches send requests: whole ones over connections that are kept, one at a time or as a load of wrk."""

import json
import math
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from os import sysconf
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urlsplit

import click
from bench.figures import Load

CONNECTIONS = 16
TICKS_PER_SECOND = sysconf("SC_CLK_TCK")
# What wrk sends in turn, and prints at its end; times are microseconds. A status of 400 or more is a refusal.
SCRIPT = """
local requests, last = {%s}, 0
function request()
  last = last %% #requests + 1
  return requests[last]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("FOUND [%%f, %%f, %%f, %%d, %%d, %%d, %%d, %%d, %%d]",
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.requests, e.status, e.connect, e.read, e.write, e.timeout))
end
"""


def send(method: str, path: str, body: str = "", kind: str = "application/json", **headers: str) -> bytes:
    """Return a whole request, so that nothing is left to do while the clock runs."""
    data = body.encode()
    if data:
        headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{lines}\r\n".encode() + data


def post(path: str, **body: object) -> bytes:
    """Return a request with a JSON body."""
    return send("POST", path, json.dumps(body))


def get(path: str, **headers: str) -> bytes:
    """Return a request without a body."""
    return send("GET", path, **headers)


def form(path: str, cookie: str, **fields: str) -> bytes:
    """Return a request with a form."""
    return send("POST", path, urlencode(fields), "application/x-www-form-urlencoded", Cookie=cookie)


class Line:
    """One connection to a server, which is kept."""

    def __init__(self, url: str, seconds: float = 60) -> None:
        """Connect; wait for no response longer than so many seconds."""
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the nanoseconds until the last byte of the response, and the response."""
        begun = time.perf_counter_ns()
        self._socket.sendall(request)
        response = self._socket.recv(65536)
        while not _is_whole(response):
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionError("the server hung up")
            response += part
        return time.perf_counter_ns() - begun, response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._socket.close()


def _is_whole(response: bytes) -> bool:
    head, end, body = response.partition(b"\r\n\r\n")
    _, announced, rest = head.lower().partition(b"\r\ncontent-length: ")
    return bool(end) and len(body) >= int(rest.split(b"\r\n")[0] if announced else 0)


def status_of(response: bytes) -> int:
    """Return the status of a response."""
    return int(response[9:12])


VARYING = re.compile(rb"(?im)^(?:date|retry-after): .*|[0-9a-f]{32}")


def shown(response: bytes) -> bytes:
    """Return what a response shows, apart from the time and the request's random id."""
    return VARYING.sub(b"", response)


def wait_until_up(url: str, path: str = "/healthz") -> None:
    """Return when a server responds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with suppress(OSError), Line(url) as line:
            line.ask(get(path))
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing responds at {url}")


def load(url: str, *requests: bytes, seconds: float, connections: int = CONNECTIONS, refused: bool = False) -> Load:
    """Send requests in turn over some connections, with wrk, which takes little of the processor.

    With `refused`, a response that is no refusal is an error.
    """
    if not (wrk := shutil.which("wrk")):
        sys.exit("wrk is needed to make a load: apt-get install -y wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(SCRIPT % ", ".join(json.dumps(request.decode()) for request in requests))
        file.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", file.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    per_second, p50, p99, answers, refusals, *broken = json.loads(output.rpartition("FOUND ")[2])
    wrong = answers - refusals if refused else refusals
    if wrong or any(broken):
        kinds = dict(zip(("connect", "read", "write", "longer than 2 s"), broken, strict=True))
        click.echo(f"of {answers} responses {wrong} were wrong; errors of connections: {kinds}", err=True)
    return Load(per_second, p50, p99, sum(broken) + wrong)


def processor_seconds(processes: list[int]) -> float:
    """Return how much processor time some processes have used."""
    ticks = 0
    for process in processes:
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


@dataclass(frozen=True)
class Target:
    """A running service: its processes, and how to wait until it has finished what requests left to do."""

    url: str
    processes: Callable[[], list[int]]
    finish: Callable[[], object] = lambda: None

    def load(self, *requests: bytes, seconds: float, share: float = 1.0, refused: bool = False) -> Load:
        """Make a load, and count the processor time until the last email has left. A request is a share of a job."""
        before = processor_seconds(self.processes())
        measured = load(self.url, *requests, seconds=seconds, refused=refused)
        done = measured.per_second * math.ceil(seconds) * share
        self.finish()
        spent = processor_seconds(self.processes()) - before
        return replace(
            measured, per_second=measured.per_second * share, per_processor_second=done / spent if spent else 0
        )
