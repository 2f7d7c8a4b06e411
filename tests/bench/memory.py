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
    with stage() as found:
        session = found.have_ada()
        requests = [
            post("/v1/registrations", name="Ada Lovelace", email=EMAIL),
            post("/v1/sessions", email=EMAIL, password=PASSWORD),
            get("/v1/account", Authorization=f"Bearer {session}"),
        ]
        for processes, bar in MOST.items():
            with found.server(processes) as server, highest_memory(server) as highest:
                for asked in (requests, *([request] for request in requests)):
                    load(server.url, *asked, seconds=options.seconds)
            found.forget_mails()
            yield at_most(f"under load, {processes} processes", highest[0] / MEBIBYTE, "MiB", bar)


@contextmanager
def highest_memory(server: ServerProcess) -> Iterator[list[int]]:
    """Yield a list that has, at the end, the most memory that the server used meanwhile, and what it used before."""
    found, done = [memory_of(server)] * 2, Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            found[0] = max(found[0], memory_of(server))

    thread = Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def memory_of(server: ServerProcess) -> int:
    """Return how many bytes of memory a server's processes use."""
    found = 0
    for process in server.processes():
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            found += int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0]) * 1024
    return found
