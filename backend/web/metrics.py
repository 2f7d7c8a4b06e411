"""The response to Prometheus: what the processes of this server measured, and the totals in the database."""

import logging
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy import select

from backend import metrics
from backend.database.engine import reading
from backend.database.models import Total
from backend.mail import queue
from backend.privacy import erasure
from backend.web.problems import DATABASE_AWAY

OUTCOMES = ("sent", "put_off", "given_up", "to_nobody", "over_limit")

log = logging.getLogger(__name__)


class _Stored(Collector):
    """The metrics from the database; while it is down, only that it is."""

    def collect(self) -> Iterable[Metric]:
        try:
            stored = list(_stored())
        except DATABASE_AWAY as error:
            log.warning("metrics without the database (%s)", type(error).__name__)
            stored = []
        up = GaugeMetricFamily("tiles_database_up", "Whether the database answers", value=bool(stored))
        return [up, *stored]


def _stored() -> Iterator[Metric]:
    status, blocked = queue.status(), sum(queue.blocked().values())
    with reading() as session:
        totals = {row.event: row.value for row in session.execute(select(Total.event, Total.value))}
    states = {"waiting": status.waiting, "put_off": status.retrying, "given_up": status.abandoned}
    yield _gauges("tiles_mail_queue", "Mails in the queue", states)
    yield GaugeMetricFamily("tiles_mails_blocked", "Mails that wait for the operator, as none leaves", blocked)
    oldest = "Age of the oldest mail that was never tried"
    yield GaugeMetricFamily("tiles_mail_queue_oldest_seconds", oldest, status.oldest_seconds)
    tried = CounterMetricFamily("tiles_mails", "What became of mails that were tried", labels=["outcome"])
    for outcome in OUTCOMES:
        tried.add_metric([outcome], totals.get(f"mails_{outcome}", 0))
    yield tried
    states = {"due_later": erasure.count_later(), "overdue": erasure.count_due()}
    yield _gauges("tiles_erasures_waiting", "Accounts that are to be erased", states)
    yield CounterMetricFamily("tiles_erasures", "Accounts that were erased", totals.get("erasures", 0))


def _gauges(name: str, meaning: str, states: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=["state"])
    for state, number in states.items():
        family.add_metric([state], number)
    return family


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format, version 0.0.4."""
    stored = CollectorRegistry()
    stored.register(_Stored())
    return generate_latest(metrics.registry()) + generate_latest(stored)
