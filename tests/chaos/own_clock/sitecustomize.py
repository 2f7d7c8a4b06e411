"""Set the clock of each process with this on its path ahead, by the number of seconds in a file."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend import clock

AHEAD = Path(os.environ["CHAOS_SECONDS_AHEAD"])


def now() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=float(AHEAD.read_text()))


clock.now = now
