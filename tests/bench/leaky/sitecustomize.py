"""A leak that is known, for a bench to see: in a process with this on its path, a known address takes longer."""

import io
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

KNOWN = b"known"
NANOSECONDS = int(os.environ["BENCH_LEAK_MICROSECONDS"]) * 1000

answer = Flask.__call__


def answer_late(app: Flask, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer, some time later where the body names a known address."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    until = time.perf_counter_ns() + (NANOSECONDS if KNOWN in body else 0)
    while time.perf_counter_ns() < until:
        pass
    return answer(app, environ, start_response)


Flask.__call__ = answer_late  # type: ignore[method-assign]
