"""Steps that several tests of limits share."""

import ipaddress
from types import SimpleNamespace

import pytest
from support import Service
from werkzeug.test import TestResponse

from backend.security import throttle

MINUTE, HOUR, DAY, MONTH = 60, 3600, 86400, 30 * 86400


class Moment:
    """The time that the limits read; it stands still until it is moved."""

    def __init__(self, start: float) -> None:
        self.now = start

    def time(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def stop_time(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """Return a moment of the past in the middle of every window, so that no window ends during a test."""
    moment = Moment(600 * MONTH + MONTH // 2 + DAY // 2 + HOUR // 2 + 5 * MINUTE // 2)
    monkeypatch.setattr(throttle, "time", SimpleNamespace(time=moment.time))
    return moment


def client(number: int) -> dict[str, str]:
    """Return the environment of a request from one of many addresses."""
    return {"REMOTE_ADDR": str(ipaddress.ip_address("198.18.0.0") + number)}


def post(service: Service, path: str, body: dict[str, str], sender: int = 0) -> TestResponse:
    return service.http.post(path, json=body, environ_overrides=client(sender))


def register(service: Service, email: str = "ada@example.org", sender: int = 0) -> TestResponse:
    return post(service, "/v1/registrations", {"name": "Ada", "email": email}, sender)


def ask_for_reset(service: Service, email: str = "ada@example.org", sender: int = 0) -> TestResponse:
    return post(service, "/v1/password-resets", {"email": email}, sender)


def sign_in(service: Service, email: str = "ada@example.org", sender: int = 0, password: str = "wrong") -> TestResponse:
    return post(service, "/v1/sessions", {"email": email, "password": password}, sender)
