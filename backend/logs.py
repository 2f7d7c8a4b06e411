"""Logs: to standard error, one line an event, in UTC, naming nobody; JSON, unless a person looks on."""

import asyncio
import json
import logging
import sys
import threading
import time
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import NamedTuple, TextIO

from flask import g, has_app_context

FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S"
TOGETHER_SECONDS = 0.1
REQUESTS = logging.getLogger("backend.web")


@lru_cache(2)
def _second(seconds: int) -> str:
    """Return the time to the second, made once for all that is logged within it."""
    return time.strftime(TIME, time.gmtime(seconds))


def _event(created: float, level: str, logger: str, message: str) -> dict[str, object]:
    """Return what all events have."""
    time = f"{_second(int(created))}.{int(created % 1 * 1000):03}Z"
    return {"time": time, "level": level, "logger": logger, "message": message}


class _Json(logging.Formatter):
    """An event is an object: `time` (RFC 3339), `level`, `logger`, `message`, `request_id`, and what an answer adds."""

    def format(self, record: logging.LogRecord) -> str:
        if answered := getattr(record, "answered", None):
            return str(answered.line())
        event = _event(record.created, record.levelname, record.name, record.getMessage())
        # What is logged in the course of a request has its id.
        if request_id := getattr(record, "request_id", None):
            event["request_id"] = request_id
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


class Answered(NamedTuple):
    """An answer, as the log tells it: nothing in it is a stranger's word."""

    created: float
    method: str
    route: str
    status: int
    seconds: float
    request_id: str

    @property
    def message(self) -> str:
        """What a person reads of it."""
        return f"{self.method} {self.route} {self.status} {self.seconds * 1000:.1f} ms"

    def line(self) -> str:
        """Return what a program reads of it."""
        event = _event(self.created, "INFO", REQUESTS.name, self.message)
        event["method"], event["route"], event["status"] = self.method, self.route, self.status
        event["seconds"], event["request_id"] = round(self.seconds, 4), self.request_id
        return json.dumps(event)

    def record(self) -> logging.LogRecord:
        """Return it as everything else that is logged."""
        about = {"name": REQUESTS.name, "levelno": logging.INFO, "levelname": "INFO", "msg": self.message}
        moment = {"created": self.created, "msecs": self.created % 1 * 1000}
        return logging.makeLogRecord(about | moment | {"answered": self})


class _Together(logging.StreamHandler[TextIO]):
    """Writes together what is logged within a tenth of a second; what is no mere information, at once."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[logging.LogRecord | Answered] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.request_id = g.get("request_id") if has_app_context() else None
        self.keep(record)
        if record.levelno > logging.INFO:
            self.flush()

    def keep(self, event: logging.LogRecord | Answered) -> None:
        """Write it soon."""
        with self.lock or nullcontext():
            self._kept.append(event)
            is_first = len(self._kept) == 1
        if is_first:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Have the event loop write, where this is its thread."""
        try:
            asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self.flush)
        except RuntimeError:
            timer = threading.Timer(TOGETHER_SECONDS, self.flush)
            timer.daemon = True
            timer.start()

    def flush(self) -> None:
        # Where standard error is closed or its disk full, nobody can be told, and everything else goes on.
        with self.lock or nullcontext(), suppress(OSError, ValueError):
            kept, self._kept = self._kept, []
            if kept:
                self.stream.write("".join(f"{self._line(event)}\n" for event in kept))
            super().flush()

    def _line(self, event: logging.LogRecord | Answered) -> str:
        if isinstance(event, logging.LogRecord):
            return self.format(event)
        return event.line() if isinstance(self.formatter, _Json) else self.format(event.record())


def answered(event: Answered) -> None:
    """Log an answer, past what the library finds out about each event: that takes longer than most answers."""
    if not REQUESTS.isEnabledFor(logging.INFO):
        return
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], _Together):
        handlers[0].keep(event)
    else:
        # Whoever runs the application in a server of his own decides what becomes of its log.
        REQUESTS.handle(event.record())


def configure(level: int = logging.INFO) -> None:
    """Write this process's log."""
    # Of what the library finds out about each event, nothing is written (logging HOWTO, Optimization).
    logging._srcfile = None  # noqa: SLF001 - as documented
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    form = logging.Formatter(FORM, TIME) if sys.stderr.isatty() else _Json()
    form.converter = time.gmtime
    handler = _Together()
    handler.setFormatter(form)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They tell each step of a migration, or each request with its address.
    for name in ("alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
