"""Logs: JSON lines to standard error, text on a terminal, in UTC, naming nobody. Logging never waits for the reader."""

import json
import logging
import os
import threading
import time
from functools import lru_cache
from multiprocessing.util import Finalize
from queue import SimpleQueue

from flask import g, has_app_context

FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S"
STDERR = 2
# Some seconds of requests, and a few MB.
QUEUED_LINES = 10_000
# A thread that wakes up for each line takes the GIL from the requests each time.
BATCH_SECONDS = 0.1
FINISH_SECONDS = 2.0
REQUESTS = logging.getLogger("backend.web.problems")

log = logging.getLogger(__name__)


class _Writer:
    """Formats and writes in a thread of its own. What does not fit into the queue, or fails, is dropped and counted."""

    def __init__(self, stream: int) -> None:
        self._stream, self._lines = stream, SimpleQueue[logging.LogRecord | str | None]()
        self.form = logging.Formatter()
        self._thread: threading.Thread | None = None
        self._lost, self._lock = 0, threading.Lock()
        # Threads do not survive a fork, and what was queued is the parent's to write.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lines, self._thread = SimpleQueue(), None
        self._lost, self._lock = 0, threading.Lock()

    def put(self, line: logging.LogRecord | str) -> None:
        """Queue a line, without waiting."""
        if self._thread is None:
            self._start()
        if self._lines.qsize() < QUEUED_LINES:
            self._lines.put(line)
        else:
            self._lose(1)

    def finish(self) -> None:
        """Write what is queued; give up after `FINISH_SECONDS` if nobody reads it."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread:
            self._lines.put(None)
            thread.join(FINISH_SECONDS)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        batch: list[logging.LogRecord | str | None] = []
        while None not in batch:
            batch = [self._lines.get()]
            time.sleep(BATCH_SECONDS)
            batch += [self._lines.get() for _ in range(self._lines.qsize())]
            self._write([line for line in batch if line is not None])

    def _write(self, lines: list[logging.LogRecord | str]) -> None:
        rest = "".join(f"{self._text(line)}\n" for line in lines).encode("utf-8", "backslashreplace")
        try:
            # Not through sys.stderr: its lock, held by a thread that waits for the reader, would stop the exit.
            while rest:
                rest = rest[os.write(self._stream, rest) :]
        except OSError:
            self._lose(len(lines))
            return
        with self._lock:
            # While the queue is full this line would be lost too.
            lost = self._lost if self._lines.qsize() < QUEUED_LINES // 2 else 0
            self._lost -= lost
        if lost:
            log.warning("%d lines were lost: nobody read them, or they could not be written", lost)

    def _text(self, line: logging.LogRecord | str) -> str:
        if isinstance(line, str):
            return line
        try:
            return self.form.format(line)
        except (TypeError, ValueError):
            # The logger was called with values that do not fit its message.
            line.args = None
            return self.form.format(line)

    def _lose(self, number: int) -> None:
        with self._lock:
            self._lost += number


_stdout, _stderr = _Writer(1), _Writer(STDERR)


@lru_cache(2)
def _second(seconds: int) -> str:
    """Return the time to the second, formatted once for all that is logged within it."""
    return time.strftime(TIME, time.gmtime(seconds))


class _Json(logging.Formatter):
    """An event is an object: `time` (RFC 3339), `level`, `logger`, `message`, `request_id`, and a response's fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": f"{_second(int(record.created))}.{int(record.created % 1 * 1000):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record, Response):
            event["method"], event["route"], event["status"], seconds = record.values
            event["seconds"] = round(seconds, 4)
        if request_id := getattr(record, "request_id", None):
            event["request_id"] = request_id
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


class Response(logging.LogRecord):
    """A response: nothing in it was sent by a client."""

    def __init__(self, method: str, route: str, status: int, seconds: float, request_id: str) -> None:
        """Describe a response whose request took so many seconds."""
        self.values = method, route, status, seconds
        shown = method, route, status, seconds * 1000
        super().__init__(REQUESTS.name, logging.INFO, "", 0, "%s %s %s %.1f ms", shown, None)
        self.request_id = request_id


class _Handler(logging.Handler):
    """Queues records for the writer, which formats them: together that is quicker than between requests."""

    def emit(self, record: logging.LogRecord) -> None:
        # What is logged in the course of a request has its id.
        if not isinstance(record, Response):
            record.request_id = g.get("request_id") if has_app_context() else None
        _stderr.put(record)


def log_response(response: Response) -> None:
    """Log a response, without looking for the line of code that logs it: that takes longer than most responses."""
    if REQUESTS.isEnabledFor(logging.INFO):
        REQUESTS.handle(response)


def say(text: str, *, err: bool = False) -> None:
    """Print a line of a service, which goes on when nobody reads it."""
    (_stderr if err else _stdout).put(text)


def finish() -> None:
    """Write what is queued, before this process ends."""
    _stdout.finish()
    _stderr.finish()


def configure(level: int = logging.INFO) -> None:
    """Write this process's log."""
    # Three quarters of the time that a record takes is for these, which no line shows (logging HOWTO, Optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    form = logging.Formatter(FORM, TIME) if os.isatty(STDERR) else _Json()
    form.converter = time.gmtime
    _stderr.form = form
    handler = _Handler()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They log each step of a migration, or each request with its address.
    for name in ("alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Processes made by multiprocessing run their finalizers, and no atexit.
    Finalize(None, finish, exitpriority=0)
