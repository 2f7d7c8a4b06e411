"""Logs: to standard error, one line an event, in UTC, naming nobody; JSON, unless a person looks on."""

import json
import logging
import sys
import time

from flask import g, has_app_context

FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S"


class _Json(logging.Formatter):
    """An event is an object: `time` (RFC 3339), `level`, `logger`, `message`, `request_id`, and what `fields` adds."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": f"{self.formatTime(record, TIME)}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        # What is logged in the course of a request has its id.
        if has_app_context() and "request_id" in g:
            event["request_id"] = g.request_id
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


def configure(level: int = logging.INFO) -> None:
    """Write this process's log."""
    form = logging.Formatter(FORM, TIME) if sys.stderr.isatty() else _Json()
    form.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They tell each step of a migration, or each request with its address.
    for name in ("alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
