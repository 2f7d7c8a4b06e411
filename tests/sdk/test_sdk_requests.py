"""The requests of the SDK, without a backend."""

import contextlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from simulated_service import (
    BASE,
    CALLS,
    CONTRACT,
    TOKEN,
    Driver,
    Kind,
    Service,
    answer_to,
    arguments_of,
    both_clients,
    every_call,
    problem,
)

import tiles_client
from tiles_client import AsyncClient, Client, ServiceUnreachable, TilesError, errors

README = Path(__file__).parents[2] / "client_sdk" / "README.md"
NOT_IN_THE_BODY = {"end_session": {"id"}, "send_feedback": {"key"}}


# Requests


@every_call
def test_every_call_is_documented_and_takes_its_arguments_by_name(name: str) -> None:
    assert set(CALLS) == set(CONTRACT)
    assert f"`{name}(" in README.read_text()
    for owner in (Client, AsyncClient, Client(base_url=BASE)):
        method = getattr(owner, name)
        assert inspect.getdoc(method)
        parameters = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
        assert {parameter.kind for parameter in parameters} <= {inspect.Parameter.KEYWORD_ONLY}


@both_clients
@every_call
def test_a_call_sends_its_line_of_the_contract(kind: Kind, name: str) -> None:
    driver = Driver(kind, Service(answer_to(name)))
    driver.call(name)
    (request,) = driver.service.requests
    line = CONTRACT[name]
    assert (request.method, request.url.raw_path.decode()) == (line.method, "/tiles" + line.path)
    assert request.headers.get("Authorization") == (f"Bearer {TOKEN}" if line.session else None)
    if line.method in {"GET", "DELETE"}:
        assert not request.content
    else:
        elsewhere = NOT_IN_THE_BODY.get(name, set())
        body = {argument: value for argument, value in arguments_of(name).items() if argument not in elsewhere}
        assert json.loads(request.content) == body


@both_clients
@every_call
def test_the_headers_are_a_fixed_set_that_tells_nothing(kind: Kind, name: str) -> None:
    tracking = httpx2.Response(200, headers={"Set-Cookie": "who=you; Path=/", "ETag": '"you"'})
    driver = Driver(kind, Service(tracking, answer_to(name)))
    with contextlib.suppress(TilesError):
        driver.call(name)
    driver.call(name)
    for request in driver.service.requests:
        headers = dict(request.headers)
        for optional in ("authorization", "content-length"):
            headers.pop(optional, None)
        if name == "send_feedback":
            assert headers.pop("idempotency-key") == "the-key"
        if request.content:
            assert headers.pop("content-type") == "application/json"
        assert headers == {
            "host": "accounts.example.org",
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": "tiles-client",
        }


def test_any_text_is_sent_and_a_lone_surrogate_is_left_for_the_service_to_refuse() -> None:
    driver = Driver(Client, Service(answer_to("register")))
    driver.call("register", name="Ærlig 🦊 \ud800 \x00", email='a"\\@example.org')
    body = driver.service.requests[0].content
    assert "Ærlig 🦊".encode() in body
    assert json.loads(body) == {"name": "Ærlig 🦊 \ud800 \x00", "email": 'a"\\@example.org'}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [*[("end_session", "id", value) for value in ("", ".", "..")],
     *[("send_feedback", "key", value) for value in ("", "a b", "a\r\nX: y", "schl\u00fcssel", "a\n")]],
)  # fmt: skip
def test_a_value_that_would_change_the_path_or_a_header_is_refused(name: str, argument: str, value: str) -> None:
    driver = Driver(Client, Service(answer_to(name)))
    with pytest.raises(ValueError, match=rf"^{argument}: "):
        driver.call(name, **{**arguments_of(name), argument: value})
    assert not driver.service.requests


# Idempotency keys


def keys_of(service: Service) -> list[str]:
    return [request.headers["Idempotency-Key"] for request in service.requests]


@both_clients
def test_each_feedback_has_its_own_key_in_all_attempts(kind: Kind, pauses: list[float]) -> None:
    driver = Driver(kind, Service(httpx2.ReadTimeout(""), problem("overloaded", 503), answer_to("send_feedback")))
    driver.send("send_feedback", message="More tiles, please.")
    driver.send("send_feedback", message="More tiles, please.", key=None)
    first, second, third, other = keys_of(driver.service)
    assert first == second == third != other
    assert all(len(key) == 32 and key.isalnum() for key in (first, other))
    assert len(pauses) == 2


@pytest.mark.usefixtures("pauses")
def test_feedback_keeps_the_key_that_the_app_passes() -> None:
    lost, later = Service(httpx2.ReadTimeout("")), Service(answer_to("send_feedback"))
    with pytest.raises(ServiceUnreachable):
        Driver(Client, lost).send("send_feedback", message="More tiles, please.", key="message-17")
    Driver(AsyncClient, later).send("send_feedback", message="More tiles, please.", key="message-17")
    assert keys_of(lost) + keys_of(later) == ["message-17"] * 4
    assert json.loads(later.requests[0].content) == {"message": "More tiles, please."}


@both_clients
def test_feedback_of_an_ended_session_becomes_anonymous_only_when_sent_again(kind: Kind) -> None:
    driver = Driver(kind, Service(problem("unauthenticated", 401), answer_to("send_feedback")))
    assert isinstance(driver.failure("send_feedback"), errors.Unauthenticated)
    assert len(driver.service.requests) == 1
    driver.call("send_feedback")
    # Without a session, feedback is anonymous.
    assert ["Authorization" in request.headers for request in driver.service.requests] == [True, False]
    assert keys_of(driver.service) == ["the-key", "the-key"]


# Addresses and tokens

GOOD = ["https://accounts.example.org", "https://accounts.example.org:8443/tiles/", "http://127.0.0.1:8000",
        "http://[::1]:8000", "http://localhost"]  # fmt: skip
BAD = ["", "accounts.example.org", "https://", "http://accounts.example.org", "http://127.0.0.1.example.org",
       "http://localhost.example.org", "http://127.0.0.1@example.org", "ftp://127.0.0.1",
       "https://ada:hidden@example.org", "https://example.org/?hidden=1", "https://example.org/#hidden",
       "https://example.org:hidden"]  # fmt: skip


@pytest.mark.parametrize("address", GOOD)
def test_https_and_loopback_addresses_are_accepted(address: str) -> None:
    Client(base_url=address).close()


@pytest.mark.parametrize("address", BAD)
@both_clients
def test_any_other_address_is_refused_with_advice(kind: Kind, address: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url: write https://") as raised:
        kind(base_url=address)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("token", ["", "hidden\r\nX: y", "hidden token", "hiddené", "hidden\n"])
def test_a_malformed_session_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match=r"^session_token: ") as raised:
        Client(base_url=BASE, session_token=token)
    assert "hidden" not in str(raised.value)


# The package


def test_each_error_is_documented_importable_and_in_the_tree_of_the_readme() -> None:
    (tree,) = re.findall(r"^```\n(TilesError\b.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    declared = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, TilesError)]
    for error in declared:
        assert vars(error)["__doc__"]
        assert re.search(rf"\b{error.__name__}\b", tree)
    assert {error.__name__ for error in declared} <= set(tiles_client.__all__)
    assert all(hasattr(tiles_client, name) for name in tiles_client.__all__)


def test_it_has_under_700_lines() -> None:
    files = Path(tiles_client.__file__).parent.glob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) < 700


def test_importing_it_loads_little_besides_the_http_library() -> None:
    probe = "import sys, httpx2; known = {*sys.modules}; import tiles_client; print(*sys.modules.keys() - known)"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout.split()
    assert {name for name in loaded if not name.startswith("tiles_client")} <= {"dataclasses", "random", "email.utils"}
