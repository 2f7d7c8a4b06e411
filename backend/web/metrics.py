"""Metrics for Prometheus: those of this server's processes, and those of the database."""

import hmac
import logging
from collections.abc import Iterator

from flask import request
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy import select

from backend import metrics
from backend.config import settings
from backend.database.engine import reading
from backend.database.service_tables import Total
from backend.errors import NotFound, Unauthenticated
from backend.mail import queue
from backend.privacy import erasure
from backend.values import is_loopback
from backend.web.problems import DATABASE_AWAY, bearer_token

# A reverse proxy sets one of these (RFC 7239; RFC 9110, section 7.6.3).
PROXY_HEADERS = {"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "Via"}

OUTCOMES = ("sent", "put_off", "given_up", "to_nobody", "over_limit")

log = logging.getLogger(__name__)


def require_operator() -> None:
    """Check that the client may read metrics.

    Raises:
        Unauthenticated: it did not send the metrics token.
        NotFound: there is no such token, and the request is not from this machine or came through a proxy.
    """
    if expected := settings().metrics_token:
        if not hmac.compare_digest(bearer_token().encode(), expected.get_secret_value().encode()):
            raise Unauthenticated("Send TILES_METRICS_TOKEN as Authorization: Bearer.")
    elif PROXY_HEADERS & set(request.headers.keys()) or not is_loopback(request.remote_addr or ""):
        raise NotFound


class _Database(Collector):
    """The metrics of the database; only that it is away if it is."""

    def collect(self) -> Iterator[Metric]:
        """Read the metrics."""
        try:
            stored = list(_stored())
        except DATABASE_AWAY as error:
            log.warning("metrics without the database (%s)", type(error).__name__)
            stored = []
        yield GaugeMetricFamily("tiles_database_up", "Whether the database responds", value=bool(stored))
        yield from stored


def _stored() -> Iterator[Metric]:
    mails = queue.status()
    with reading() as session:
        done = {row.event: row.value for row in session.execute(select(Total.event, Total.value))}
    blocked, oldest = sum(queue.blocked().values()), mails.oldest_seconds
    states = {"waiting": mails.waiting, "put_off": mails.retrying, "given_up": mails.abandoned}
    outcomes = {name: done.get(f"mails_{name}", 0) for name in OUTCOMES}
    waiting = {"due_later": erasure.count_later(), "overdue": erasure.count_due()}
    yield _labelled(GaugeMetricFamily("tiles_mail_queue", "Emails in the queue", labels=["state"]), states)
    yield GaugeMetricFamily("tiles_mails_blocked", "Emails that wait for the operator, as none leaves", blocked)
    yield GaugeMetricFamily("tiles_mail_queue_oldest_seconds", "Age of the oldest email that was never tried", oldest)
    yield _labelled(CounterMetricFamily("tiles_mails", "Tried emails by outcome", labels=["outcome"]), outcomes)
    yield _labelled(GaugeMetricFamily("tiles_erasures_waiting", "Accounts to be erased", labels=["state"]), waiting)
    yield CounterMetricFamily("tiles_erasures", "Erased accounts", done.get("erasures", 0))


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, values: dict[str, int]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    stored = CollectorRegistry()
    stored.register(_Database())
    return generate_latest(metrics.registry()) + generate_latest(stored)
