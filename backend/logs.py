"""Logs: to standard error, one line an event, in UTC, naming nobody."""

import logging
import time

FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


def configure(level: int = logging.INFO) -> None:
    """Write this process's log."""
    form = logging.Formatter(FORM, "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They tell each step of a migration, or each request with its address.
    for name in ("alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
