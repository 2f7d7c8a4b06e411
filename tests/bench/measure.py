"""How the benches measure: one keep-alive connection, a clock in nanoseconds, Welch's t."""

import gc
import json
import math
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median, quantiles, variance
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import click

# Of a thousand comparisons of two that are the same, not one in a hundred exceeds this.
EVEN = 4.5
CROPPED = 0.5
# What wrk sends, in turns, and what it tells at its end: times in microseconds. A refusal is any status from 400 on.
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


def post(path: str, **body: object) -> bytes:
    """Return a whole request, so that nothing is left to be made while the clock runs."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


def get(path: str, **headers: str) -> bytes:
    """Return a whole request without a body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{lines}\r\n".encode()


class Line:
    """One keep-alive connection to a server."""

    def __init__(self, url: str, seconds: float = 60) -> None:
        """Connect; nothing is waited for longer than so many seconds."""
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return how long it took to the last byte of the answer, in nanoseconds, and the answer."""
        begun = time.perf_counter_ns()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not _is_whole(answer):
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionError("the server hung up")
            answer += part
        return time.perf_counter_ns() - begun, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._socket.close()


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    _, announced, rest = head.lower().partition(b"\r\ncontent-length: ")
    return bool(end) and len(body) >= int(rest.split(b"\r\n")[0] if announced else 0)


@dataclass(frozen=True)
class Load:
    """What a crowd of keep-alive connections got that ask again as soon as they are answered; milliseconds."""

    per_second: float
    p50: float
    p99: float
    errors: int


def load(url: str, *requests: bytes, connections: int, seconds: float, refused: bool = False) -> Load:
    """Send requests in turns, again and again, over so many connections, with wrk: it costs little of the cores.

    `refused` says that each is to be refused: then it is an error when one is not.
    """
    if not (wrk := shutil.which("wrk")):
        sys.exit("wrk is needed to make a load: apt-get install -y wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(SCRIPT % ", ".join(json.dumps(request.decode()) for request in requests))
        file.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", file.name, url]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    per_second, p50, p99, answers, refusals, *broken = json.loads(told.rpartition("FOUND ")[2])
    wrong = answers - refusals if refused else refusals
    if wrong or any(broken):
        kinds = dict(zip(("connect", "read", "write", "longer than 2 s"), broken, strict=True))
        click.echo(f"of {answers} answers {wrong} were not as asked; broken off: {kinds}", err=True)
    return Load(per_second, p50, p99, sum(broken) + wrong)


def status_of(answer: bytes) -> int:
    """Return the status of an answer."""
    return int(answer[9:12])


MOMENTS = re.compile(rb"(?im)^(date|retry-after): .*")


def timeless(answer: bytes) -> bytes:
    """Return what an answer shows, but for the moment in which it was given."""
    return MOMENTS.sub(rb"\1", answer)


@contextmanager
def without_collecting() -> Iterator[None]:
    """Keep the garbage collector out of what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two series of one measure. `t` is Welch's; `t_cropped` is that of the quicker half, which sees finer.

    Times are in microseconds. `seen_from` is the difference from which on this comparison would have noticed one.
    """

    name: str
    n: int
    median_known: float
    median_unknown: float
    difference: float
    t: float
    t_cropped: float
    seen_from: float

    @property
    def is_even(self) -> bool:
        """Tell whether nobody could tell the two apart."""
        return max(abs(self.t), abs(self.t_cropped)) < EVEN

    @classmethod
    def of(cls, name: str, known: Sequence[float], unknown: Sequence[float]) -> Self:
        """Compare two series of microseconds."""
        limit = quantiles([*known, *unknown], n=100)[round(CROPPED * 100) - 1]
        quick = [[value for value in series if value <= limit] for series in (known, unknown)]
        # Where nearly all of one is slower than the other, there is nothing finer to see.
        quick = quick if min(map(len, quick)) > len(known) // 10 else [[*known], [*unknown]]
        t, t_cropped = welch(known, unknown), welch(*quick)
        seen_from = EVEN * min(standard_error(known, unknown), standard_error(*quick))
        difference = fmean(known) - fmean(unknown)
        return cls(name, len(known), median(known), median(unknown), difference, t, t_cropped, seen_from)


def standard_error(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the standard error of the difference of two means."""
    return math.sqrt(variance(first) / len(first) + variance(second) / len(second))


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Welch's t of two series."""
    return (fmean(first) - fmean(second)) / (standard_error(first, second) or math.inf)


def interleave(
    known: Callable[[int], float], unknown: Callable[[int], float], pairs: int, tick: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Take two measures in turns, a coin deciding which of each pair comes first."""
    series: tuple[list[float], list[float]] = ([], [])
    with without_collecting():
        for number in range(pairs):
            order = [(known, series[0]), (unknown, series[1])]
            random.shuffle(order)
            for measure, into in order:
                into.append(measure(number))
            tick()
    return series
