"""What a process measures of itself: requests and the line before the password hasher. No label names anybody.

With several processes of one server each writes into files of its own in a folder that they share, and whichever is
asked adds them up (prometheus-client's multiprocess mode).
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

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made there has a name that nobody can guess
PREFIX = "tiles-metrics-"

# When a series began: the same information as its fall to 0, and as many series again.
disable_created_metrics()  # type: ignore[no-untyped-call]
# From a page out of memory to a sign-in that waits for its hash; seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Meters:
    """What one application measures. The names are those of OpenTelemetry's semantic conventions for HTTP servers."""

    registry: CollectorRegistry
    requests: Histogram
    hashes: Gauge
    refused: Counter
    _series: dict[tuple[str, str, int], Histogram] = field(default_factory=dict)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer, in a series that is kept: to look it up takes as long as to count."""
        labels = method, route, status
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self.requests.labels(*labels)
        series.observe(seconds)


def _made() -> Meters:
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
    return Meters(own, requests, hashes, refused)


def init_app(app: Flask) -> None:
    """Let the app measure what it does, together with the other processes of its server where it has some."""
    if metrics_folder():
        # The library decided when it was loaded, which was before there was a folder.
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
    app.extensions["tiles.meters"] = _made()


def meters() -> Meters:
    """Return what the current app measures."""
    found: Meters = current_app.extensions["tiles.meters"]
    return found


def shared_folder() -> Path:
    """Return a new folder for the processes that this one is about to become the parent of.

    It is in memory where there is such a place: a process that writes a mapped file on a full disk dies of it.
    """
    place = IN_MEMORY if IN_MEMORY.is_dir() else Path(tempfile.gettempdir())
    for old in place.glob(f"{PREFIX}*"):
        if old.lstat().st_uid == os.getuid() and not _is_alive(int(old.name.split("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))


def registry() -> CollectorRegistry:
    """Return what is measured by all processes of this server."""
    folder = metrics_folder()
    if folder is None:
        return meters().registry
    _forget_the_dead(folder)
    found = CollectorRegistry()
    MultiProcessCollector(found, str(folder))  # type: ignore[no-untyped-call]
    return found


def _forget_the_dead(folder: Path) -> None:
    """Let go of what a process that was killed still had in its line; what it had counted stays counted."""
    for path in folder.glob("gauge_live*_*.db"):
        if not _is_alive(int(path.stem.rpartition("_")[2])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
