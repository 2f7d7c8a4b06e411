"""Metrics and request ids: for the operator only, and without personal data."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from flask import Flask
from peers import wait_for
from prometheus_client.parser import text_string_to_metric_families
from server_process import ServerProcess
from support import PASSWORD, Person, Service, any_database, assert_problem, bearer

from backend import metrics
from backend.desk import operations
from backend.privacy import erasure
from backend.security.hashing import hasher

MakeService = Callable[..., Service]
DASHBOARD = Path(__file__).parents[2] / "backend" / "deployment" / "dashboard.json"
TOKEN = "a token of the tests and of nobody else"


class Metrics:
    """The samples of an exposition, by name and labels."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]


def read(service: Service) -> Metrics:
    response = service.http.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.content_type == "text/plain; version=1.0.0; charset=utf-8"
    return Metrics(response.text)


def requests_of(scraped: Metrics, method: str, route: str, status: int) -> float:
    labels = {"http_request_method": method, "http_route": route, "http_response_status_code": str(status)}
    return scraped.samples.get(("http_server_request_duration_seconds_count", frozenset(labels.items())), 0.0)


# Access


@any_database
def test_without_a_token_this_machine_is_answered_and_no_other(service: Service) -> None:
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert service.http.get("/metrics", environ_overrides={"REMOTE_ADDR": address}).status_code == 200
    for address in ("192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1", "", "unix:"):
        refused = service.http.get("/metrics", environ_overrides={"REMOTE_ADDR": address})
        assert_problem(refused, 404, "not-found")


def test_a_server_that_listens_on_ipv6_answers_this_machine(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, "--host", "::")
    server.url = f"http://[::1]:{server.port}"
    with server:
        # An IPv4 client is seen as ::ffff:127.0.0.1.
        for address in ("[::1]", "127.0.0.1"):
            url = f"http://{address}:{server.port}/metrics"
            assert httpx2.get(url).status_code == 200, address
            assert httpx2.get(url, headers={"X-Forwarded-For": "::1"}).status_code == 404


@pytest.mark.parametrize("proxies", [0, 1])
@any_database
def test_a_request_through_a_proxy_is_not_from_this_machine(make_service: MakeService, proxies: int) -> None:
    service = make_service(trusted_proxies=proxies)
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Proto"):
        for value in ("127.0.0.1", "for=127.0.0.1", ""):
            assert_problem(service.http.get("/metrics", headers={header: value}), 404, "not-found")


@any_database
def test_with_a_configured_token_only_the_token_gives_access_from_any_address(make_service: MakeService) -> None:
    service = make_service(metrics_token=TOKEN)
    far = {"REMOTE_ADDR": "192.0.2.1"}
    assert service.http.get("/metrics", headers=bearer(TOKEN), environ_overrides=far).status_code == 200
    ada = service.register()
    for headers in ({}, bearer(TOKEN[:-1]), bearer(f"{TOKEN}x"), ada.headers, {"Authorization": f"Basic {TOKEN}"},
                    {"Authorization": TOKEN}, bearer("")):  # fmt: skip
        for overrides in (far, {"REMOTE_ADDR": "127.0.0.1"}):
            refused = service.http.get("/metrics", headers=headers, environ_overrides=overrides)
            assert_problem(refused, 401, "unauthenticated")
    assert_problem(service.http.get("/v1/account", headers=bearer(TOKEN)), 401, "unauthenticated")


# Content


def test_requests_are_counted_by_route_and_status(service: Service, ada: Person) -> None:
    before = read(service)
    assert before("tiles_database_up") == 1
    service.http.get("/v1/account", headers=ada.headers)
    service.http.get("/v1/account")
    service.http.get("/ada@example.org")
    service.http.open("/v1/account", method="ADA")
    after = read(service)
    for method, route, status in (("GET", "/v1/account", 200), ("GET", "/v1/account", 401), ("_OTHER", "none", 404)):
        assert requests_of(after, method, route, status) - requests_of(before, method, route, status) == 1
    assert "example" not in str(after.samples)
    assert "ADA" not in str(after.samples)


def test_emails_are_counted_by_outcome(service: Service, move_clock: Callable[[timedelta], None]) -> None:
    ask = {"json": {"email": "ada@example.org"}}
    service.register(email="ada@example.org")
    before = read(service)
    service.http.post("/v1/password-resets", **ask)
    move_clock(timedelta(minutes=10))
    waiting = read(service)
    assert (waiting("tiles_mail_queue", state="waiting"), waiting("tiles_mail_queue_oldest_seconds")) == (1, 600)
    service.mail_server.refuse = "451 4.7.1 Greylisted"
    service.deliver()
    assert read(service)("tiles_mail_queue", state="put_off") == 1
    service.mail_server.refuse = "550 5.1.1 No such mailbox"
    move_clock(timedelta(hours=1))
    service.deliver()
    service.mail_server.refuse = None
    service.http.post("/v1/password-resets", json={"email": "nobody@example.org"})
    service.http.post("/v1/password-resets", **ask)
    service.deliver()
    after = read(service)
    assert after("tiles_mail_queue", state="given_up") == 1
    grown = {
        outcome: after("tiles_mails_total", outcome=outcome) - before("tiles_mails_total", outcome=outcome)
        for outcome in ("sent", "put_off", "given_up", "to_nobody")
    }
    assert grown == {"sent": 1, "put_off": 1, "given_up": 1, "to_nobody": 1}


def test_erasures_are_counted_from_the_day_they_are_due(
    service: Service, ada: Person, move_clock: Callable[[timedelta], None]
) -> None:
    service.run(operations.erase, ada.email)
    assert read(service)("tiles_erasures_waiting", state="due_later") == 1
    move_clock(timedelta(days=31))
    assert read(service)("tiles_erasures_waiting", state="overdue") == 1
    assert service.run(erasure.erase_due) == 1
    after = read(service)
    assert after("tiles_erasures_waiting", state="overdue") == 0
    assert after("tiles_erasures_total") == 1


@pytest.mark.parametrize("database_url", ["lost_sqlite", "lost_postgresql"], indirect=True)
def test_metrics_continue_without_the_database_and_report_it(service: Service) -> None:
    service.http.get("/readyz")
    scraped = read(service)
    assert scraped("tiles_database_up") == 0
    assert requests_of(scraped, "GET", "/readyz", 503) >= 1
    assert not [name for name, _ in scraped.samples if name.startswith(("tiles_mail", "tiles_erasure"))]


@any_database
def test_a_request_that_is_refused_as_the_hashers_line_is_full_is_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.app.app_context():
        monkeypatch.setattr(hasher(), "_line", threading.Semaphore(0))
    before = read(service)
    assert_problem(service.http.post("/v1/sessions", json={"email": "a@example.org", "password": PASSWORD}), 503,
                   "overloaded")  # fmt: skip
    after = read(service)
    assert after("tiles_hash_line_refused_total") - before("tiles_hash_line_refused_total") == 1
    assert after("tiles_hash_line") == 0


@pytest.mark.long
def test_each_process_reports_the_metrics_of_all_also_after_one_was_killed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--workers", "3") as server:
        requests = 60
        for _ in range(requests):
            # Each uses its own connection, so that every process gets some.
            assert httpx2.get(f"{server.url}/v1/account").status_code == 401
        for _ in range(3):
            assert requests_of(Metrics(httpx2.get(f"{server.url}/metrics").text), "GET", "/v1/account", 401) == requests
        (shared,) = metrics.IN_MEMORY.glob(f"{metrics.PREFIX}{server.pid}-*")
        assert shared.stat().st_mode & 0o077 == 0
        counting = {int(path.stem.rpartition("_")[2]) for path in shared.glob("histogram_*.db")}
        assert len(counting) > 1
        os.kill(min(counting), signal.SIGKILL)
        wait_for(lambda: is_up(f"{server.url}/metrics"))
        scraped = Metrics(httpx2.get(f"{server.url}/metrics").text)
        assert requests_of(scraped, "GET", "/v1/account", 401) == requests
    # The next server clears up after this one.
    with ServerProcess(tmp_path, "--workers", "2"):
        assert not shared.exists()


def is_up(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def test_the_dashboard_shows_every_metric_and_queries_no_other(app: Flask) -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    charted = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(r"\b(?:tiles|http_server)_\w+", target["expr"])
    }
    http = app.test_client()
    http.get("/healthz")
    exported = {family.name for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert {re.sub(r"_(bucket|count|total)$", "", name) for name in charted} == exported


# Logs


@pytest.mark.parametrize("trusted_proxies", [0, 1])
def test_events_have_the_id_that_a_trusted_proxy_gave_their_request_or_one_of_ours(
    tmp_path: Path, trusted_proxies: int
) -> None:
    good, bad = "0123456789abcdef" * 2, "ada@example.org"
    with ServerProcess(tmp_path, trusted_proxies=trusted_proxies) as server:
        for request_id in (good, bad, good.upper(), good + "0"):
            assert httpx2.get(f"{server.url}/{bad}", headers={"X-Request-Id": request_id}).status_code == 404
        # The log is written in batches of a tenth of a second.
        wait_for(lambda: server.log.count('"route":"none"') == 4)
    events = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    first, *others = [event["request_id"] for event in events if event.get("route") == "none"]
    assert (first == good) is bool(trusted_proxies)
    assert len({first, *others} - {good.upper(), good + "0", bad}) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in (first, *others))
    assert not re.search(r"\bada\b", server.log.lower())
