"""Logs: JSON lines on standard error, or text on a terminal, in UTC. No line names a person.

Logging never waits for the reader: a bounded queue drops and counts lines while it is full, and a thread writes them.
"""

import logging
import os
import threading
import time
from functools import lru_cache
from logging.handlers import QueueHandler, QueueListener
from multiprocessing.util import Finalize
from queue import Full, Queue
from typing import Any

from flask import has_request_context, request
from pydantic_core import to_json

LINE_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"
STDOUT, STDERR = 1, 2
# Some seconds of requests, and a few MB.
QUEUED_LINES = 10_000
WRITTEN_AT_ONCE = 1_000
# Waking the writer for each line would take the GIL from a request each time.
BATCH_SECONDS = 0.1
FINISH_SECONDS = 2.0
REQUEST_ID = "tiles.request_id"
"""The key of a request's WSGI environment that holds its name in the log."""
REQUESTS = logging.getLogger("backend.web.problems")

log = logging.getLogger(__name__)


def log_response(method: str, route: str, status: int, seconds: float, request_id: str) -> None:
    """Log a response whose request took so many seconds. No value comes from a client.

    It does not search for the calling line, which takes longer than most responses.
    """
    if REQUESTS.isEnabledFor(logging.INFO):
        args = method, route, status, seconds * 1000
        record = logging.LogRecord(REQUESTS.name, logging.INFO, "", 0, "%s %s %s %.1f ms", args, None)
        record.fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        record.request_id = request_id
        REQUESTS.handle(record)


@lru_cache(1)
def _to_the_second(seconds: int) -> str:
    """Return a time without its fraction, formatted once for all lines of that second."""
    return time.strftime(TIME_FORMAT, time.gmtime(seconds))


class _Json(logging.Formatter):
    """An object for each event: time (RFC 3339), level, logger, message, request_id, and a response's fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": f"{_to_the_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _text(record.getMessage()),
        }
        event |= getattr(record, "fields", {})
        if request_id := getattr(record, "request_id", None):
            event["request_id"] = request_id
        if record.exc_info:
            event["exception"] = _text(self.formatException(record.exc_info))
        # It takes a tenth of the time of json.dumps.
        return to_json(event).decode()


def _text(text: str) -> str:
    """Return text that UTF-8 can encode: a file's name may have lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Handler(QueueHandler):
    """Queues records for a stream of this process. The first one starts the thread that formats and writes them."""

    queue: Queue[logging.LogRecord | None]

    def __init__(self, stream: int) -> None:
        super().__init__(Queue(QUEUED_LINES))
        self.stream, self.lost = stream, 0
        self._listener: _Listener | None = None
        # A fork copies no threads, and the parent writes the lines that are queued.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self.queue, self.lost, self._listener = Queue(QUEUED_LINES), 0, None

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Note the request that is being answered, because the writing thread has none."""
        if not hasattr(record, "request_id"):
            record.request_id = request.environ.get(REQUEST_ID) if has_request_context() else None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record without waiting. The caller holds the handler's lock."""
        if self._listener is None:
            self._listener = _Listener(self)
            self._listener.start()
        try:
            self.queue.put_nowait(record)
        except Full:
            self.lost += 1

    def finish(self) -> None:
        """Write the queued lines; give up after `FINISH_SECONDS` if nobody reads them."""
        listener, self._listener = self._listener, None
        if listener:
            stopping = threading.Thread(target=listener.stop, daemon=True)
            stopping.start()
            stopping.join(FINISH_SECONDS)


class _Listener(QueueListener):
    """Writes the queued lines, many at once."""

    queue: Queue[logging.LogRecord | None]

    def __init__(self, handler: _Handler) -> None:
        super().__init__(handler.queue)
        self._handler, self._lines = handler, list[str]()

    def dequeue(self, block: bool) -> Any:  # noqa: ANN401, FBT001 - the library's signature
        was_empty = self.queue.empty()
        record: Any = super().dequeue(block)
        if record is None:
            # The sentinel of `stop`.
            self._write()
        elif was_empty:
            time.sleep(BATCH_SECONDS)
        return record

    def enqueue_sentinel(self) -> None:
        self.queue.put(None)

    def handle(self, record: logging.LogRecord) -> None:
        try:
            line = self._handler.format(record)
        except (TypeError, ValueError):
            # The arguments do not fit the message, and may name a person.
            record.args = None
            line = self._handler.format(record)
        self._lines.append(f"{line}\n")
        if self.queue.empty() or len(self._lines) >= WRITTEN_AT_ONCE:
            self._write()

    def _write(self) -> None:
        lines, self._lines, lost = self._lines, [], 0
        try:
            rest = "".join(lines).encode("utf-8", "backslashreplace")
            # sys.stderr has a lock. A thread that waits for the reader would hold it, and stop the end of the process.
            while rest:
                rest = rest[os.write(self._handler.stream, rest) :]
        except OSError:
            lost = len(lines)
        self._count(lost)

    def _count(self, lost: int) -> None:
        """Add to the lost lines; after a success, report them once half of the queue is free."""
        with self._handler.lock:  # type: ignore[union-attr]
            self._handler.lost += lost
            reported = 0 if lost or self.queue.qsize() >= QUEUED_LINES // 2 else self._handler.lost
            self._handler.lost -= reported
        if reported:
            log.warning("%d lines were lost: nobody read them, or they could not be written", reported)


_stdout, _stderr = _Handler(STDOUT), _Handler(STDERR)


def say(text: str) -> None:
    """Print a line on standard output; never wait for the reader."""
    _stdout.handle(logging.makeLogRecord({"msg": text}))


def finish() -> None:
    """Write the queued lines before this process ends."""
    _stdout.finish()
    _stderr.finish()


def configure(level: int = logging.INFO) -> None:
    """Send this process's log to standard error."""
    # No line shows them, and they take most of the time of a record (logging HOWTO, Optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    form = logging.Formatter(LINE_FORMAT, TIME_FORMAT) if os.isatty(STDERR) else _Json()
    form.converter = time.gmtime
    _stderr.setFormatter(form)
    logging.basicConfig(level=level, handlers=[_stderr], force=True)
    # They log each step of a migration, or each request with its address.
    for name in ("alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A process made by multiprocessing runs its finalizers, but no atexit.
    Finalize(None, finish, exitpriority=0)
