"""What a process measures: requests, and the line before the password hasher. No label names a person.

Several processes of one server write into files in a shared folder, and the one that is asked adds them up
(prometheus-client's multiprocess mode).
"""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from flask import Flask, current_app
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector

from backend.config import metrics_folder

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp gives the folder there a random name
PREFIX = "tiles-metrics-"

# The time when a series began would double the number of series, and says no more than its fall to 0.
disable_created_metrics()  # type: ignore[no-untyped-call]
# From a page in memory to a sign-in that waits for its hash; seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Meters:
    """The metrics of one application, named as OpenTelemetry's semantic conventions for HTTP servers name them."""

    registry: CollectorRegistry
    requests: Histogram
    hashes: Gauge
    refused: Counter
    _series: dict[tuple[str, str, int], Histogram] = field(default_factory=dict)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a response. Its series is kept, because looking it up takes longer than counting."""
        labels = method, route, status
        series = self._series.get(labels) or self._series.setdefault(labels, self.requests.labels(*labels))
        series.observe(seconds)


def init_app(app: Flask) -> None:
    """Give the app its metrics, shared with the other processes of its server."""
    if metrics_folder():
        # The library chose its storage when it was imported, before the folder was set.
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
    own = CollectorRegistry()
    requests = Histogram(
        "http_server_request_duration_seconds",
        "Requests by route and status, and how long they took in the application",
        ["http_request_method", "http_route", "http_response_status_code"],
        buckets=BUCKETS,
        registry=own,
    )
    line = "Password hashes that are made or wait"
    hashes = Gauge("tiles_hash_line", line, multiprocess_mode="livesum", registry=own)
    refused = Counter("tiles_hash_line_refused", "Requests refused because that line was full", registry=own)
    app.extensions["tiles.meters"] = Meters(own, requests, hashes, refused)


def meters() -> Meters:
    """Return the metrics of the current app."""
    current: Meters = current_app.extensions["tiles.meters"]
    return current


def shared_folder() -> Path:
    """Make a folder for this process and its children, and remove those of servers that have ended.

    It is in memory if possible: a full disk kills a process that writes into a mapped file.
    """
    place = IN_MEMORY if IN_MEMORY.is_dir() else Path(tempfile.gettempdir())
    for old in place.glob(f"{PREFIX}*"):
        if old.lstat().st_uid == os.getuid() and not _is_alive(int(old.name.split("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))


def registry() -> CollectorRegistry:
    """Return the metrics of all processes of this server."""
    folder = metrics_folder()
    if folder is None:
        return meters().registry
    # A killed process waits for no hash any more; its counters stay.
    for path in folder.glob("gauge_live*_*.db"):
        if not _is_alive(int(path.stem.rpartition("_")[2])):
            path.unlink(missing_ok=True)
    together = CollectorRegistry()
    MultiProcessCollector(together, str(folder))  # type: ignore[no-untyped-call]
    return together


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
