"""Logs: to standard error, one line an event, naming nobody."""

import logging


def configure(level: int = logging.INFO) -> None:
    """Write this process's log."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    # They tell each step of a migration, or each request with its address.
    for name in ("alembic", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
