"""The first start and every start: on a fresh clone, of a server, of the command line, and of an import of the SDK."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx2
from bench.figures import Figure, Options, at_most
from bench.stage import stage
from forking import TILES
from peers import free_port
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
REPEATS, FRESH_START_SECONDS = 7, 120
MOST_FRESH, MOST_READY, MOST_HELP, MOST_IMPORT = 20.0, 1.5, 150.0, 100.0


def measure(_options: Options) -> Iterator[Figure]:
    """Measure all four."""
    yield at_most("`make serve` on a fresh clone, packages cached", _fresh_start(), "s", MOST_FRESH)
    with stage() as on:
        ready = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            with ServerProcess(on.folder, **on.settings):
                ready.append(time.perf_counter() - begun)
    yield at_most("start to ready", median(ready), "s", MOST_READY)
    yield at_most("`tiles --help`", median(_milliseconds(TILES, "--help") for _ in range(REPEATS)), "ms", MOST_HELP)
    _milliseconds(sys.executable, "-c", "import tiles_client")
    taken = [
        _milliseconds(sys.executable, "-c", "import tiles_client") - _milliseconds(sys.executable, "-c", "pass")
        for _ in range(REPEATS)
    ]
    yield at_most("import tiles_client", median(taken), "ms", MOST_IMPORT)


def _milliseconds(*words: str) -> float:
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


def _fresh_start() -> float:
    """Return the seconds from `make serve` to the first response; a first run, not counted, fills the cache."""
    return [_fresh_clone_serves() for _ in range(2)][-1]


def _fresh_clone_serves() -> float:
    with TemporaryDirectory(prefix="tiles-clone-") as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), folder], check=True)
        port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TILES_", "PYTHON"))}
        make = ["make", "serve", f"PYTHON={sys.executable}", f"ARGS=--port {port}"]
        begun = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        serving = subprocess.Popen(make, cwd=folder, env=inherited, start_new_session=True, **quiet)
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz", serving)
            return time.perf_counter() - begun
        finally:
            os.killpg(serving.pid, signal.SIGTERM)
            serving.wait()


def _wait_until_ready(url: str, serving: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + FRESH_START_SECONDS
    while time.monotonic() < until and serving.poll() is None:
        with suppress(httpx2.TransportError):
            httpx2.get(url, trust_env=False).raise_for_status()
            return
        time.sleep(0.05)
    raise TimeoutError("the clone does not serve")
