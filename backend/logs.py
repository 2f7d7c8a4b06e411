"""Logs: to standard error, one line an event, in UTC, naming nobody; JSON, unless a person looks on."""

import json
import logging
import sys
import threading
import time
from contextlib import nullcontext
from functools import lru_cache
from typing import TextIO

from flask import g, has_app_context

FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S"
TOGETHER_SECONDS = 0.1


@lru_cache(2)
def _second(seconds: int) -> str:
    """Return the time to the second, made once for all that is logged within it."""
    return time.strftime(TIME, time.gmtime(seconds))


class _Json(logging.Formatter):
    """An event is an object: `time` (RFC 3339), `level`, `logger`, `message`, `request_id`, and what `fields` adds."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        # What is logged in the course of a request has its id.
        if request_id := getattr(record, "request_id", None):
            event["request_id"] = request_id
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


class _Together(logging.StreamHandler[TextIO]):
    """Writes together what is logged within a tenth of a second; what is no mere information, at once."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.request_id = g.get("request_id") if has_app_context() else None
        self._kept.append(record)
        if record.levelno > logging.INFO:
            self.flush()
        elif len(self._kept) == 1:
            timer = threading.Timer(TOGETHER_SECONDS, self.flush)
            timer.daemon = True
            timer.start()

    def flush(self) -> None:
        with self.lock or nullcontext():
            kept, self._kept = self._kept, []
            if kept:
                self.stream.write("".join(f"{self.format(record)}\n" for record in kept))
            super().flush()


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
