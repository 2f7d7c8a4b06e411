"""A process with this on its path has a clock of its own: it is as many seconds ahead as a file says."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend import clock

AHEAD = Path(os.environ["CHAOS_SECONDS_AHEAD"])


def now() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=float(AHEAD.read_text()))


clock.now = now
