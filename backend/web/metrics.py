"""What Prometheus is told: what the processes of this server measured, and what all of them did, from the database."""

import logging
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from backend import metrics
from backend.database import totals
from backend.mail import queue as mail
from backend.privacy import erasure
from backend.web.problems import DATABASE_AWAY

log = logging.getLogger(__name__)


class _Stored(Collector):
    """What the database knows; where it is away, only that."""

    def collect(self) -> Iterator[Metric]:
        """Read it."""
        try:
            found = list(_stored())
        except DATABASE_AWAY as error:
            log.warning("metrics without the database (%s)", type(error).__name__)
            found = []
        yield GaugeMetricFamily("tiles_database_up", "Whether the database answers", value=bool(found))
        yield from found


def _stored() -> Iterator[Metric]:
    queue, done = mail.status(), totals.all_of_them()
    mails = GaugeMetricFamily("tiles_mail_queue", "Mails in the queue", labels=["state"])
    for state, number in (("waiting", queue.waiting), ("put_off", queue.retrying), ("given_up", queue.abandoned)):
        mails.add_metric([state], number)
    yield mails
    yield GaugeMetricFamily(
        "tiles_mails_blocked", "Mails that wait for the operator, as none leaves", sum(mail.blocked().values())
    )
    yield GaugeMetricFamily(
        "tiles_mail_queue_oldest_seconds", "Age of the oldest mail that was never tried", value=queue.oldest_seconds
    )
    tried = CounterMetricFamily("tiles_mails", "What became of mails that were tried", labels=["outcome"])
    for outcome in ("sent", "put_off", "given_up", "to_nobody", "over_limit"):
        tried.add_metric([outcome], done.get(f"mails_{outcome}", 0))
    yield tried
    erasures = GaugeMetricFamily("tiles_erasures_waiting", "Accounts that are to be erased", labels=["state"])
    for state, number in (("due_later", erasure.count_later()), ("overdue", erasure.count_due())):
        erasures.add_metric([state], number)
    yield erasures
    yield CounterMetricFamily("tiles_erasures", "Accounts that were erased", value=done.get("erasures", 0))


def exposition() -> bytes:
    """Return all of it in Prometheus' text format, version 0.0.4."""
    stored = CollectorRegistry()
    stored.register(_Stored())
    return generate_latest(metrics.registry()) + generate_latest(stored)
