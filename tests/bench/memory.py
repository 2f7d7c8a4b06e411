"""Memory of a server under load. Each of n processes that share a page counts an n-th of it (PSS)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from bench.figures import Figure, Options, at_most
from bench.requests import get, load, post
from bench.stage import EMAIL, stage
from server_process import ServerProcess
from support import PASSWORD

MEBIBYTE = 2**20
MOST = {1: 130.0, 2: 190.0}
SAMPLE_SECONDS = 0.2


def measure(options: Options) -> Iterator[Figure]:
    """Measure a server as it is without a setting, and one with two processes."""
    with stage() as on:
        session = on.have_ada()
        requests = [
            post("/v1/registrations", name="Ada Lovelace", email=EMAIL),
            post("/v1/sessions", email=EMAIL, password=PASSWORD),
            get("/v1/account", Authorization=f"Bearer {session}"),
        ]
        for processes, bar in MOST.items():
            with on.server(processes) as server, highest_memory(server) as highest:
                for load_requests in (requests, *([request] for request in requests)):
                    load(server.url, *load_requests, seconds=options.seconds)
            on.forget_mails()
            yield at_most(f"under load, {processes} processes", highest[0] / MEBIBYTE, "MiB", bar)


@contextmanager
def highest_memory(server: ServerProcess) -> Iterator[list[int]]:
    """Yield the most bytes of memory that the server uses in the block, and the bytes before it."""
    most, done = [memory_of(server)] * 2, Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            most[0] = max(most[0], memory_of(server))

    thread = Thread(target=sample)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def memory_of(server: ServerProcess) -> int:
    """Return how many bytes of memory a server's processes use."""
    total = 0
    for process in server.processes():
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0]) * 1024
    return total
